"""Write the measured figures into the tables of README.md and docs/performance.md.

    python benchmarks/table.py --write

replaces the text between the marks of each table; without --write the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CASES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SUMMARY = ("suite", "suite_without_prediction", "silhouette_label", "clustering", "score_file", "drop_in_benchmarker")
"""Cases that the README shows."""


def summary_table(results: Path = HERE / "results") -> str:
    """Return the README's table: whole processes of a few cases, and the machine."""
    reports = [json.loads((results / f"{id_}.json").read_text()) for id_ in SUMMARY]
    rows = []
    for report in reports:
        state = report["states"]["warm" if "warm" in report["states"] else "cold"]
        median, ratio = state["median"], state["peer_over_ours"]["process_s"]
        seconds = (_with_unit(median[side]["process_s"], "process_s") for side in ("peer", "ours"))
        rows.append(
            f"| {' | '.join([report['what'], _shape(report), report['peer'], *seconds, f'**{ratio:.3g} ×**'])} |"
        )
    head = ["| | cells | peer | peer's time | gpubench | faster |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", f"Measured on {_machines(reports)}, without a GPU."]) + "\n"


def table(results: Path = HERE / "results") -> str:
    """Return the table of all cases that have a result, and the machines they were measured on."""
    reports = [json.loads(path.read_text()) for case in CASES if (path := results / f"{case.id}.json").exists()]
    if not reports:
        return ""
    head = [
        "| | cells | peer | caches | fresh process | the same call again |",
        "|---|---|---|---|---|---|",
    ]
    notes = [
        "",
        "Peer → gpubench, medians. A fresh process counts interpreter, imports, reading and one call; of the",
        "neighbours only the call is timed. The caches are numba's, which the peers use: warm where they are filled,",
        "cold where the peers compile first; gpubench compiles nothing when it runs.",
        f"Measured on {_machines(reports)}; every run, with versions and commit, is in `benchmarks/results/`.",
    ]
    return "\n".join([*head, *map(_row, reports), *notes]) + "\n"


def _row(report: dict[str, Any]) -> str:
    states = report["states"]
    caches = "warm" if "warm" in states else "cold"
    again = _figure(states[caches], "second_call_s") if report["peer"] else ""
    row = [report["what"], _shape(report), report["peer"], caches, _figure(states[caches], report["figure"]), again]
    return f"| {' | '.join(row)} |"


def _shape(report: dict[str, Any]) -> str:
    cells = report["cells"]
    return f"{cells['n']:,} × {cells['d']}" if cells else report["file"] or ""


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


def _machines(reports: list[dict[str, Any]]) -> str:
    machines = (report["machine"] for report in reports)
    texts = {f"{m['cpu']}, {m['cores']} cores, {m['memory_bytes'] / 1e9:.0f} GB" for m in machines}
    return " and on ".join(sorted(texts))


def _table_from(path: Path, head: list[str], row: Callable[[dict[str, Any]], str]) -> str:
    """Return a table of the rows of a result file, or an empty text if there is no such file."""
    if not path.exists():
        return ""
    return "\n".join([*head, *map(row, json.loads(path.read_text())["rows"])]) + "\n"


def neighbors_table(results: Path = HERE / "results") -> str:
    """Return the table of neighbour graphs compared with other packages at the same recall."""
    head = [
        "| neighbours | intrinsic dimension | gpubench | pynndescent, warm | pynndescent, cold | faiss IVF |",
        "|---|---|---|---|---|---|",
    ]
    return _table_from(results / "neighbors.json", head, _neighbors_row)


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
    """Return the table of whole suites of growing size."""
    head = ["| cells | label prediction | time | memory at the peak |", "|---|---|---|---|"]
    return _table_from(results / "scale.json", head, _scale_row)


def _scale_row(row: dict[str, Any]) -> str:
    forests = "lr, knn, rf" if row["forests"] else "lr, knn"
    minutes, seconds = divmod(round(row["seconds"]), 60)
    busy = "" if row["machine"].get("idle", True) else ", on a machine in use"
    time = f"{minutes} min {seconds} s{busy}" if minutes else f"{seconds} s"
    return f"| {row['n']:,} × {row['d']} | {forests} | {time} | {row['peak_bytes'] / 1e9:.3g} GB |"


def leiden_table(results: Path = HERE / "results") -> str:
    """Return the table of implementations of Leiden: processor time, memory and quality."""
    head = [
        "| cells | implementation | processor time | memory | modularity | ARI with the labels | ARI between seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    return _table_from(results / "leiden.json", head, _leiden_row)


def _leiden_row(row: dict[str, Any]) -> str:
    cells = [f"{row['n']:,}", LEIDEN[row["method"]]]
    if "not_ended_within_s" in row:
        cells += [f"stopped after {row['not_ended_within_s']:.0f} s", "", "", "", ""]
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


def perturbation_table(results: Path = HERE / "results") -> str:
    """Return the table of whole runs on a screen of perturbations, compared with the packages' command lines."""
    head = [
        "| profile | peer | processor time | ratio | memory at the peak |",
        "|---|---|---|---|---|",
    ]
    return _table_from(results / "perturbation.json", head, _perturbation_row)


def _perturbation_row(row: dict[str, Any]) -> str:
    seconds, memory = (
        [row["spread"][side][name] for side in ("peer", "ours")] for name in ("processor_s", "peak_bytes")
    )
    times = " → ".join(f"{s['median']:.3g} s ({s['min']:.3g} to {s['max']:.3g})" for s in seconds)
    peaks = " → ".join(_with_unit(s["median"], "peak_bytes") for s in memory)
    case, ratio = row["case"], row["peer_over_ours"]["processor_s"]
    return f"| `{case['profile']}`, {case['kind']} | {case['peer']} | {times} | **{ratio:.3g} times** | {peaks} |"


TABLES = {
    "README.md": {"summary": summary_table},
    "docs/performance.md": {
        "speed": table,
        "scale": scale_table,
        "neighbours": neighbors_table,
        "leiden": leiden_table,
        "perturbations": perturbation_table,
    },
}
"""Page -> name in its marks -> function that writes the table between them."""


def with_tables(page: str, text: str) -> str:
    """Return the text of a page with each table between its marks."""
    for name, write in TABLES[page].items():
        before, begin, rest = text.partition(f"<!-- {name}: written by python benchmarks/table.py --write -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        text = f"{before}{begin}{write()}{end}{after}"
    return text


def main() -> None:
    """Print the tables, or write them into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them into README.md and docs/performance.md")
    write = parser.parse_args().write
    for page, tables in TABLES.items():
        if write:
            (ROOT / page).write_text(with_tables(page, (ROOT / page).read_text()))
        else:
            print(*(make() for make in tables.values()), sep="\n")


if __name__ == "__main__":
    main()
