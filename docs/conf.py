"""The site of the documentation, made by Sphinx: `make docs` writes site/index.html and fails on a broken link."""

project = "dual_encoder"
copyright = "the authors of dual_encoder"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**"]
exclude_patterns = ["docs/*.py"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # diagrams in Mermaid stay text
html_theme = "furo"
html_title = "dual_encoder"
