"""Is a row known by heart? Its input is begun, and what comes next is held against the row.

Greedy continuations of rows that were fitted on, beside rows that were not (Carlini et al. 2023,
section 3.1, "extractable"): what the base would write anyway is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewise.adaptation.predict import BasePredictor
from tunewise.model.decode import decode
from tunewise.task.render import Renderer
from tunewise.task.types import Row

# A sign that no input begins or ends with: it shows where the input stands in the row's tokens.
_MARK = "\u2042"


@dataclass(frozen=True, slots=True)
class Begun:
    """A row cut in the middle of its input.

    Attributes:
        row: the row.
        given: tokens up to the cut, behind the shared prefix.
        next: the row's own tokens after the cut.
    """

    row: Row
    given: tuple[int, ...]
    next: tuple[int, ...]


def begin_rows(renderer: Renderer, rows: Sequence[Row], *, tokens: int) -> list[Begun]:
    """Rows whose input has at least twice so many tokens, cut where its second half begins.

    Args:
        renderer: turns rows into tokens.
        rows: to be cut.
        tokens: how many are asked for.
    """
    found = []
    for row in rows:
        text = row.input.strip()
        own = renderer.row_tokens(text)
        first = _shared(own, renderer.row_tokens(f"{_MARK} {text}"))
        last = _shared(own, renderer.row_tokens(f"{text} {_MARK}"))
        cut = first + (last - first + 1) // 2
        if last - first >= 2 * tokens:
            found.append(Begun(row, own[:cut], own[cut : cut + tokens]))
    return found


def by_heart(predictor: BasePredictor, begun: Sequence[Begun]) -> list[bool]:
    """Whether each row goes on word for word.

    Args:
        predictor: with the adaptation attached; its ledger pays.
        begun: rows that are cut.
    """
    readout = predictor.readout
    if not begun:
        return []
    decoded = decode(
        readout.base,
        readout.prefix,
        [each.given for each in begun],
        end_token=readout.renderer.end_token_id,
        max_new_tokens=max(len(each.next) for each in begun),
        ledger=readout.ledger,
    )
    return [
        tuple(found.tokens[: len(each.next)]) == each.next
        for found, each in zip(decoded, begun, strict=True)
    ]


def recalled(
    predictor: BasePredictor, rows: Sequence[Row], *, tokens: int
) -> list[tuple[Begun, bool]]:
    """Every row that can be begun, and whether it goes on word for word behind any of the prompts.

    Each prompt of several may show other rows, and whoever asks can ask behind any.

    Args:
        predictor: as of `by_heart`.
        rows: to be begun.
        tokens: as of `begin_rows`.
    """
    found: dict[str, tuple[Begun, bool]] = {}
    for readout in (predictor.readout, *predictor.readout.others):
        begun = begin_rows(readout.renderer, rows, tokens=tokens)
        known = by_heart(replace(predictor, readout=readout), begun)
        for each, yes in zip(begun, known, strict=True):
            if yes or each.row.id not in found:
                found[each.row.id] = (each, yes)
    return list(found.values())


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    count = 0
    for one, other in zip(a[: len(b)], b[: len(a)], strict=True):
        if one != other:
            break
        count += 1
    return count
