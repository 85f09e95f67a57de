"""The table as plain strings, for the terminal."""

from __future__ import annotations

from tunewise.compare.contract import Comparison


def table_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and one list of cells per entry, best first."""
    raise NotImplementedError
