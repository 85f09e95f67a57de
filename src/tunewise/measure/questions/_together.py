"""Rows of several entries through the serving engine: each entry's by themselves, and all mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import ShallowModelPart, WeightsPart
from tunewise.errors import BudgetExceededError, InputError, RunError
from tunewise.measure.evidence import Measurement, absent
from tunewise.measure.questions._contract import QuestionContext
from tunewise.measure.questions._work import answering_passes
from tunewise.numerics.spread import student_interval

SERVED, MIXED, SHARE = "milliseconds_served", "milliseconds_mixed", "mixed_share"
SPEED = "tokens_per_second_mixed"
_UNITS = {MIXED: "milliseconds", SPEED: "tokens_per_second", SHARE: "ratio"}
# Parts that bring weights of their own, or need no base.
_OWN = {WeightsPart.kind, ShallowModelPart.kind}
_HOW = (
    "through the engine of `tunewise serve`, prefixes computed before; wall-clock on this machine; "
    "mean of n rounds, Student's t"
)


def carried(context: QuestionContext) -> dict[str, Adaptation]:
    """The entries whose rows share passes: those that call the base with its own weights."""
    return {
        name: subject.load()
        for name, subject in context.chosen().items()
        if not _OWN.intersection(subject.record.parts)
    }


def served_passes(context: QuestionContext, inputs: Sequence[str], rounds: int) -> int:
    """Token passes of `served`: in every round each row once by itself and once mixed."""
    entries = carried(context)
    if len(entries) < 2 or len(inputs) < 2:
        return 0
    return sum(
        answering_passes(context.base, each, [inputs[0]])
        + 2 * rounds * (answering_passes(context.base, each, inputs) - _before(context, each))
        for each in entries.values()
    )


def _before(context: QuestionContext, adaptation: Adaptation) -> int:
    """Positions before the rows, which are computed once in all."""
    texts = [""], ["", ""]
    one, two = (answering_passes(context.base, adaptation, each) for each in texts)
    return 2 * one - two


def served(context: QuestionContext, inputs: Sequence[str], rounds: int) -> list[Measurement]:
    """Time the same rows entry by entry and mixed, in turns.

    Args:
        context: base, entries and the engine.
        inputs: B rows of every entry; so many are answered at once.
        rounds: each times everything once.

    Returns:
        Milliseconds of a row by entry and mixed, and the share of the speed that mixing leaves.
    """
    entries = carried(context)
    if len(entries) < 2 or len(inputs) < 2:
        return _none("fewer than two entries share the weights of the base, or there is one row")

    def make() -> Mapping[str, Any]:
        try:
            return _timed(context, entries, inputs, rounds)
        except BudgetExceededError:
            raise
        except (InputError, RunError) as error:
            return {"own": {}, "mixed": [], "refused": {}, "fault": error.what}

    timed = context.once("on the serving engine", make)
    refused = [
        absent(SERVED, name, "milliseconds", f"the serving engine does not carry it: {reason}")
        for name, reason in timed["refused"].items()
    ]
    if not timed["mixed"]:
        reason = timed.get("fault", "it carries fewer than two of the entries")
        return [*refused, *_none(f"the serving engine could not be timed: {reason}")]
    entries = {name: entries[name] for name in timed["own"]}
    seeds = {name: (context.chosen()[name].record.seed,) for name in entries}
    own = np.array([timed["own"][name] for name in entries])
    mixed = np.array(timed["mixed"])
    found = [
        _figure(SERVED, name, "milliseconds", 1000 * line / len(inputs), seeds[name])
        for name, line in zip(entries, own, strict=True)
    ]
    every = tuple(sorted({seed for each in seeds.values() for seed in each}))
    count = len(inputs) * len(entries)
    encode = context.base.tokenizer.encode
    tokens = sum(len(encode(text, add_special_tokens=False)) for text in inputs)
    return [
        *found,
        *refused,
        _figure(MIXED, "", _UNITS[MIXED], 1000 * mixed / count, every),
        _figure(SPEED, "", _UNITS[SPEED], len(entries) * tokens / mixed, every),
        _figure(SHARE, "", _UNITS[SHARE], own.sum(axis=0) / mixed, every),
    ]


def _none(reason: str) -> list[Measurement]:
    return [absent(name, "", unit, reason) for name, unit in _UNITS.items()]


def _timed(
    context: QuestionContext,
    entries: Mapping[str, Adaptation],
    inputs: Sequence[str],
    rounds: int,
) -> dict[str, Any]:
    """Seconds of every round: of each entry's rows, and of all rows with the entries in turns."""
    refused: dict[str, str] = {}
    own: dict[str, list[float]] = {}
    mixed: list[float] = []
    with context.serving(context.base, entries, len(inputs), context.ledger) as answer:
        for name in entries:
            try:
                answer([(name, inputs[0])])  # what is made once is not timed
                own[name] = []
            except InputError as error:
                refused[name] = error.what
        turns = [(name, text) for text in inputs for name in own]
        for turn in range(rounds if len(own) > 1 else 0):
            for name, line in own.items():
                line.append(answer([(name, text) for text in inputs]))
            mixed.append(sum(answer(each) for each in _batches(turns, len(inputs))))
            context.report(context.ledger.spent, context.planned, f"mixed, round {turn + 1}")
    return {"own": own, "mixed": mixed, "refused": refused}


def _batches(turns: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    for start in range(0, len(turns), size):
        yield turns[start : start + size]


def _figure(name: str, about: str, unit: str, values: Any, seeds: tuple[int, ...]) -> Measurement:
    mean, low, high = student_interval(values)
    low = None if low is None else max(0.0, low)
    how = _HOW
    if name in (MIXED, SPEED):
        how = f"entries that share the base's weights take turns in every batch; {_HOW}"
    elif name == SHARE:
        how = f"time of the same rows entry by entry over their time mixed; {_HOW}"
    better = name in (SHARE, SPEED)
    return Measurement(name, about, unit, mean, len(values), how, low, high, better, seeds=seeds)
