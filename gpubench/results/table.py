"""Results as tables: columns and CSV, and for people plain in a pipe, with lines and colour on a terminal, or HTML."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TextIO

from gpubench.core.scores import MEAN, MetricResult, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FIELDS = tuple(field.name for field in fields(MetricResult) if field.name != "params")
"""Columns of every table of results; a column for each parameter follows."""


def to_columns(results: Sequence[MetricResult]) -> dict[str, list[Any]]:
    """Convert rows to columns: those of `FIELDS`, then one for each parameter of any row.

    A parameter with the name of a field gets the prefix "param_". Lists and mappings become JSON; a parameter that is
    text in one row and a number in another becomes text in all.
    """
    columns: dict[str, list[Any]] = {name: [_scalar(getattr(row, name)) for row in results] for name in FIELDS}
    for name in param_keys(results):
        column = f"param_{name}" if name in FIELDS else name
        columns[column] = _one_type([_scalar(plain(row.params.get(name))) for row in results])
    return columns


def to_csv(results: Sequence[MetricResult]) -> str:
    """Format the columns of rows as CSV in full precision; NaN and missing values are empty."""
    columns = to_columns(results)
    lines = [columns, *zip(*columns.values(), strict=True)]
    return "".join(",".join(map(_csv_cell, line)) + "\n" for line in lines)


def _csv_cell(value: Any) -> str:
    """Quote as RFC 4180 requires; csv.writer with plain line ends leaves a carriage return unquoted."""
    value = plain(value)
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value.tolist() if hasattr(value, "tolist") else value


def _one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def param_keys(results: Iterable[MetricResult]) -> tuple[str, ...]:
    """Return the names of all parameters of some rows, in the order in which they first appear."""
    return tuple(dict.fromkeys(key for row in results for key in row.params))


def telling_params(results: Sequence[MetricResult]) -> tuple[str, ...]:
    """Return the names of the parameters that distinguish rows of one metric.

    These are those whose values differ; if rows differ only in which parameters they have, also these.
    """
    keys = param_keys(results)
    differing = tuple(key for key in keys if len({repr(row.params[key]) for row in results if key in row.params}) > 1)
    if len({tuple(repr(row.params.get(key)) for key in differing) for row in results}) == len(results):
        return differing
    return tuple(key for key in keys if len({repr(row.params.get(key)) for row in results}) > 1)


_MIN_TEXT_WIDTH = 16
"""Terminal columns left for text next to numbers, which are not folded."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Table of text."""

    title: str  # line above it, which indents the rows; empty for none
    header: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[str, ...], ...]  # one cell for each of the header
    numbers: frozenset[str] = frozenset()  # names of the columns that are aligned right
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> style of rich on a terminal
    notes: tuple[str, ...] = ()  # lines below it

    def _widths(self) -> list[int]:
        """Return the width of each column."""
        columns = zip(self.header, *self.rows, strict=True)
        return [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]

    @property
    def width(self) -> int:
        """Width of the table as plain text, without the notes."""
        indent = 2 * bool(self.title)
        return max(len(self.title), indent + sum(self._widths()) + 2 * (len(self.header) - 1))

    def to_text(self, width: int | None = None) -> str:
        """Lay the table out as plain text; notes are wrapped at `width` columns. Cells of the header may have lines."""
        widths = self._widths()
        lines = [self.title] if self.title else []
        stacked = [cell.split("\n") for cell in self.header]
        height = max(map(len, stacked))
        heads = zip(*([""] * (height - len(cell)) + cell for cell in stacked), strict=True)
        for row in (*heads, *self.rows):
            cells = (
                cell.rjust(size) if column in self.numbers else cell.ljust(size)
                for cell, column, size in zip(row, self.header, widths, strict=True)
            )
            lines.append(("  " * bool(self.title) + "  ".join(cells)).rstrip())
        return "\n".join([*lines, *(_wrap(line, width) for line in self.notes)])

    def to_html(self) -> str:
        """Lay the table out as HTML."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.header)
        sides = ["right" if column in self.numbers else "left" for column in self.header]
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{side};white-space:pre">{self._html_cell(i, j, cell)}</td>'
                for j, (cell, side) in enumerate(zip(row, sides, strict=True))
            )
            + "</tr>"
            for i, row in enumerate(self.rows)
        )
        notes = "<br>".join(html.escape(line.strip()) for line in self.notes)
        title = f"<p><b>{html.escape(self.title)}</b></p>" if self.title else ""
        return f"{title}<table><tr>{head}</tr>{body}</table>" + (f"<p>{notes}</p>" if notes else "")

    def _html_cell(self, i: int, j: int, cell: str) -> str:
        text = html.escape(cell)
        return f"<b>{text}</b>" if "bold" in self.styles.get((i, j), "") and not j else text

    def print(self, console: Console) -> None:
        """Draw the table on a terminal; cells that do not fit continue on the next line."""
        from rich.text import Text

        if self.title:
            console.print(Text(self.title, "bold"))
        words = [
            max(len(word) for cell in column for word in cell.split() or [""])
            for column in zip(self.header, *self.rows, strict=True)
        ]
        fit = sum(words) + 2 * len(words) + 2 <= console.width
        console.print(self._drawn(words if fit else [0] * len(words), console.width))
        for line in self.notes:
            console.print(Text(line, "dim"))

    def _drawn(self, words: Sequence[int], width: int) -> Table:
        """Make a table of rich whose columns have room for their longest `words`."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        numbers_width = sum(
            size + 2 for size, column in zip(self._widths(), self.header, strict=True) if column in self.numbers
        )
        fits = numbers_width + _MIN_TEXT_WIDTH <= width
        drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column, size in zip(self.header, words, strict=True):
            right = column in self.numbers
            justify: Literal["right", "left"] = "right" if right else "left"
            drawn.add_column(Text(column), justify=justify, no_wrap=right and fits, min_width=size, overflow="fold")
        for i, row in enumerate(self.rows):
            drawn.add_row(*(Text(cell, self.styles.get((i, j), "")) for j, cell in enumerate(row)))
        return drawn


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of text, under a heading or without one."""

    lines: Sequence[str]
    heading: str = ""
    style: str = ""  # of rich, on a terminal
    wrap: bool = True  # False for lines to copy, such as paths

    def to_text(self, width: int | None = None) -> str:
        """Join the lines, wrapped at `width` columns."""
        lines = [self.heading, *self.lines] if self.heading else self.lines
        return "\n".join(_wrap(line, width if self.wrap else None) for line in lines)

    def to_html(self) -> str:
        """Lay the lines out as an HTML paragraph."""
        return "<p>" + "<br>".join(map(html.escape, [self.heading, *self.lines])) + "</p>"

    def print(self, console: Console) -> None:
        """Write the lines to a terminal."""
        from rich.text import Text

        if self.heading:
            console.print(Text(self.heading, f"bold {self.style}"))
        for line in self.lines:
            console.print(Text(line, self.style), soft_wrap=not self.wrap)


def to_text(blocks: Iterable[TextTable | Lines], width: int | None = None) -> str:
    """Join tables and lines as plain text, with an empty line between them; only lines and notes are wrapped."""
    return "\n\n".join(filter(None, (block.to_text(width) for block in blocks)))


def print_blocks(blocks: Iterable[TextTable | Lines], stream: TextIO, width: int | None = None) -> None:
    """Write tables and lines to a terminal with lines and colour, or to a pipe as plain text with lines of `width`."""
    if not stream.isatty():
        stream.write(f"{to_text(blocks, width)}\n")
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    for i, block in enumerate(block for block in blocks if block.to_text()):
        if i:
            console.print()
        block.print(console)


def _wrap(line: str, width: int | None) -> str:
    if width is None or len(line) <= width:
        return line
    indent = "      " if line.startswith((" ", "[")) else ""
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def format_value(value: float) -> str:
    """Format with four decimals, or four significant digits where that would show none or too many."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"


def printable(text: str) -> str:
    """Replace line breaks and control characters, which a label or a path may contain, by escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def short(text: str, longest: int) -> str:
    """Cut a text at its end where it is too long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def shortened(names: Sequence[str], longest: int) -> list[str]:
    """Cut names at the end, or in the middle where that keeps more of them distinct; else number them."""
    by_end = [short(name, longest) for name in names]
    if len(set(by_end)) == len(set(names)):
        return by_end
    head, tail = longest - 1 - longest // 2, longest // 2
    by_middle = [name if len(name) <= longest else f"{name[:head]}…{name[-tail:]}" for name in names]
    if len(set(by_middle)) == len(set(names)):
        return by_middle
    return [f"{i}. {short(name, longest - 4)}" for i, name in enumerate(names, 1)]


_NUMBERS = ("value", "stderr", "n", "seconds")
HEADER = ("metric", *_NUMBERS, "note")
"""Columns of a table of scores besides its parameters."""

_OPTIONAL = frozenset({"stderr", "note"})


def result_blocks(
    results: Iterable[MetricResult],
    skipped: Sequence[Mapping[str, str]] = (),
    failures: Sequence[Mapping[str, str]] = (),
    *,
    limit: int | None = None,
) -> list[TextTable | Lines]:
    """Lay results out as tables, then the tasks that failed and those that were left out.

    `skipped` and `failures` are those of a `Result`; `limit` is that of `score_tables`.
    """
    left_out = [printable(f"  {item['task']} ({item['reason']})") for item in skipped]
    failed = [printable(f"  {item['task']} on {item['embedding']}: {item['error']}") for item in failures]
    blocks: list[TextTable | Lines] = [*score_tables(results, limit).values()]
    blocks += [Lines(failed, "Failed:", "red")] if failed else []
    return blocks + ([Lines(left_out, "Not run:")] if left_out else [])


def score_tables(results: Iterable[MetricResult], limit: int | None = None) -> dict[tuple[str, str], TextTable]:
    """Make a table of the scores of each embedding and task, in the order in which they first appear.

    Its columns are "metric", the parameters that tell rows of one metric apart, numbers, and the number of a note. At
    most `limit` rows of a metric are shown.
    """
    groups: dict[tuple[str, str], list[MetricResult]] = {}
    for row in results:
        groups.setdefault((printable(row.embedding), row.task), []).append(row)
    return {(name, task): _score_table(f"{name}: {task}", rows, limit) for (name, task), rows in groups.items()}


def _score_table(title: str, rows: Sequence[MetricResult], limit: int | None) -> TextTable:
    metrics = dict.fromkeys(row.metric for row in rows)
    telling = {metric: telling_params([row for row in rows if row.metric == metric]) for metric in metrics}
    shown, hidden = _fold(rows, limit)
    notes = list(dict.fromkeys(printable(row.note) for row in shown if row.note))
    keys = list(dict.fromkeys(key for row in shown for key in telling[row.metric]))
    header = ("metric", *(f"param_{key}" if key in HEADER else key for key in keys), *HEADER[1:])
    cells = [_cells(row, keys, telling[row.metric], notes) for row in shown]
    used = [i for i, column in enumerate(header) if column not in _OPTIONAL or any(row[i] for row in cells)]
    names = [printable(header[i]) for i in used]
    return TextTable(
        title,
        tuple(names),
        tuple(tuple(row[i] for i in used) for row in cells),
        numbers=frozenset(_NUMBERS),
        styles={(i, names.index("value")): "bold" for i in range(len(cells))},
        notes=(
            *(f"  [{i}] {note}" for i, note in enumerate(notes, 1)),
            *(f"  and {count:,} more rows of {metric}" for metric, count in hidden.items()),
        ),
    )


def _fold(rows: Sequence[MetricResult], limit: int | None) -> tuple[list[MetricResult], dict[str, int]]:
    """Select the first rows of each metric and its last one, which may be a mean; count the others by metric."""
    counts = Counter(row.metric for row in rows)
    seen: Counter[str] = Counter()
    shown = []
    for row in rows:
        seen[row.metric] += 1
        if limit is None or seen[row.metric] < limit or seen[row.metric] == counts[row.metric]:
            shown.append(row)
    return shown, dict(counts - Counter(row.metric for row in shown))


def mean_text(value: Any) -> str:
    """Return the text of a parameter; "MEAN(knn,lr)" becomes "mean of knn, lr"."""
    text = str(value)
    return f"mean of {text[len(MEAN) + 1 : -1].replace(',', ', ')}" if text.startswith(f"{MEAN}(") else text


def _cells(row: MetricResult, keys: Sequence[str], telling: Sequence[str], notes: Sequence[str]) -> tuple[str, ...]:
    """Return one cell for each column; a "~" marks an approximate value."""
    return (
        row.metric,
        *(printable(mean_text(row.params[key])) if key in telling and key in row.params else "" for key in keys),
        ("~" if row.approximate and not math.isnan(row.value) else "") + format_value(row.value),
        "" if row.stderr is None else f"{row.stderr:.2g}",
        f"{row.n:,}",
        f"{row.seconds:.2f}",
        f"[{notes.index(printable(row.note)) + 1}]" if row.note else "",
    )
