"""Settings of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bilevel_gym  # noqa: E402

project = "bilevel_gym"
author = "The bilevel_gym developers"
copyright = f"2026, {author}"
version = release = bilevel_gym.__version__

extensions = ["myst_nb", "sphinx_copybutton", "docs.extension"]
# Underscores in code and formulas are frequent, so that `$` alone sets formulas.
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# Formulas are MathML, which browsers draw themselves: no script, nothing from a network.
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"bilevel_gym {release}"
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# The language of blocks without a name, such as formulas in docstrings.
highlight_language = "text"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
# A type's short name may be that of two classes; it is then no link.
suppress_warnings = ["ref.python"]
exclude_patterns = ["gallery"]
