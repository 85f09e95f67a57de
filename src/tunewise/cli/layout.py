"""Plain text in columns and paragraphs: strings in, lines out."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len

_GAP = 2
# Below this many letters a line, a hanging indent leaves nothing to read.
_NARROWEST = 24


def choose_columns(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    give_way: Sequence[str],
) -> tuple[list[str], list[list[str]]]:
    """Leave out columns until a line fits; without any left to go, lines stay longer.

    Args:
        headers: titles of the columns.
        rows: cells, one per title.
        width: letters of a line.
        give_way: titles of columns that may go, the first to go first.
    """
    kept = list(range(len(headers)))
    for title in give_way:
        if sum(_widths(headers, rows)[index] + _GAP for index in kept) - _GAP <= width:
            break
        kept = [index for index in kept if headers[index] != title]
    return [headers[index] for index in kept], [[row[index] for index in kept] for row in rows]


def lines_of(
    headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str]
) -> list[str]:
    """The title line and one line per row, never wrapped.

    Args:
        headers: titles of the columns.
        rows: cells, one per title.
        left: titles of the columns that are flush left; numbers are flush right.
    """
    widths = _widths(headers, rows)
    lines = []
    for row in (headers, *rows):
        cells = []
        for title, cell, width in zip(headers, row, widths, strict=True):
            pad = " " * (width - cell_len(cell))
            cells.append(cell + pad if title in left else pad + cell)
        lines.append((" " * _GAP).join(cells).rstrip())
    return lines


def hang(text: str, width: int, indent: int = 0) -> list[str]:
    """A text as lines of at most `width` letters, but no word is broken.

    Args:
        text: may hold line ends, which stay.
        width: letters of a line.
        indent: spaces before every line but the first.
    """
    indent = indent if width - indent >= _NARROWEST else 0
    lines: list[str] = []
    for number, piece in enumerate(text.split("\n")):
        begin = "" if number == 0 else " " * indent
        lines += textwrap.wrap(
            piece,
            max(width, _NARROWEST),
            initial_indent=begin,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return lines


def _widths(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cell_len(line[index]) for line in (headers, *rows)) for index in range(len(headers))
    ]
