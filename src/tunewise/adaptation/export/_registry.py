"""Finds the export formats: every module of this folder with a `FORMAT`."""

from __future__ import annotations

from tunewise.adaptation.export._contract import ExportFormat
from tunewise.discovery import Shelf

FORMATS = Shelf[ExportFormat](
    ExportFormat,
    "export format",
    "FORMAT",
    "tunewise.adaptation.export",
    holds="name, summary and files",
    names="see `tunewise export --help`",
)
