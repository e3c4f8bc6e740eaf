"""Results as tables: as columns, CSV, plain text, HTML, or with lines and colour on a terminal."""

from __future__ import annotations

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
"""Columns that every table of results has; they are followed by a column for each parameter."""


def to_columns(results: Sequence[MetricResult]) -> dict[str, list[Any]]:
    """Convert result rows to columns: column name -> values, those of `FIELDS` first, then one for each parameter.

    A parameter with the name of a field gets the prefix "param_". Lists and mappings become JSON text. If a parameter
    is text in one row and a number in another, it becomes text in all rows.
    """
    columns: dict[str, list[Any]] = {name: [_scalar(getattr(row, name)) for row in results] for name in FIELDS}
    for name in param_keys(results):
        column = f"param_{name}" if name in FIELDS else name
        columns[column] = _one_type([_scalar(plain(row.params.get(name))) for row in results])
    return columns


def to_csv(results: Sequence[MetricResult]) -> str:
    """Format the columns of `to_columns` as CSV in full precision; NaN and missing values are empty."""
    columns = to_columns(results)
    lines = [columns, *zip(*columns.values(), strict=True)]
    return "".join(",".join(map(_csv_cell, line)) + "\n" for line in lines)


def _csv_cell(value: Any) -> str:
    """Format a value, quoted as RFC 4180 requires; csv.writer would leave a carriage return unquoted."""
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
    """Return the names of all parameters that occur in the rows, in the order in which they first appear."""
    return tuple(dict.fromkeys(key for row in results for key in row.params))


def telling_params(results: Sequence[MetricResult]) -> tuple[str, ...]:
    """Return the names of the parameters that distinguish these rows, all of one metric.

    They are the parameters whose values differ and, if this does not distinguish all rows, also those that only some
    rows have.
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
    """A table whose cells are text, with a title above and notes below."""

    title: str  # line above the table, which is then indented; empty for none
    header: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[str, ...], ...]  # cells of each row, one for each column
    numbers: frozenset[str] = frozenset()  # names of the columns that are aligned right
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> style of rich for that cell
    notes: tuple[str, ...] = ()  # lines below the table

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
        """Format the table as plain text; notes are wrapped at `width` characters, or not at all if it is None.

        Cells of the header may consist of several lines.
        """
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

    def print(self, console: Console) -> None:
        """Draw the table on a terminal; text that does not fit into a column continues on the next line."""
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
        """Return a table of rich in which each column is at least as wide as its longest word, given by `words`."""
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
    """Lines of text, with or without a heading."""

    lines: Sequence[str]
    heading: str = ""
    style: str = ""  # style of rich on a terminal
    wrap: bool = True  # False for lines to copy, such as paths

    def to_text(self, width: int | None = None) -> str:
        """Join the lines as plain text, wrapped at `width` characters, or not at all if it is None."""
        lines = [self.heading, *self.lines] if self.heading else self.lines
        return "\n".join(_wrap(line, width if self.wrap else None) for line in lines)

    def print(self, console: Console) -> None:
        """Write the lines to a terminal."""
        from rich.text import Text

        if self.heading:
            console.print(Text(self.heading, f"bold {self.style}"))
        for line in self.lines:
            console.print(Text(line, self.style), soft_wrap=not self.wrap)


def to_text(blocks: Iterable[TextTable | Lines], width: int | None = None) -> str:
    """Format tables and lines as plain text, separated by empty lines; `width` wraps lines and notes, not tables."""
    return "\n\n".join(filter(None, (block.to_text(width) for block in blocks)))


def print_blocks(blocks: Iterable[TextTable | Lines], stream: TextIO, width: int | None = None) -> None:
    """Write tables and lines to a stream, with rules and colour if it is a terminal, else as plain text.

    `width` is the number of characters at which lines of plain text are wrapped.
    """
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
    """Format a score with four decimals, or in scientific notation if it is very small or large; NaN as "undefined"."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"


def printable(text: str) -> str:
    """Escape line breaks and control characters, which labels and paths may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def short(text: str, longest: int) -> str:
    """Cut a text to at most `longest` characters, ending with an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def shortened(names: Sequence[str], longest: int) -> list[str]:
    """Cut names to at most `longest` characters, so that different names stay different.

    Names are cut at the end. If that makes some equal, they are cut in the middle; if that does too, they are numbered.
    """
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
"""Columns of a table of scores, apart from those of parameters."""

_OPTIONAL = frozenset({"stderr", "note"})


def result_blocks(
    results: Iterable[MetricResult],
    skipped: Sequence[Mapping[str, str]] = (),
    failures: Sequence[Mapping[str, str]] = (),
    *,
    limit: int | None = None,
) -> list[TextTable | Lines]:
    """Return the tables of scores, then lists of the tasks that failed and of those that were left out.

    `skipped` and `failures` are as in `Result`, `limit` as in `score_tables`.
    """
    left_out = [printable(f"  {item['task']} ({item['reason']})") for item in skipped]
    failed = [printable(f"  {item['task']} on {item['embedding']}: {item['error']}") for item in failures]
    blocks: list[TextTable | Lines] = [*score_tables(results, limit).values()]
    blocks += [Lines(failed, "Failed:", "red")] if failed else []
    return blocks + ([Lines(left_out, "Not run:")] if left_out else [])


def score_tables(results: Iterable[MetricResult], limit: int | None = None) -> dict[tuple[str, str], TextTable]:
    """Return (embedding, task) -> table of the scores, in the order in which they first appear.

    The columns are "metric", the parameters that distinguish rows of one metric, the numbers of a row, and a reference
    to a note below the table. At most `limit` rows of each metric are shown.
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
    """Select at most `limit` rows of each metric, the first and the last, which may be a mean; count the others."""
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
    """Return the text of each column for one result row; "~" marks an approximate value."""
    return (
        row.metric,
        *(printable(mean_text(row.params[key])) if key in telling and key in row.params else "" for key in keys),
        ("~" if row.approximate and not math.isnan(row.value) else "") + format_value(row.value),
        "" if row.stderr is None else f"{row.stderr:.2g}",
        f"{row.n:,}",
        f"{row.seconds:.2f}",
        f"[{notes.index(printable(row.note)) + 1}]" if row.note else "",
    )
