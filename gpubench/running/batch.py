"""Score the runs of a run file one after the other, each into its own folder, and write a table of all scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpubench.comparison.best import default_resampler, mark_best
from gpubench.core import machine
from gpubench.core.checkpoint import Checkpoint
from gpubench.core.errors import InputError
from gpubench.core.files import write_atomically
from gpubench.core.units import bytes_text, seconds_text
from gpubench.data.urls import Url, file_of
from gpubench.datasets.lookup import is_dataset_name
from gpubench.results import table
from gpubench.results.result import Result
from gpubench.results.runs import columns_of, comparable_groups, named_rows, rank_blocks, source_of
from gpubench.results.score_table import score_blocks, summarize
from gpubench.running import score
from gpubench.running.options import FILES, SPECS
from gpubench.running.output import OPTIONAL, Output, texts

if TYPE_CHECKING:
    from pathlib import Path

    from gpubench.core.timeline import Listener
    from gpubench.datasets.catalogue import CatalogueEntry
    from gpubench.results.table import Lines, TextTable
    from gpubench.running.plan import Plan
    from gpubench.running.run_file import PlannedRun

MAX_TABLES = 4
"""Maximum number of datasets whose scores are printed; for more, only mean ranks are."""

TABLE = "runs.csv"
"""File with the scores of all runs, in the folder that contains their folders."""


def output_of(plan: PlannedRun, every: Output) -> Output:
    """Return the output of one run of a run file.

    Its folder is a subfolder of the folder of `every` (the output of all runs) and has the run's name. JSON is always
    among its formats.
    """
    formats = list(dict.fromkeys(["json", *every.formats]))
    return replace(every, folder=every.folder / plan.name, formats=formats, report=False)


def score_run(plan: PlannedRun, output: Output, listener: Listener | None) -> tuple[Result, list[str]]:
    """Score one run and write its files, unless its folder has the complete result of the same inputs.

    Errors name the line of the run file.

    Returns
    -------
    result, lines
        The new or the earlier result, and lines of text about the files.
    """
    digest = _digest(plan)
    before = _finished(output, digest)
    if before is not None:
        return before, [f"Reused the complete result in {output.folder}"]
    with plan.named_in_errors(), Checkpoint(output.folder) as checkpoint:
        result = score.score_run(plan.options, listener=listener, checkpoint=checkpoint, check=output.check_replaced)
        result.provenance["run"] = {"name": plan.name, "digest": digest}
        lines = [] if result.interrupted and not result.results else output.write(result)
        return result, lines + checkpoint.end(complete=not (result.interrupted or result.failures))


def check_runs(plans: Sequence[PlannedRun], outputs: Mapping[str, Output]) -> list[InputError]:
    """Check the data of every run, and the files that its results would replace, without computing anything.

    Returns the errors, empty if every run can start. Datasets that must be fetched first are checked when their run
    begins. `outputs` maps the name of a run to its output.
    """
    problems = []
    for plan in plans:
        output = outputs.get(plan.name)
        try:
            with plan.named_in_errors():
                if output is not None:
                    output.check()
                    output.check_inputs(plan.options)
                    if is_complete(plan, output):
                        continue
                facts = score.check_run(plan.options)
                if facts is not None and output is not None:
                    output.check_replaced(facts)
        except InputError as error:
            problems.append(error)
    return problems


def is_complete(plan: PlannedRun, output: Output) -> bool:
    """Whether the folder has the complete result of an earlier run with the same inputs, which would be reused."""
    return _finished(output, _digest(plan)) is not None


def sum_text(plans: Mapping[str, Plan]) -> str:
    """Format the total time and the largest peak memory of several plans."""
    largest = max(plans, key=lambda name: plans[name].peak_bytes)
    seconds = sum(plan.seconds for plan in plans.values())
    runs = "1 run" if len(plans) == 1 else f"{len(plans)} runs"
    return (
        f"{runs}: about {seconds_text(seconds)}; at most {bytes_text(plans[largest].peak_bytes)}, held by {largest!r}."
    )


def write_table(results: Mapping[str, Result], folder: Path) -> str:
    """Write the scores of all runs to one CSV file, whose column "run" names the run.

    `results` maps the name of a run to its result. Returns a line of text that names the file.
    """
    import pandas as pd

    scores = [row for result in results.values() for row in result.results]
    names = [name for name, result in results.items() for _ in result.results]
    frame = pd.DataFrame({"run": names, **table.to_columns(scores)})
    text = frame.to_csv(index=False).encode("utf-8", "backslashreplace")
    write_atomically(folder / TABLE, lambda file: file.write(text))
    return f"Wrote {folder / TABLE}"


def score_blocks_of(results: Mapping[str, Result], width: int | None) -> Iterator[TextTable | Lines]:
    """Yield tables of the scores of several runs, with embeddings of the same dataset side by side.

    Runs on more than `MAX_TABLES` datasets only get a table of mean ranks. `results` maps the name of a run to its
    result; `width` is the maximum width in characters, None for any width.
    """
    groups = {}
    for group in comparable_groups(results):
        source = source_of(group)
        groups[source if source not in groups else f"{source} ({', '.join(group)})"] = group
    scored = {source: named_rows(group) for source, group in groups.items()}
    if len(scored) <= MAX_TABLES:
        for source, rows in scored.items():
            summary = summarize(rows)
            columns = columns_of(groups[source])
            cells = [result.cells for _, result, _ in columns]
            tables = [result.perturbations for _, result, _ in columns]
            resampler = default_resampler(max(one.n_cells for one in cells))
            best = mark_best([row.cells for row in summary.rows], cells, resampler=resampler, tables=tables)
            yield table.Lines([source], style="bold")
            yield from score_blocks(summary, width=width, best=best)
    if len(scored) > 1 and len({row.embedding for rows in scored.values() for row in rows}) > 1:
        yield from rank_blocks(scored, width)


def _digest(plan: PlannedRun) -> str | None:
    """Return a digest of everything that determines the scores of a run.

    That is its options, the current state of its files and datasets, and the version of gpubench. None if a change of
    an input would go unnoticed: a store of many files, or a server that does not identify versions.
    """
    asked = {name: getattr(plan.options, name) for name in SPECS}
    datasets = _catalogued(plan.options.data)
    local = [entry.path for entry in datasets if entry and entry.path and not entry.is_remote]
    files: dict[str, Sequence[Any]] = {}
    for text in [*texts([asked[name] for name, spec in SPECS.items() if spec.kind in FILES]), *local]:
        path = file_of(text)
        if isinstance(path, Url):
            identity = () if path.suffix == ".zarr" else path.require("data").identity
            if not identity:
                return None
            files[text] = identity
            continue
        if path.is_dir():
            return None
        if path.is_file():
            stat = path.stat()
            files[text] = [stat.st_size, stat.st_mtime_ns]
    asked |= {"scorers": sorted(plan.options.scorers or ()), "options": plan.options.options.to_dict()}
    content = [asked, files, list(map(repr, datasets)), machine.package_version(machine.DISTRIBUTION)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _catalogued(data: Any) -> list[CatalogueEntry | None]:
    """Return the catalogue entry of each dataset named in `data`; None for a name that no catalogue has any more."""
    names = [text for text in texts(data) if is_dataset_name(text)]
    if not names:
        return []
    from gpubench.datasets.catalogue import read_catalogues

    entries = read_catalogues()
    return [entries.get(name) for name in names]


def _finished(output: Output, digest: str | None) -> Result | None:
    """Return the result in a folder if it is complete, has this digest, and all its files exist; otherwise None."""
    if digest is None or not all(file.is_file() for file in output.files() if file.name not in OPTIONAL):
        return None
    try:
        result = Result.from_json(output.folder / "results.json")
    except InputError:  # damaged, or of another version: it is overwritten
        return None
    same = result.provenance.get("run", {}).get("digest") == digest and not _has_newer_data(result)
    return result if same and not (result.interrupted or result.failures) else None


def _has_newer_data(result: Result) -> bool:
    """Whether the cache has another version of one of the result's datasets than the version that was scored."""
    from gpubench.datasets.cache import cache_path, read_record
    from gpubench.datasets.catalogue import CatalogueEntry

    for file in result.provenance["dataset"].get("files", ()):
        record = read_record(cache_path(CatalogueEntry(file["id"], file["address"]))) if file["address"] else None
        if record is not None and record.sha256 != file["sha256"]:
            return True
    return False
