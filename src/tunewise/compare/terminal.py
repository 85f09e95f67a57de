"""The table as plain strings, for the terminal."""

from __future__ import annotations

from tunewise.compare.contract import Comparison, Entry
from tunewise.compare.wording import flops_text, points, score_text, size_text, tokens_text

HEADERS = (
    "",
    "method",
    "parts",
    "test (95% interval)",
    "validation",
    "failed",
    "fit work",
    "fit seconds",
    "tokens/request",
    "ms/row",
    "size",
)


def table_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and one list of cells per entry, best first.

    The first column marks the recommended entry with "*" and those that tie with the best with "=".
    """
    return list(HEADERS), [_cells(comparison, entry) for entry in comparison.entries]


def mark(comparison: Comparison, entry: Entry) -> str:
    """ "*" for the recommended entry, "=" for one that ties with the best, else nothing."""
    if entry.method == comparison.recommendation.method:
        return "*"
    return "=" if entry.method in comparison.recommendation.tied_with else ""


def _cells(comparison: Comparison, entry: Entry) -> list[str]:
    """One entry's cells, in the order of `HEADERS`."""
    validation = entry.validation
    return [
        mark(comparison, entry),
        entry.method,
        " + ".join(entry.parts),
        score_text(entry.test),
        "not measured" if validation is None else points(validation.value),
        str(entry.test.n_failed),
        flops_text(entry.fit.flops),
        f"{entry.fit.seconds:.1f}",
        tokens_text(entry.prompt_tokens_per_request),
        f"{entry.milliseconds_per_row:.1f}",
        size_text(entry.bytes_on_disk),
    ]
