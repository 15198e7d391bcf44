"""The site: `make site` writes it to build/site. Pages are Markdown that reads well in a checkout, too."""

from tnt_exp import __version__

project = "tnt-exp"
release = version = __version__
copyright = "the tnt-exp authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"tnt-exp {__version__}"
html_static_path = []
html_show_sphinx = False
myst_heading_anchors = 3  # links such as sweeps.md#report
myst_enable_extensions = ["colon_fence"]
myst_links_external_new_tab = False
autodoc_typehints = "description"
autodoc_mock_imports = ["tensorflow", "jax", "torch"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
