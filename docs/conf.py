"""Sphinx configuration."""

import involution

project = "involution"
author = "The involution developers"
version = release = involution.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "any"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
suppress_warnings = ["ref.any", "myst.xref_missing"]
html_theme = "furo"
html_title = "involution"
exclude_patterns = ["_build"]
