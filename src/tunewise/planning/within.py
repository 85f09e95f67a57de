"""The budget that a time pays for on this machine."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from tunewise.planning.records import RunPlan

# Round numbers, so that a machine that is a little slower today still takes the same.
_STEPS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
_ROUND: list[int] = [step * 10**power for power in range(1, 7) for step in _STEPS]
_BUDGETS = [number for number in _ROUND if number >= 1_000]
# Of a time, what answering may take before fewer test rows are answered; and rows below which
# intervals would say little.
_ANSWERING_SHARE = 0.4
_FEWEST_TEST_ROWS = 200


def rows_within(test_rows: int, answering: Callable[[int], float], seconds: float) -> int:
    """How many test rows can be answered in two fifths of a time: all, or a round number.

    Args:
        test_rows: that there are.
        answering: seconds that answering takes, with so many of them; what is answered besides
            is in it. Asked twice at most: in between it grows evenly.
        seconds: that there are for everything.

    Returns:
        No fewer than 200, unless there are fewer.
    """
    room, fewest = _ANSWERING_SHARE * seconds, _FEWEST_TEST_ROWS
    if test_rows <= fewest or answering(test_rows) <= room:
        return test_rows
    least = answering(fewest)
    a_row = (answering(test_rows) - least) / (test_rows - fewest)
    paid = [n for n in _ROUND if fewest <= n < test_rows and least + a_row * (n - fewest) <= room]
    return max(paid, default=fewest)


def plan_within(planned: Callable[[int], RunPlan], seconds: float) -> RunPlan:
    """The plan with the largest round budget whose fits, measuring and questions keep to a time.

    Where the time is too short for every method to be fitted, it is the least budget that pays for
    every method: it takes longer than asked, and says how long.

    Args:
        planned: the run's plan at so many token passes per fit.
        seconds: for all of it; what was loaded and timed before is not counted.
    """

    def takes(budget: int) -> float:
        plan = planned(budget)
        return 0.0 if plan.skipped else plan.seconds

    # What is left out for want of budget comes first in this order, then what keeps to the time.
    kept = bisect_right(_BUDGETS, seconds, key=takes)
    paying = bisect_left(_BUDGETS, True, key=lambda budget: not planned(budget).skipped)
    return planned(_BUDGETS[min(max(kept - 1, paying), len(_BUDGETS) - 1)])
