"""The report: `report.html` (one self-contained file) and `report.md`, beside `comparison.json`.

Row texts, answers, labels, settings and names are untrusted: the page escapes all of them, and its
policy admits no script but the one whose hash it names and no load from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tunewise.compare.contract import Comparison, ReportDetails
from tunewise.compare.page import charts_of, page_of
from tunewise.errors import StorageError

_TEMPLATES = Path(__file__).with_name("templates")


def write_reports(comparison: Comparison, details: ReportDetails, folder: Path) -> None:
    """Write `comparison.json`, `report.html` and `report.md` into `folder`, each atomically.

    Args:
        comparison: the result.
        details: texts and answers of the rows, and the data check.
        folder: made where it is missing.

    Raises:
        StorageError: the folder cannot be written.
    """
    table = json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    page = page_of(comparison, details)
    write_text(folder / "comparison.json", table + "\n")
    write_text(folder / "report.md", render_markdown(page))
    write_text(folder / "report.html", render_page(page, charts_of(comparison)))


def render_page(page: dict[str, Any], charts: dict[str, Any]) -> str:
    """The whole web page.

    Args:
        page: from `page_of`.
        charts: from `charts_of`; SVG drawn here, so it is put in as it is.
    """
    script = (_TEMPLATES / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    trusted = {
        "costs": [Markup(svg) for svg in charts["costs"]],
        "differences": Markup(charts["differences"]),
        "curves": [(method, Markup(svg)) for method, svg in charts["curves"]],
        "questions": [
            [(title, Markup(svg)) for title, svg in pictures] for pictures in charts["questions"]
        ],
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            page,
            charts=trusted,
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            style=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
        )
    )


def render_markdown(page: dict[str, Any]) -> str:
    """The short report."""
    text = _environment().get_template("report.md").render(page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        # Unpaired surrogates can stand in a row's text and cannot be encoded.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"{path.name} could not be written",
            found=str(error),
            expected="a folder that can be written, with room on the disk",
            fix="free some space or choose another --out",
        ) from error


def escape_markdown(text: object) -> str:
    """Text in which Markdown and HTML find nothing to do, on one line."""
    flat = " ".join(str(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)


def _environment() -> jinja2.Environment:
    """Templates that escape HTML and refuse names that do not exist."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    return environment
