"""Settings of Sphinx. `make docs` builds the pages with warnings as errors; the build needs no network."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attnjax
from attnjax.__main__ import markdown

project = "attnjax"
author = "the authors of attnjax"
release = version = attnjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "attnjax"
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}

_DEFAULTS = (
    (r", parent=<[^>]*>, name=None", ""),
    (r"<class '[\w.]*?(\w+)'>", r"\1"),
    (r"<PjitFunction of <function (?:\w+\.)*(\w+)[^>]*>>", r"\1"),
    (r"<(?:[^<>]|<[^<>]*>)*>", "..."),
)
"""How default values in signatures are shortened."""


def fill_in_models(_app: Any, name: str, source: list[str]) -> None:
    """Puts the generated table of named nets into its page."""
    if name == "models":
        before, after = source[0].split("<!-- table of named nets -->")
        source[0] = before + markdown() + after


def skip_fields(_app: Any, what: str, _name: str, member: Any, skip: bool, _options: Any) -> bool | None:
    """Leaves out fields: the docstring of their class describes them."""
    ours = str(getattr(member, "__module__", "attnjax")).startswith("attnjax")
    field = not ours or inspect.isclass(member) or type(member).__name__ == "_tuplegetter"
    return True if what == "class" and field else None


def shorten_defaults(*call: Any) -> tuple[str | None, str | None]:
    """Shortens default values that have no short `repr`."""
    *_, signature, returns = call
    for pattern, short in _DEFAULTS:
        signature = signature and re.sub(pattern, short, signature)
    return signature, returns


def escape_signs(*call: Any) -> None:
    """Escapes what reStructuredText would read as markup: docstrings are plain text with code in single backticks."""
    lines = call[-1]
    for index, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`[^`]*`)", line)
            parts[::2] = [re.sub(r"([*|_])", r"\\\1", part) for part in parts[::2]]
            lines[index] = "".join(parts)
        if index and lines[index - 1].strip() in ("Returns:", "Yields:") and ":" in line:
            lines[index] = re.sub(r"\S", r": \g<0>", lines[index], count=1)  # no type before the first colon


def setup(app: Any) -> None:
    """Connects the functions above with Sphinx's events."""
    app.connect("source-read", fill_in_models)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("autodoc-process-docstring", escape_signs, priority=400)  # before napoleon
