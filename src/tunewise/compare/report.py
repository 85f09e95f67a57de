"""The report: `report.html` (one self-contained file) and `report.md`."""

from __future__ import annotations

from pathlib import Path

from tunewise.compare.contract import Comparison, ReportDetails


def write_reports(comparison: Comparison, details: ReportDetails, folder: Path) -> None:
    """Write `comparison.json`, `report.html` and `report.md` into `folder`, each atomically.

    Raises:
        StorageError: the folder cannot be written.
    """
    raise NotImplementedError
