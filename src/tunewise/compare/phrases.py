"""Clauses that several sentences share: a difference, a cost."""

from __future__ import annotations

from collections.abc import Callable

from tunewise.compare.contract import Entry, Pair
from tunewise.compare.priorities import SHALLOW_ROLES
from tunewise.compare.wording import flops_text, p_text, points, size_text, tokens_text


def cost_text(entry: Entry) -> str:
    """What running and keeping an entry costs, in a clause."""
    before = f"{tokens_text(entry.prompt_tokens_per_request)} tokens before each request"
    if entry.role in SHALLOW_ROLES:
        before = "no call of the model"
    fit = f", {flops_text(entry.fit.flops)} to fit" if entry.fit.flops > 0 else ""
    return f"{before}, {size_text(entry.bytes_on_disk)} on disk{fit}"


def against(pair: Pair) -> str:
    """A difference with interval and the p-value that the rule used."""
    p_value = pair.p_value if pair.p_value_holm is None else pair.p_value_holm
    limits = f"{points(pair.low)} to {points(pair.high)}"
    return f"{points(pair.difference)} points ({limits}; {p_text(p_value)})"


def interval_text(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    """The limits of an interval in brackets, with a space before; nothing where there are none."""
    return "" if low is None or high is None else f" ({write(low)} to {write(high)})"


def minus_value(entry: Entry) -> float:
    """Sort key: highest test score first."""
    return -entry.test.value
