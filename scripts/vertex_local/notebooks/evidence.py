"""What is kept of an executed notebook: a copy, and a page for people."""

from __future__ import annotations

import functools
import mimetypes
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import nbformat

from vertex_local.config import LocalModeError
from vertex_local.notebooks.files import replace, text_of


def save(notebook: nbformat.NotebookNode, path: Path, origin: Path) -> Path:
    """Write a notebook to `path` and an HTML version beside it; return `path`.

    Each file appears whole or not at all. The HTML version holds the pictures that the text shows
    from files; `origin` is the folder where the text looks for them.

    Raises:
        LocalModeError: if one cannot be written, for example because the disk is full.
    """
    html = with_pictures(_exporter().from_notebook_node(notebook)[0], origin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in ((path, text_of(notebook)), (path.with_suffix(".html"), html)):
            replace(target, text)
    except OSError as err:
        raise LocalModeError(
            f"The executed copy cannot be kept as {path} ({err.strerror}). Make room there, or "
            "choose another folder."
        ) from err
    return path


@functools.cache
def _exporter() -> Any:
    """Return the converter to HTML; it keeps its templates, so the second page takes no time."""
    from nbconvert.exporters import HTMLExporter

    return HTMLExporter(mathjax_url="", require_js_url="")


def with_pictures(html: str, origin: Path) -> str:
    """Return a page that holds the pictures to which its `<img>` elements refer by relative path.

    (nbconvert could do that, but then it closes the folded answers of exercises too early.)
    """

    def held(match: re.Match[str]) -> str:
        file = origin / match["path"]
        if not file.is_file():
            return match[0]
        kind = mimetypes.guess_type(file.name)[0]
        return f'{match["before"]}data:{kind};base64,{b64encode(file.read_bytes()).decode()}"'

    return re.sub(r'(?P<before><img [^>]*?src=")(?P<path>[^":]+)"', held, html)
