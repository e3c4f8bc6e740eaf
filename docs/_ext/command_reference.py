"""The directive `commands`: every command with its arguments and flags, from the declarations of the CLI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from sphinx.util.docutils import SphinxDirective

from gpubench.cli.main import app as commands

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def markdown(text: str | None) -> str:
    """Return a help text as Markdown: rich's bold as such, characters with a meaning escaped."""
    escaped = re.sub(r"([<>*_|`])", r"\\\1", text or "")
    return re.sub(r"\[/?bold\]", "**", escaped)


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and commands of a group and of the groups in it."""
    for word, child in command.commands.items():
        yield f"{name} {word}", child
        if hasattr(child, "commands"):
            yield from walk(child, f"{name} {word}")


def described(parameter: Any) -> str:
    """Return an entry of a definition list: the spelling of an argument or flag, and its meaning with the default."""
    is_argument = type(parameter).__name__.endswith("Argument")
    metavar = parameter.metavar or ("" if getattr(parameter, "is_flag", False) else parameter.name.upper())
    spelling = metavar if is_argument else f"{', '.join(parameter.opts)} {metavar}".rstrip()
    default = parameter.default
    shown = default is not None and not callable(default) and not isinstance(default, bool)
    text = markdown(parameter.help) + (f" Default: `{default}`." if shown else "")
    return f"`{spelling}`\n: {text or 'See the text above.'}\n"


def chapter(name: str, command: Any) -> str:
    """Return the Markdown section of a command."""
    arguments = [p for p in command.params if type(p).__name__.endswith("Argument")]
    flags = [p for p in command.params if p not in arguments and not getattr(p, "hidden", False)]
    words = [name, *(p.metavar or p.name.upper() for p in arguments), *(["[FLAGS]"] if flags else [])]
    if hasattr(command, "commands"):
        words.append("COMMAND")
    lines = [
        f"## {name}\n",
        markdown(command.help) + "\n",
        f"```text\n{' '.join(words)}\n```\n",
        *map(described, arguments),
    ]
    panels: dict[str, list[Any]] = {}
    for flag in flags:
        panels.setdefault(getattr(flag, "rich_help_panel", None) or "", []).append(flag)
    for panel, those in panels.items():
        lines += [f"**{panel}**\n"] if panel else []
        lines += map(described, those)
    return "\n".join(lines)


class Commands(SphinxDirective):
    """Insert a section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the sections."""
        sections = [chapter(name, command) for name, command in walk(typer.main.get_command(commands), "gpubench")]
        return self.parse_text_to_nodes("\n\n".join(sections), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
