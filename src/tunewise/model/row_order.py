"""In which order a training sees its rows; told without torch."""

from __future__ import annotations

from typing import Literal

RowOrder = Literal["shuffled", "file"]
