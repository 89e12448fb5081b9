"""Sphinx configuration."""

import os
import sys
from pathlib import Path

# Keras' own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

import involution

project = "involution"
author = "The involution developers"
version = release = involution.__version__
extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# Formulas are in the pages themselves; nothing is fetched from anywhere.
html_math_renderer = "mathml"
# What is copied of a console block are its commands, without prompts and output.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
default_role = "any"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
suppress_warnings = ["ref.any", "myst.xref_missing"]
html_theme = "furo"
# Where `make docs` put the page of `involution demo`; pages that speak of it have a sentence that needs the tag.
site = Path(__file__).parent.parent / "build" / "site"
if (site / "demo" / "index.html").is_file():
    html_extra_path = [str(site)]
    tags.add("demo")  # noqa: F821  (Sphinx puts it here)
html_title = "involution"
exclude_patterns = ["_build"]
