"""The executed copy of a notebook: as a notebook, and as an HTML page."""

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

    Each file is written in one step.

    Args:
        notebook: the executed notebook.
        path: the copy's file; its folder is created if it is missing.
        origin: the folder of the original notebook. Pictures that the text shows from files there
            become part of the HTML version.

    Raises:
        LocalModeError: if a file cannot be written, for example because the disk is full.
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
    """Return the converter to HTML, which keeps its templates for the next notebook."""
    from nbconvert.exporters import HTMLExporter

    return HTMLExporter(mathjax_url="", require_js_url="")


def with_pictures(html: str, origin: Path) -> str:
    """Return a page in which pictures with a relative path are embedded as data.

    (nbconvert could do that, but then it closes the folded answers of exercises too early.)
    """

    def embedded(match: re.Match[str]) -> str:
        file = origin / match["path"]
        if not file.is_file():
            return match[0]
        kind = mimetypes.guess_type(file.name)[0]
        return f'{match["before"]}data:{kind};base64,{b64encode(file.read_bytes()).decode()}"'

    return re.sub(r'(?P<before><img [^>]*?src=")(?P<path>[^":]+)"', embedded, html)
