"""Configuration of the documentation site: `sphinx-build -W --keep-going docs site` builds it, without network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import gpubench  # noqa: E402 - what is documented is what is installed

project = "gpubench"
author = "The gpubench authors"
copyright = "The gpubench authors"  # noqa: A001 - the name that Sphinx reads
version = release = gpubench.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "mathml",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_reference",
    "metric_pages",
    "parameter_texts",
    "repository_links",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "_inventories"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks run at every build, on data that ships with the package; an error ends the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_execution_in_temp = True
os.environ.setdefault("COLUMNS", "100")  # the width of the tables that notebooks print
os.environ["NO_COLOR"] = "1"

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings have shapes and units, which annotations lack
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
default_role = "code"

# A build needs no network: each inventory holds the few names that the pages refer to.
intersphinx_mapping = {
    name: (address, str(HERE / "_inventories" / f"{name}.inv"))
    for name, address in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "anndata": "https://anndata.readthedocs.io/en/stable/",
        "matplotlib": "https://matplotlib.org/stable/",
    }.items()
}

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "gpubench"
html_static_path = ["_static"]
html_css_files = ["gpubench.css"]
html_theme_options = {"show_navbar_depth": 1, "show_toc_level": 2, "home_page_in_toc": True}
html_show_sourcelink = False
