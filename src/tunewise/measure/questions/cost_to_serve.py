"""What does a request cost? Tokens, milliseconds alone, batched, mixed; bytes for many domains.

Entries are timed in turns, round by round, so that a slow minute of the machine meets them all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
from pydantic import Field

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import LowRankPart, ShallowModelPart, WeightsPart
from tunewise.adaptation.predict import BasePredictor, Predictor
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import sampled
from tunewise.measure.questions._together import SERVED, SHARE, served, served_passes
from tunewise.measure.questions._work import answering_passes
from tunewise.model.base import Base
from tunewise.numerics.spread import student_interval
from tunewise.task.types import Row

DOMAINS = (1, 10, 1000)
_ALONE = "milliseconds_alone"
_BATCHED = "milliseconds_batched"


class CostToServeSettings(QuestionSettings):
    """Settings of `cost_to_serve`."""

    rounds: int = Field(5, ge=2, description="rounds in which every entry is timed once")
    batch_rows: int = Field(16, ge=1, description="test rows answered together in a round")
    alone_rows: int = Field(3, ge=1, description="test rows answered one by one in a round")


class CostToServe:
    """Times what is stored, and multiplies what is kept."""

    name = "cost_to_serve"
    title = "Cost to serve"
    asks = "what does a request cost, what do many domains take, and when does a dear fit pay off?"
    Settings = CostToServeSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: CostToServeSettings) -> int:
        """See `Question.cost`."""
        batch, alone = _rows(context, settings)
        inputs = [row.input for row in (*batch, *alone, batch[0])]
        turns = settings.rounds * sum(
            answering_passes(context.base, subject.load(), inputs)
            for subject in context.chosen().values()
        )
        return turns + served_passes(context, [row.input for row in batch], settings.rounds)

    def measure(self, context: QuestionContext, settings: CostToServeSettings) -> Answered:
        """See `Question.measure`."""
        rows = _rows(context, settings)
        timed: dict[str, list[dict[str, Any]]] = {name: [] for name in context.subjects}
        for turn in range(settings.rounds):
            for name, subject in context.chosen().items():

                def make(subject: Subject = subject) -> Mapping[str, Any]:
                    return _timed(context, subject.load(), *rows)

                timed[name].append(context.once(f"{name}, round {turn + 1}", make))
        found: list[Measurement] = []
        for name, subject in context.chosen().items():
            found += _of_entry(name, subject, timed[name])
        found += served(context, [row.input for row in rows[0]], settings.rounds)
        pairs = _break_even(context, timed)
        return Answered(
            (*found, *pairs), _findings(found, pairs), (_picture(found), _growth(found))
        )


def _rows(
    context: QuestionContext, settings: CostToServeSettings
) -> tuple[Sequence[Row], Sequence[Row]]:
    chosen = sampled(context.test, settings.batch_rows)
    return chosen, chosen[: settings.alone_rows]


def _timed(
    context: QuestionContext, adaptation: Adaptation, batch: Sequence[Row], alone: Sequence[Row]
) -> dict[str, Any]:
    """Seconds of one round, and what the adaptation holds in memory."""
    encode = context.base.tokenizer.encode
    with context.predictor(adaptation) as predictor:
        predictor.answers([batch[0].input])  # what is made once is not timed
        began = time.perf_counter()
        predictor.answers([row.input for row in batch])
        batched = time.perf_counter() - began
        singles = []
        for row in alone:
            began = time.perf_counter()
            predictor.answers([row.input])
            singles.append(time.perf_counter() - began)
        held = _memory_bytes(context.base, adaptation, predictor)
    return {
        "batched": batched / len(batch),
        "alone": float(np.mean(singles)),
        "tokens": sum(len(encode(row.input, add_special_tokens=False)) for row in batch),
        "tokens_alone": sum(len(encode(row.input, add_special_tokens=False)) for row in alone),
        "rows": len(batch),
        "rows_alone": len(alone),
        "bytes": held,
    }


def _memory_bytes(base: Base, adaptation: Adaptation, predictor: Predictor) -> int:
    """What one more adaptation takes beside the base: its prefix and what lives in the model."""
    held = 0
    if isinstance(predictor, BasePredictor):
        for each in (predictor.readout, *predictor.readout.others):
            tensors = each.prefix.tensors()
            held += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    for part in adaptation.parts:
        if isinstance(part, LowRankPart | WeightsPart):
            held += sum(tensor.numel() for tensor in part.tensors.values()) * base.dtype.itemsize
        elif isinstance(part, ShallowModelPart):
            sizes = (tensor.numel() * tensor.element_size() for tensor in part.tensors.values())
            held += sum(sizes)
    return held


def _of_entry(
    name: str, subject: Subject, rounds: Sequence[Mapping[str, Any]]
) -> list[Measurement]:
    record, seeds = subject.record, (subject.record.seed,)
    found = [
        Measurement(
            "prompt_tokens_per_request",
            name,
            "tokens",
            record.prompt_tokens_per_request,
            len(record.test),
            "positions and tokens around a row's own text, mean over test rows; those shared by "
            "all rows are computed once and read by every row",
            higher_is_better=False,
            seeds=seeds,
        )
    ]
    speeds = [each["tokens"] / (each["batched"] * each["rows"]) for each in rounds]
    alone = [each["tokens_alone"] / (each["alone"] * each["rows_alone"]) for each in rounds]
    how = "wall-clock on this machine; mean of n rounds in which entries take turns, Student's t"
    for what, unit, values, better in (
        (_BATCHED, "milliseconds", [1000 * each["batched"] for each in rounds], False),
        (_ALONE, "milliseconds", [1000 * each["alone"] for each in rounds], False),
        ("tokens_per_second_alone", "tokens_per_second", alone, True),
        ("tokens_per_second", "tokens_per_second", speeds, True),
    ):
        mean, low, high = student_interval(values)
        found.append(
            Measurement(
                what,
                name,
                unit,
                mean,
                len(values),
                how,
                None if low is None else max(0.0, low),
                high,
                better,
                seeds=seeds,
            )
        )
    for domains in DOMAINS:
        for what, each, kept in (
            ("bytes_on_disk", record.bytes_on_disk, "folder of the adaptation"),
            ("bytes_in_memory", rounds[0]["bytes"], "tensors beside the base's, prefix computed"),
        ):
            found.append(
                Measurement(
                    what,
                    name,
                    "bytes",
                    float(domains * each),
                    1,
                    f"{kept}, times the domains; the base itself is there once and not counted",
                    higher_is_better=False,
                    seeds=seeds,
                    part={"domains": domains},
                )
            )
    return found


def _break_even(
    context: QuestionContext, timed: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Measurement]:
    """For every two entries of which one is dearer to fit: the requests above which it pays off."""
    chosen = context.chosen()
    found = []
    for dear, cheap in permutations(chosen, 2):
        more = chosen[dear].record.seconds - chosen[cheap].record.seconds
        if more <= 0:
            continue
        slow = np.array([each["batched"] for each in timed[cheap]])
        quick = np.array([each["batched"] for each in timed[dear]])
        seeds = tuple(sorted({chosen[name].record.seed for name in (dear, cheap)}))
        found.append(replace(_pair(dear, cheap, more, slow, quick), seeds=seeds))
    return found


def _pair(dear: str, cheap: str, more: float, slow: Any, quick: Any) -> Measurement:
    """Requests after which the dearer fit has paid off, by seconds of this machine."""
    name, unit = "break_even_requests", "requests"
    # In pairs of rounds: they shared the machine's state.
    mean, low, high = student_interval(slow - quick)
    if low is None or high is None:
        return absent(name, dear, unit, "one round shows no spread", beside=cheap, n=1)
    if high <= 0 or mean <= 0:
        reason = f"{dear} takes longer to fit and, per request, no less time"
        return absent(name, dear, unit, reason, beside=cheap, n=len(slow))
    if low <= 0:
        reason = "the two cannot be told apart per request in so many rounds"
        return absent(name, dear, unit, reason, beside=cheap, n=len(slow))
    return Measurement(
        name,
        dear,
        unit,
        more / mean,
        len(slow),
        "seconds of fitting more over seconds per request less, batched; interval by Student's t "
        "over rounds, the seconds of the fits as they were",
        more / high,
        more / low,
        beside=cheap,
    )


def _findings(found: Sequence[Measurement], pairs: Sequence[Measurement]) -> tuple[str, ...]:
    times = [
        (each.value, each.about) for each in found if each.name == _ALONE and each.value is not None
    ]
    (least, quick), (most, slow) = min(times), max(times)
    told = []
    if quick != slow:
        told.append(
            f"A request by itself takes from {least:.1f} ms ({quick}) to {most:.1f} ms ({slow})."
        )
    told += [
        "On one server, with the entries mixed in every batch, rows come at "
        f"{100 * each.value:.0f}% of the speed that they have entry by entry."
        for each in found
        if each.name == SHARE and each.value is not None
    ]
    paid = [each for each in pairs if each.value is not None]
    told += [
        f"{each.about} takes longer to fit than {each.beside} and makes up for it after "
        f"{each.value:,.0f} requests ({each.low:,.0f} to {each.high:,.0f})."
        for each in sorted(paid, key=lambda each: each.number)[:3]
    ]
    return tuple(told)


def _picture(found: Sequence[Measurement]) -> Picture:
    names = {_ALONE: "alone", _BATCHED: "in a batch", SERVED: "in a batch of the server"}
    points = [
        Point(each.about, each.value, each.low, each.high, group=names[each.name])
        for each in found
        if each.name in names and each.value is not None
    ]
    return Picture("Time of a request", "dots", "milliseconds, wall-clock", "", tuple(points))


def _growth(found: Sequence[Measurement]) -> Picture:
    points = [
        Point(each.about, each.value / 1e6, at=float(each.part["domains"]))
        for each in found
        if each.name == "bytes_on_disk" and each.value
    ]
    return Picture(
        "Disk taken by many domains, beside one base",
        "lines",
        "domains",
        "megabytes",
        tuple(points),
        log_x=True,
    )


QUESTION = CostToServe()
