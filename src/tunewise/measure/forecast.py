"""How long will the questions take? Planned token passes, at the pace that was seen so far.

At first that is the pace of the run's own fits and answers; with every pass that a question makes
its own counts more. Passes are not all alike (a generated token takes longer than a position that
is read), so times are said with "about".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunewise.measure.records import FitRecord

# The run's own pace weighs as much as this part of all that is planned.
_PRIOR = 0.05
# Of the default budget for such rows: about what a question takes that only answers, whatever the
# run's own budget is, and what one answers that fits again. Of the run's: the least of the fits of
# such a one, for its first two entries.
_ANSWERING, _ANSWERING_FITS, _FITTING = 0.4, 0.2, 3.0


@dataclass(slots=True)
class Watch:
    """Seconds of a piece of work, those of an earlier process included.

    Attributes:
        began: when this process began with it, by `time.perf_counter`.
        before: seconds that an earlier process spent on pieces that are kept.
    """

    began: float = field(default_factory=time.perf_counter)
    before: float = 0.0

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before + time.perf_counter() - self.began


def pace_of(records: Iterable[FitRecord], answering: Mapping[str, int]) -> float:
    """Seconds of a token pass, over fits and answers of a run; 0 where the base was never called.

    Args:
        records: of the run.
        answering: by method, token passes of answering the test rows once.
    """
    seconds, passes = 0.0, 0
    for record in records:
        if not record.flops:
            continue
        seconds += record.seconds + record.milliseconds_per_row * len(record.test) / 1000
        passes += record.forward_tokens + record.backward_tokens + answering[record.method]
    return seconds / passes if passes else 0.0


def guess(settings: Iterable[Any], fits_passes: int, budget: int, usual: int) -> int:
    """About how many token passes questions will take, before there are fits to count by.

    It is no limit: what answering costs depends on the prompts that will be found.

    Args:
        settings: of the questions (`QuestionSettings`); those that may fit again have a `share`.
        fits_passes: token passes of all fits of the run together.
        budget: token passes of one fit.
        usual: the default budget for rows as long as these.
    """
    found = 0.0
    for each in settings:
        if not each.runs_model:
            continue
        share = getattr(each, "share", None)
        if share is None:
            found += _ANSWERING * usual
        else:
            found += _ANSWERING_FITS * usual + max(share * fits_passes, _FITTING * budget)
    return round(found)


class Forecast:
    """What is left of some pieces of work.

    Args:
        planned: token passes by piece.
        pace: seconds of a token pass, as seen before.
    """

    def __init__(self, planned: Mapping[str, int], pace: float) -> None:
        self.total = sum(planned.values())
        self._left = dict(planned)
        self._passes = _PRIOR * self.total
        self._seconds = pace * self._passes

    def done(self, name: str, spent: int) -> int:
        """Token passes of all that is planned that are done, `spent` of them on the present piece.

        A piece that ends early, or takes more than was planned, counts as it was planned.
        """
        return self.total - sum(self._left.values()) + min(spent, self._left[name])

    def seconds_left(self, name: str = "", spent: int = 0, seconds: float = 0.0) -> float:
        """Of everything.

        Args:
            name: of the present piece; "" where none is under way.
            spent: token passes spent on it.
            seconds: that these took.
        """
        told = self._tells(name, spent)
        passes = self._passes + spent * told
        pace = (self._seconds + seconds * told) / passes if passes else 0.0
        return pace * (self.total - self.done(name, spent) if name else sum(self._left.values()))

    def end(self, name: str, spent: int, seconds: float) -> None:
        """A piece is done, whatever it took."""
        told = self._tells(name, spent)
        del self._left[name]
        self._passes += spent * told
        self._seconds += seconds * told

    def _tells(self, name: str, spent: int) -> bool:
        """Whether a piece's seconds say what a token pass takes: not those of a classifier that
        makes none, nor those before the first passes."""
        planned = self._left.get(name, 0)
        return spent > 0 and spent >= _PRIOR * planned
