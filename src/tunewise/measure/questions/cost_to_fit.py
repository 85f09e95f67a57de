"""What does it take to find each adaptation? Counted work, seconds, memory; money where priced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from tunewise.measure.evidence import Answered, Measurement, Picture, Point
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.numerics.spread import student_interval

_HOURS = 3600


class CostToFitSettings(QuestionSettings):
    """Settings of `cost_to_fit`."""

    runs_model: ClassVar[bool] = False

    price_per_hour: float | None = Field(
        None, ge=0, description="price of an hour of the machine, in your currency; unset: no money"
    )
    watts: float | None = Field(
        None, gt=0, description="power the machine draws while it fits, in watts; unset: no energy"
    )


class CostToFit:
    """Read from what the run counted; nothing is computed again."""

    name = "cost_to_fit"
    title = "Cost to fit"
    asks = "what does it take to find each adaptation, in work, time and memory?"
    Settings = CostToFitSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: CostToFitSettings) -> int:
        """Nothing: the run has counted it."""
        return 0

    def measure(self, context: QuestionContext, settings: CostToFitSettings) -> Answered:
        """See `Question.measure`."""
        found = [
            each for name, fits in context.subjects.items() for each in _of(name, fits, settings)
        ]
        return Answered(tuple(found), _findings(found), (_picture(found),))


def _of(name: str, fits: Sequence[Subject], settings: CostToFitSettings) -> list[Measurement]:
    records = [fit.record for fit in fits]
    seconds = [record.seconds for record in records]
    columns: dict[str, tuple[str, str, Sequence[float]]] = {
        "token_passes": (
            "token_passes", "counted", [r.forward_tokens + r.backward_tokens for r in records]
        ),
        "flops": ("flops", "counted", [record.flops for record in records]),
        "seconds": ("seconds", "wall-clock on this machine", seconds),
        "peak_bytes": (
            "bytes", "highest resident size of the process", [r.peak_bytes for r in records]
        ),
    }  # fmt: skip
    if settings.price_per_hour is not None:
        price = settings.price_per_hour / _HOURS
        columns["money"] = ("currency", "price of the hours", [price * each for each in seconds])
    if settings.watts is not None:
        power = settings.watts / _HOURS
        columns["energy"] = ("watt_hours", "power of the hours", [power * each for each in seconds])
    found = []
    for what, (unit, how, values) in columns.items():
        mean, low, high = student_interval(values)
        found.append(
            Measurement(
                what,
                name,
                unit,
                mean,
                len(values),
                f"{how}; mean of n fits, interval by Student's t over them",
                # Student's limits of few fits may reach below what can be.
                None if low is None else max(0.0, low),
                high,
                higher_is_better=False,
                seeds=tuple(record.seed for record in records),
            )
        )
    return found


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    times = sorted(
        (each.value, each.about)
        for each in found
        if each.name == "seconds" and each.value is not None
    )
    (least, cheap), (most, dear) = times[0], times[-1]
    if cheap == dear:
        return (f"A fit of {cheap} takes {least:.1f} s.",)
    return (f"A fit takes from {least:.1f} s ({cheap}) to {most:.1f} s ({dear}).",)


def _picture(found: Sequence[Measurement]) -> Picture:
    points = [
        Point(each.about, each.value, each.low, each.high)
        for each in found
        if each.name == "seconds" and each.value is not None
    ]
    return Picture("Time of one fit", "dots", "seconds, wall-clock", "", tuple(points))


QUESTION = CostToFit()
