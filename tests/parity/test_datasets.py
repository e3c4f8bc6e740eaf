"""The bundled catalogue says of every dataset what cz-benchmarks says."""

from __future__ import annotations

from pathlib import Path

from gpubench.datasets.catalogue import read_catalogues


def test_addresses_and_columns_are_those_of_czbenchmarks() -> None:
    import czbenchmarks

    theirs = Path(czbenchmarks.__file__).parent / "conf" / "datasets.yaml"
    ours = read_catalogues()
    both = read_catalogues([theirs])
    assert set(both) == set(ours)
    assert sum(entry.where.startswith(str(theirs)) for entry in both.values()) == 38
    for id_, entry in both.items():
        own = ours[id_]
        assert (entry.path, entry.organism, entry.label) == (own.path, own.organism, own.label)
        assert (entry.condition, entry.control) == (own.condition, own.control)
