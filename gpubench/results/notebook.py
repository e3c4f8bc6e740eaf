"""Tables for notebooks: metrics by embeddings with bars, in the colours of the notebook's theme, light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpubench.core.scores import MetricResult
from gpubench.metrics.published import published_spec
from gpubench.results.score_table import Summary, SummaryRow, first_rows, heading, notes_of, references
from gpubench.results.table import format_value, printable

_STYLE = """
.gpubench { --gb-bar: #2f6fb2; --gb-good: #1a7f37; --gb-bad: #b3261e; --gb-line: rgba(128, 128, 128, .35);
  color: var(--jp-content-font-color1, inherit); max-width: 100%; overflow-x: auto; font-size: 13px; }
@media (prefers-color-scheme: dark) { .gpubench { --gb-bar: #6cb0ff; --gb-good: #56d364; --gb-bad: #ff8a80; } }
[data-jp-theme-light="true"] .gpubench, [data-theme="light"] .gpubench {
  --gb-bar: #2f6fb2; --gb-good: #1a7f37; --gb-bad: #b3261e; }
[data-jp-theme-light="false"] .gpubench, [data-theme="dark"] .gpubench, .vscode-dark .gpubench {
  --gb-bar: #6cb0ff; --gb-good: #56d364; --gb-bad: #ff8a80; }
.gpubench table { border-collapse: collapse; margin: .3em 0; color: inherit; font-size: inherit; }
.gpubench table tr, .gpubench table tr:hover { background: transparent; }
.gpubench table :is(th, td) { padding: .25em .8em; border: 0; text-align: right; vertical-align: top; color: inherit;
  background: transparent; white-space: nowrap; max-width: none; }
.gpubench table thead th { border-bottom: 1px solid var(--jp-border-color1, var(--gb-line)); }
.gpubench table tbody + tbody th[scope=rowgroup] { border-top: 1px solid var(--jp-border-color2, var(--gb-line)); }
.gpubench table :is(th[scope=row], th[scope=rowgroup], thead th:first-child) { text-align: left; }
.gpubench table th[scope=row] { font-weight: normal; padding-left: 1.6em; }
.gpubench td { font-variant-numeric: tabular-nums; min-width: 6em; }
.gpubench .gb-bar { display: block; width: 6em; height: 4px; margin: 2px 0 0 auto; border-radius: 2px;
  background: var(--gb-line); }
.gpubench .gb-bar i { display: block; height: 100%; border-radius: 2px; background: var(--gb-bar); }
.gpubench :is(small, .gb-notes) { opacity: .8; }
.gpubench small { display: block; }
.gpubench .gb-good { color: var(--gb-good); opacity: 1; } .gpubench .gb-bad { color: var(--gb-bad); opacity: 1; }
.gpubench .gb-notes { margin: .2em 0; padding-left: 2em; } .gpubench p { margin: .3em 0; }
""".strip()


@dataclass(frozen=True, slots=True)
class NotebookCell:
    """A cell of a table in a notebook.

    Attributes
    ----------
    text : value as text
    share : length of the bar below, from 0 to 1; None for no bar
    small : a second line in small letters
    tone : whether the small line is about something better or worse
    """

    text: str
    share: float | None = None
    small: str = ""
    tone: Literal["", "good", "bad"] = ""

    def html(self) -> str:
        """Format the cell as HTML."""
        bar = "" if self.share is None else f'<span class="gb-bar"><i style="width:{100 * self.share:.0f}%"></i></span>'
        kind = f' class="gb-{self.tone}"' if self.tone else ""
        small = f"<small{kind}>{html.escape(self.small)}</small>" if self.small else ""
        return f"<td>{html.escape(self.text)}{bar}{small}</td>"


def score_cell(row: MetricResult | None, small: str = "", tone: Literal["", "good", "bad"] = "") -> NotebookCell:
    """Make the cell of a score; its bar shows where the value is between the bounds of the metric."""
    if row is None:
        return NotebookCell("–")
    if math.isnan(row.value):
        return NotebookCell("undefined", small=small, tone=tone)
    return NotebookCell(("~" if row.approximate else "") + format_value(row.value), _share(row), small, tone)


def _share(row: MetricResult) -> float | None:
    spec = published_spec(row.metric)
    low, high = spec.bounds if spec else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return min(1.0, max(0.0, (row.value - low) / (high - low)))


def summary_html(summary: Summary, *, limit: int | None = None) -> str:
    """Format a summary as a table with its notes below; at most `limit` rows of each metric."""
    shown, hidden = first_rows(summary.rows, limit)
    rows = [summary.rows[i] for i in shown]
    notes = list(notes_of(rows))
    cells = [[score_cell(cell) for cell in row.cells] for row in rows]
    table = table_html(summary.embeddings, rows, cells, [references(row, notes) for row in rows])
    more = [f"and {count:,} more rows of {metric}" for metric, count in hidden.items()]
    return table + notes_html(notes) + lines_html(more)


def table_html(
    names: Sequence[str],
    rows: Sequence[SummaryRow],
    cells: Sequence[Sequence[NotebookCell]],
    marks: Sequence[str] = (),
) -> str:
    """Format a table with columns `names`, and a row for each of `rows` with its cells, grouped by task.

    `marks` are texts after the names of the rows, such as references to notes.
    """
    head = "".join(f'<th scope="col">{html.escape(printable(name))}</th>' for name in names)
    body = ""
    for i, row in enumerate(rows):
        if i == 0 or heading(row) != heading(rows[i - 1]):
            group = f'<tr><th scope="rowgroup" colspan="{len(names) + 1}">{html.escape(heading(row))}</th></tr>'
            body += f"{'</tbody>' if i else ''}<tbody>{group}"
        name = html.escape(row.name + (marks[i] if marks else ""))
        body += f'<tr><th scope="row">{name}</th>{"".join(cell.html() for cell in cells[i])}</tr>'
    return f"<table><thead><tr><th></th>{head}</tr></thead>{body}</tbody></table>" if rows else ""


def notes_html(notes: Sequence[str]) -> str:
    """Format numbered notes."""
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<ol class="gb-notes">{listed}</ol>' if notes else ""


def lines_html(lines: Sequence[str], heading_: str = "") -> str:
    """Format a heading and lines as a paragraph; nothing if there are none."""
    texts = [html.escape(line.strip()) for line in lines]
    texts[:0] = [f"<b>{html.escape(heading_)}</b>"] if heading_ else []
    return f"<p>{'<br>'.join(texts)}</p>" if texts else ""


def folded_html(title: str, content: str) -> str:
    """Format content that is shown when its title is clicked."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def block_html(*parts: str) -> str:
    """Put parts together in a block with the style of gpubench's tables."""
    return f'<div class="gpubench"><style>{_STYLE}</style>{"".join(parts)}</div>'
