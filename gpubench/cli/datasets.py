"""The commands `gpubench datasets ...`."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Annotated, Any

import typer

from gpubench.cli.commands import Command, Group
from gpubench.cli.errors import EXIT_INTERRUPTED
from gpubench.cli.flags import completion
from gpubench.core.units import bytes_text
from gpubench.running.options import SPECS

_EPILOG = """A catalogue of your own is a YAML file that adds datasets, or overrides fields of existing ones:

  datasets:

    mine: {path: cells/mine.h5ad, label: cell_type, batch: donor}

    theirs: {path: s3://bucket/theirs.h5ad, label: cell_type}

An entry may have path, title, organism, label, batch, time, species, sample, condition, control, sha256 and size. \
Paths are relative to the catalogue's folder.

It is ~/.config/gpubench/datasets.yaml, or named by --catalogue or GPUBENCH_CATALOGUE (several are separated by :). \
A datasets.yaml of cz-benchmarks is read too.

GPUBENCH_CACHE names the cache folder; GPUBENCH_OFFLINE=1 disables network access.
"""

_CHECKED = {
    "sha256": "by the SHA-256 of the catalogue",
    "md5": "by the MD5 that the server keeps",
    "size": "by its size alone: no checksum is published",
}

app = typer.Typer(
    cls=Group,
    rich_markup_mode="rich",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Catalogues = Annotated[
    list[str] | None, typer.Option("--catalogue", metavar="FILE", help="Read this catalogue as well. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


_id = partial(typer.Argument, metavar="ID", autocompletion=completion(SPECS["data"]))


@app.callback(invoke_without_command=True)
def _datasets(context: typer.Context) -> None:
    """List, describe and fetch the datasets of the cz-benchmarks suite, and your own."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list", cls=Command)
def list_(catalogue: _Catalogues = None, json_: Json = False) -> None:
    """List the datasets: names, whether they are in the cache, titles."""
    from gpubench.datasets.cache import facts
    from gpubench.datasets.catalogue import read_catalogues
    from gpubench.results.table import TextTable, print_blocks

    known = [facts(entry) for entry in read_catalogues(catalogue or []).values()]
    rows = tuple((one["id"], _state(one), one["title"] or "") for one in known)
    print_json(known) if json_ else print_blocks([TextTable("", ("dataset", "state", "title"), rows)], sys.stdout)


@app.command(cls=Command)
def info(
    id_: Annotated[str, _id(help="Name of a dataset.")], catalogue: _Catalogues = None, json_: Json = False
) -> None:
    """Show all facts about a dataset: address, columns, where its file is and how it was checked."""
    from gpubench import datasets
    from gpubench.datasets.cache import facts

    known = facts(datasets.info(id_, catalogue=catalogue or []))
    print_json(known) if json_ else _echo_facts(known)


@app.command(cls=Command)
def fetch(
    ids: Annotated[list[str], _id(help="Names of datasets.")],
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the server for a newer version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    catalogue: _Catalogues = None,
    json_: Json = False,
) -> int:
    """Fetch datasets into the cache; downloads are checked, and resumed after an interruption."""
    from gpubench import datasets
    from gpubench.datasets.cache import facts

    # an unknown name is an error before anything is fetched
    entries = [datasets.info(id_, catalogue=catalogue or []) for id_ in dict.fromkeys(ids)]
    known = []
    try:
        for entry in entries:
            datasets.fetch(entry.id, refresh=refresh, catalogue=catalogue or [], progress=not quiet)
            known.append(facts(entry))
            if not (json_ or quiet):
                typer.echo(_fetched(known[-1]))
    except KeyboardInterrupt:
        sys.stderr.write("gpubench: interrupted; the next fetch resumes the download\n")
        return EXIT_INTERRUPTED
    finally:
        if json_:
            print_json(known)
    return 0


@app.command(cls=Command)
def path(
    id_: Annotated[str, _id(help="Name of a dataset.")], catalogue: _Catalogues = None, json_: Json = False
) -> None:
    """Print the path of a dataset's file without fetching anything."""
    from gpubench import datasets

    place = str(datasets.path(id_, catalogue=catalogue or []))
    print_json({"id": id_, "file": place}) if json_ else typer.echo(place)


def _state(known: dict[str, Any]) -> str:
    return f"cached, {bytes_text(known['size'])}" if known["state"] == "cached" else str(known["state"])


def _echo_facts(known: dict[str, Any]) -> None:
    """Print the known facts about a dataset, one per line."""
    texts = {
        key: f"{value:,} bytes" if key == "size" else _CHECKED[value] if key == "checked" else value
        for key, value in known.items()
        if value is not None
    }
    texts["catalogue"] = texts.pop("where")
    width = max(map(len, texts))
    for key, text in texts.items():
        typer.echo(f"{key:<{width}}  {text}")


def _fetched(known: dict[str, Any]) -> str:
    if known["state"] == "local":
        return f"{known['id']}: {known['file']}"
    return f"{known['id']}: {known['file']} ({bytes_text(known['size'])}, checked {_CHECKED[known['checked']]})"


def print_json(content: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
