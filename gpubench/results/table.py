"""Results as a table for people: what each row shows, and how it looks as plain text."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpubench.core.scores import MetricResult
from gpubench.results.rows import telling_params

FAILED, LEFT_OUT = "Failed:", "Left out:"

_NUMBERS = ("value", "stderr", "n", "seconds")
HEADER = ("metric", *_NUMBERS, "note")
"""Columns of a section besides its parameters."""

_OPTIONAL = frozenset({"stderr", "note"})


@dataclass(frozen=True, slots=True)
class Section:
    """The scores of one task on one embedding, as text.

    Attributes
    ----------
    embedding, task : ids
    header : "metric", then the parameters that tell rows of one metric apart, then numbers and "note"
    rows : one cell of text for each of the header
    notes : numbered from 1, as the cells of "note" refer to them
    hidden : rows left out, metric -> how many
    """

    embedding: str
    task: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    hidden: Mapping[str, int]

    def right_aligned(self, column: str) -> bool:
        """Whether a column holds numbers."""
        return column in _NUMBERS


def sections(results: Iterable[MetricResult], limit: int | None = None) -> list[Section]:
    """Group results by embedding and task, in the order in which they first appear.

    Parameters
    ----------
    limit : rows of one metric to show in a section; None: all
    """
    groups: dict[tuple[str, str], list[MetricResult]] = {}
    for row in results:
        groups.setdefault((row.embedding, row.task), []).append(row)
    return [_section(embedding, task, rows, limit) for (embedding, task), rows in groups.items()]


def to_text(
    results: Iterable[MetricResult],
    skipped: Sequence[Mapping[str, str]] = (),
    failures: Sequence[Mapping[str, str]] = (),
    *,
    width: int | None = None,
    limit: int | None = None,
) -> str:
    """Lay results out as plain text.

    Parameters
    ----------
    skipped, failures : tasks left out, and tasks that failed, as in `Result`
    width : columns at which notes are wrapped; None: not at all
    limit : rows of one metric to show in a section; None: all
    """
    blocks = [_section_text(section, width) for section in sections(results, limit)]
    blocks += ["\n".join(_wrap(line, width) for line in lines) for lines in remarks(skipped, failures)]
    return "\n\n".join(blocks)


def to_html(
    results: Iterable[MetricResult],
    skipped: Sequence[Mapping[str, str]] = (),
    failures: Sequence[Mapping[str, str]] = (),
    *,
    limit: int | None = None,
) -> str:
    """Lay results out as HTML tables for a notebook; parameters as in `to_text`."""
    parts = [_section_html(section) for section in sections(results, limit)]
    parts += ["<p>" + "<br>".join(map(html.escape, lines)) + "</p>" for lines in remarks(skipped, failures)]
    return "\n".join(parts)


def remarks(skipped: Sequence[Mapping[str, str]], failures: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Lines that list what was left out and what failed, each list under its heading."""
    left_out = [printable(f"  {item['task']}: {item['reason']}") for item in skipped]
    failed = [printable(f"  {item['task']} on {item['embedding']}: {item['error']}") for item in failures]
    listed = ((FAILED, failed), (LEFT_OUT, left_out))
    return [[heading, *lines] for heading, lines in listed if lines]


def format_value(value: float) -> str:
    """Four digits after the point, or four significant ones where that would show none or too many."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"


def printable(text: str) -> str:
    """Text with line breaks and control characters, which a label or a path may hold, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _section(embedding: str, task: str, rows: Sequence[MetricResult], limit: int | None) -> Section:
    metrics = dict.fromkeys(row.metric for row in rows)
    telling = {metric: telling_params([row for row in rows if row.metric == metric]) for metric in metrics}
    shown, hidden = _fold(rows, limit)
    notes = tuple(dict.fromkeys(printable(row.note) for row in shown if row.note))
    keys = list(dict.fromkeys(key for row in shown for key in telling[row.metric]))
    header = ("metric", *(f"param_{key}" if key in HEADER else key for key in keys), *HEADER[1:])
    cells = [_cells(row, keys, telling[row.metric], notes) for row in shown]
    used = [i for i, column in enumerate(header) if column not in _OPTIONAL or any(row[i] for row in cells)]
    return Section(
        embedding=printable(embedding),
        task=task,
        header=tuple(printable(header[i]) for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in cells),
        notes=notes,
        hidden=hidden,
    )


def _fold(rows: Sequence[MetricResult], limit: int | None) -> tuple[list[MetricResult], dict[str, int]]:
    """Keep the first rows of each metric and its last one, which may be a mean; count those left out."""
    counts = Counter(row.metric for row in rows)
    seen: Counter[str] = Counter()
    shown = []
    for row in rows:
        seen[row.metric] += 1
        if limit is None or seen[row.metric] < limit or seen[row.metric] == counts[row.metric]:
            shown.append(row)
    kept = Counter(row.metric for row in shown)
    return shown, {metric: counts[metric] - kept[metric] for metric in counts if counts[metric] > kept[metric]}


def _cells(row: MetricResult, keys: Sequence[str], telling: Sequence[str], notes: Sequence[str]) -> tuple[str, ...]:
    """One cell for each column; a "~" marks an approximate value."""
    return (
        row.metric,
        *(printable(str(row.params[key])) if key in telling and key in row.params else "" for key in keys),
        ("~" if row.approximate and not math.isnan(row.value) else "") + format_value(row.value),
        "" if row.stderr is None else f"{row.stderr:.2g}",
        f"{row.n:,}",
        f"{row.seconds:.2f}",
        f"[{notes.index(printable(row.note)) + 1}]" if row.note else "",
    )


def _section_text(section: Section, width: int | None) -> str:
    lines = [f"{section.embedding}: {section.task}"]
    widths = [max(map(len, column)) for column in zip(section.header, *section.rows, strict=True)]
    for row in (section.header, *section.rows):
        cells = (
            cell.rjust(size) if section.right_aligned(column) else cell.ljust(size)
            for cell, column, size in zip(row, section.header, widths, strict=True)
        )
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines += [_wrap(line, width) for line in footnotes(section)]
    return "\n".join(lines)


def footnotes(section: Section) -> list[str]:
    """Lines under a section: its notes, and how many rows are not shown."""
    lines = [f"  [{i}] {note}" for i, note in enumerate(section.notes, 1)]
    return lines + [f"  and {count:,} more rows of {metric}" for metric, count in section.hidden.items()]


def _wrap(line: str, width: int | None) -> str:
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)


def _section_html(section: Section) -> str:
    head = "".join(f"<th>{column}</th>" for column in section.header)
    rows = (
        "".join(
            f'<td style="text-align:{"right" if section.right_aligned(column) else "left"}">{html.escape(cell)}</td>'
            for cell, column in zip(row, section.header, strict=True)
        )
        for row in section.rows
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    under = "<br>".join(html.escape(line.strip()) for line in footnotes(section))
    title = html.escape(f"{section.embedding}: {section.task}")
    return f"<p><b>{title}</b></p><table><tr>{head}</tr>{body}</table><p>{under}</p>"
