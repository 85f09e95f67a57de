"""What was found in the data, as a record that can be shown and stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What was found in the data."""
