"""Formulas as MathML, which browsers draw without a script from another site."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


def mathml(formula: str, **options: bool) -> str:
    r"""Return a formula of LaTeX as MathML, whose brackets grow with their content as \Big makes them do in LaTeX."""
    plain = re.sub(r"\\[Bb]igg?[lr]?\b", "", formula).replace("..", r"\ldots ")
    return tex2mathml(plain, **options)


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls where the screen is narrow."""
    formulas = (mathml(part, as_block=True) for part in node.astext().split("\n\n"))
    translator.body.append(f'<div class="math" tabindex="0">{"".join(formulas)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, `html_math_renderer = "mathml"`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}
