"""Writes the measured figures as the README's tables of speed.

    python benchmarks/table.py --write

puts each between the README's marks for it; without --write they are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CASES

HERE = Path(__file__).resolve().parent


def table(results: Path = HERE / "results") -> str:
    """The table of all cases that have a result, and the machines they were measured on."""
    reports = [json.loads(path.read_text()) for case in CASES if (path := results / f"{case.id}.json").exists()]
    if not reports:
        return ""
    head = [
        "| | cells | peer | caches | fresh process | the same call again |",
        "|---|---|---|---|---|---|",
    ]
    machines = sorted({_machine(report) for report in reports})
    notes = [
        "",
        "Peer → gpubench, medians. A fresh process counts interpreter, imports, reading and one call; of the",
        "neighbours only the call is timed. The caches are numba's, which the peers use: warm where they are filled,",
        "cold where the peers compile first; gpubench compiles nothing when it runs.",
        f"Measured on {' and on '.join(machines)}; every run, with versions and commit, is in `benchmarks/results/`.",
    ]
    return "\n".join([*head, *map(_row, reports), *notes]) + "\n"


def _row(report: dict[str, Any]) -> str:
    cells, states = report["cells"], report["states"]
    shape = f"{cells['n']:,} × {cells['d']}" if cells else report["file"] or ""
    caches = "warm" if "warm" in states else "cold"
    again = _figure(states[caches], "second_call_s") if report["peer"] else ""
    row = [report["what"], shape, report["peer"], caches, _figure(states[caches], report["figure"]), again]
    return f"| {' | '.join(row)} |"


def _figure(state: dict[str, Any], name: str) -> str:
    if name not in state["median"]["ours"]:
        return ""
    ours = _with_unit(state["median"]["ours"][name], name)
    if "peer_over_ours" not in state:
        return ours
    theirs = _with_unit(state["median"]["peer"][name], name)
    return f"{theirs} → {ours}: **{state['peer_over_ours'][name]:.3g} times**"


def _with_unit(value: float, figure: str) -> str:
    return f"{value / 1e9:.3g} GB" if figure.endswith("_bytes") else f"{value:.3g} s"


def _machine(report: dict[str, Any]) -> str:
    machine = report["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB"


def _of_report(path: Path, head: list[str], row: Callable[[dict[str, Any]], str]) -> str:
    """A table of the rows of a report; empty where it has not been made."""
    if not path.exists():
        return ""
    return "\n".join([*head, *map(row, json.loads(path.read_text())["rows"])]) + "\n"


def neighbors_table(results: Path = HERE / "results") -> str:
    """The table of neighbour graphs beside other packages, at the recall that was asked for."""
    head = [
        "| neighbours | intrinsic dimension | gpubench | pynndescent, warm | pynndescent, cold | faiss IVF |",
        "|---|---|---|---|---|---|",
    ]
    return _of_report(results / "neighbors.json", head, _neighbors_row)


def _neighbors_row(row: dict[str, Any]) -> str:
    graph = row["graph"]
    what = f"{graph['k']} of {graph['n']:,} × {graph['d']}, recall {graph['recall']}"
    ours = row["median_s"]["gpubench"]
    cells = [what, str(row["intrinsic"]), f"{ours:.3g} s"]
    for method in ("pynndescent_warm", "pynndescent_cold", "faiss_ivf"):
        seconds = row["median_s"].get(method)
        cells.append("" if seconds is None else f"{seconds:.3g} s: **{seconds / ours:.3g} times**")
    return f"| {' | '.join(cells)} |"


def scale_table(results: Path = HERE / "results") -> str:
    """The table of whole suites of more and more cells."""
    head = ["| cells | label prediction | time | memory at the peak |", "|---|---|---|---|"]
    return _of_report(results / "scale.json", head, _scale_row)


def _scale_row(row: dict[str, Any]) -> str:
    forests = "lr, knn, rf" if row["forests"] else "lr, knn"
    minutes, seconds = divmod(round(row["seconds"]), 60)
    busy = "" if row["machine"].get("idle", True) else ", on a machine in use"
    time = f"{minutes} min {seconds} s{busy}" if minutes else f"{seconds} s"
    return f"| {row['n']:,} × {row['d']} | {forests} | {time} | {row['peak_bytes'] / 1e9:.3g} GB |"


def leiden_table(results: Path = HERE / "results") -> str:
    """The table of implementations of Leiden: processor time, memory and quality."""
    head = [
        "| cells | implementation | processor time | memory | modularity | ARI with the labels | ARI between seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    return _of_report(results / "leiden.json", head, _leiden_row)


def _leiden_row(row: dict[str, Any]) -> str:
    cells = [f"{row['n']:,}", LEIDEN[row["method"]]]
    if "not_ended_within_s" in row:
        cells += [f"not ended after {row['not_ended_within_s']:.0f} s", "", "", "", ""]
    else:
        between = row["ari_between_seeds"]
        cells += [f"{row['processor_s']:.3g} s", f"{row['peak_bytes'] / 1e9:.2g} GB", f"{row['modularity']:.4f}"]
        cells += [f"{row['ari_label']:.3f}", "" if between is None else f"{between:.3f}"]
    return f"| {' | '.join(cells)} |"


LEIDEN = {
    "igraph_both": "igraph, every edge in both directions, as scanpy calls it",
    "igraph_once": "igraph, every edge once",
    "leidenalg": "leidenalg",
    "networkit_all": "networkit on all cores",
    "networkit_one": "networkit on one thread",
}

TABLES = {"speed": table, "neighbours": neighbors_table, "scale": scale_table, "leiden": leiden_table}
"""Name in the README's marks -> what writes the table between them."""


def with_tables(readme: str) -> str:
    """The README's text with each table between its marks."""
    for name, write in TABLES.items():
        before, begin, rest = readme.partition(f"<!-- {name}: written by python benchmarks/table.py --write -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        readme = f"{before}{begin}{write()}{end}{after}"
    return readme


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into the README")
    if parser.parse_args().write:
        readme = HERE.parent / "README.md"
        readme.write_text(with_tables(readme.read_text()))
    else:
        print(*(write() for write in TABLES.values()), sep="\n", end="")


if __name__ == "__main__":
    main()
