"""What shells offer when the tab key is pressed: names that exist. Where nothing fits, they offer files."""

from __future__ import annotations

from collections.abc import Iterable


def dataset_ids(incomplete: str) -> list[str]:
    """Datasets of the catalogues."""
    from gpubench import datasets

    return _beginning(datasets.ids(), incomplete) if incomplete else []  # files first, where nothing is typed yet


def task_ids(incomplete: str) -> list[str]:
    """Tasks."""
    from gpubench.tasks import TASKS

    return _beginning(TASKS, incomplete)


def option_names(incomplete: str) -> list[str]:
    """Parameters of the tasks, ready for their value."""
    from dataclasses import fields

    from gpubench.tasks import Options

    return _beginning((f"{field.name}=" for field in fields(Options)), incomplete)


def engine_names(incomplete: str) -> list[str]:
    """Engines."""
    from gpubench.engines import ENGINES

    return _beginning(("auto", *ENGINES), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
