"""Sphinx's configuration. A page loads nothing from elsewhere: formulas are MathML, fonts the reader's."""

import re
import textwrap

from docutils import nodes
from latex2mathml.converter import convert

from companion.methods import is_equation

project = "mtlkit"
copyright = "the mtlkit contributors, MIT licence"
html_title = "mtlkit"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_search_summary = False  # it would fetch pages, which browsers refuse for file://
html_copy_source = False
exclude_patterns = ["jupyter_execute"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# Notebooks begin their sections where they like.
suppress_warnings = ["myst.header", "myst.xref_missing"]


def _inline(self, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Equations of a docstring, up to its Args, as they stand; elsewhere a bar is a bar."""
    end = next(
        (n for n, line in enumerate(lines) if re.match(r"(Source|Args|Attributes|Raises|Returns|>>>)", line)), None
    )
    head, rest = "\n".join(lines[:end]), [] if end is None else lines[end:]
    parts = [_verbatim(part) if n and is_equation(part) else part for n, part in enumerate(head.split("\n\n"))]
    bars = [line.replace("|", r"\|") for line in rest]
    lines[:] = ["\n\n".join(p if p.startswith("::") else p.replace("|", r"\|") for p in parts), "", *bars]
    lines[:] = "\n".join(lines).split("\n")


def _verbatim(text: str) -> str:
    return "::\n\n" + textwrap.indent(textwrap.dedent(text), "    ")


def setup(app) -> None:
    """Formulas as MathML, which browsers draw themselves."""
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
