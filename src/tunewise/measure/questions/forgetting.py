"""What does the base lose? Loss on plain prose and small riddles, attached and taken off again.

It is set beside the untouched base behind the task's plain instruction: behind any text at all the
base predicts prose better than behind nothing, which is no gain of the adaptation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from tunewise.adaptation.attach import attached, computed_positions, lower_parts
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import needs_base
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import SCORE, interval_text, paired_change
from tunewise.measure.questions._material import Riddle, neutral_texts, riddles
from tunewise.model.answers import Example, answer_losses, judged_positions
from tunewise.model.prefix import EMPTY_PREFIX, SharedPrefix
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.spread import student_interval
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

_NATS = "nats_per_token"
_NO_BASE = "it answers without the base model"


class ForgettingSettings(QuestionSettings):
    """Settings of `forgetting`."""

    texts: int = Field(24, ge=2, description="paragraphs of plain prose at most")
    riddles: int = Field(40, ge=2, description="riddles of language and sense at most")


class Forgetting:
    """Asks the base plain things with each adaptation attached, and once more without."""

    name = "forgetting"
    title = "What the base forgets"
    asks = "what does the base lose with an adaptation attached, and after it is taken off?"
    Settings = ForgettingSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        used = any(needs_base(each.load()) for each in context.chosen().values())
        return "" if used else "no entry calls the base model"

    def cost(self, context: QuestionContext, settings: ForgettingSettings) -> int:
        """See `Question.cost`."""
        texts, asked = _asked(settings)
        prose = judged_positions(context.base, _examples(context, texts))
        each = prose + judged_positions(context.base, _riddle_examples(context, asked))
        found = each + prose + len(_plain(context).shared_tokens)
        for subject in context.chosen().values():
            adaptation = subject.load()
            if needs_base(adaptation):
                found += prose
                for renderer in _renderers(context, adaptation):
                    found += each + computed_positions(renderer, adaptation.parts)
        return found

    def measure(self, context: QuestionContext, settings: ForgettingSettings) -> Answered:
        """See `Question.measure`."""
        material = _asked(settings)
        bare = context.once("untouched base", lambda: _untouched(context, material))
        found: list[Measurement] = []
        for name, subject in context.chosen().items():
            if not needs_base(subject.load()):
                found += _without_base(name, subject)
                continue

            def make(subject: Subject = subject) -> Mapping[str, Any]:
                return _with_and_without(context, subject.load(), material)

            seen = context.once(name, make)
            found += _figures(name, subject, bare, seen)
        found += _untouched_figures(bare)
        return Answered(tuple(found), _findings(found), (_picture(found),))


def _asked(settings: ForgettingSettings) -> tuple[tuple[str, ...], tuple[Riddle, ...]]:
    """Texts and riddles; fewer riddles are taken of every skill alike."""
    every = riddles()
    step = max(1.0, len(every) / settings.riddles)
    chosen = [every[int(at * step)] for at in range(min(settings.riddles, len(every)))]
    return neutral_texts()[: settings.texts], tuple(chosen)


def _encode(context: QuestionContext, text: str) -> tuple[int, ...]:
    return tuple(context.base.tokenizer.encode(text, add_special_tokens=False))


def _examples(context: QuestionContext, texts: Sequence[str]) -> list[Example]:
    """Each text as a first token and the rest, which it has to predict."""
    tokens = [_encode(context, text) for text in texts]
    return [Example(each[:1], each[1:]) for each in tokens]


def _riddle_examples(context: QuestionContext, asked: Sequence[Riddle]) -> list[Example]:
    """Every way to go on from every riddle's beginning."""
    return [
        Example(_encode(context, riddle.start), _encode(context, f" {option}"))
        for riddle in asked
        for option in riddle.options
    ]


def _plain(context: QuestionContext) -> Renderer:
    """The task's own instruction and nothing else."""
    prompt = PromptText(context.spec.instruction)
    return Renderer(context.base.tokenizer, context.spec, prompt)


def _untouched(
    context: QuestionContext, material: tuple[tuple[str, ...], tuple[Riddle, ...]]
) -> dict[str, Any]:
    """The base behind the plain instruction, and behind nothing."""
    renderer = _plain(context)
    context.ledger.charge(forward=len(renderer.shared_tokens))
    prefix = lower_parts(context.base, renderer, ())
    return {
        "plain": _looked(context, [prefix], material),
        "nothing": _looked(context, [EMPTY_PREFIX], (material[0], ())),
    }


def _looked(
    context: QuestionContext,
    prefixes: Sequence[SharedPrefix],
    material: tuple[tuple[str, ...], tuple[Riddle, ...]],
) -> dict[str, Any]:
    """Losses of the texts and which riddles are solved, with the base as it stands now.

    Behind several prompts both are told from the mean loss, as their labels are read.
    """
    texts, asked = material
    losses = _token_losses(context, prefixes, _examples(context, texts))
    # Longer options have more to lose.
    means = _token_losses(context, prefixes, _riddle_examples(context, asked))
    solved = []
    for riddle in asked:
        own, means = means[: len(riddle.options)], means[len(riddle.options) :]
        solved.append(float(int(np.argmin(own)) == 0))
    return {"losses": losses, "solved": solved}


def _token_losses(
    context: QuestionContext, prefixes: Sequence[SharedPrefix], examples: Sequence[Example]
) -> list[float]:
    """Loss per token of every answer, mean over the prefixes."""
    if not examples:
        return []
    counts = np.array([len(each.answer) for each in examples])
    behind = [answer_losses(context.base, each, examples, context.ledger) for each in prefixes]
    found: list[float] = (np.mean(behind, axis=0) / counts).tolist()
    return found


def _with_and_without(
    context: QuestionContext,
    adaptation: Adaptation,
    material: tuple[tuple[str, ...], tuple[Riddle, ...]],
) -> dict[str, Any]:
    prefixes = []
    with attached(context.base, adaptation.parts):
        for renderer in _renderers(context, adaptation):
            context.ledger.charge(forward=computed_positions(renderer, adaptation.parts))
            prefixes.append(lower_parts(context.base, renderer, adaptation.parts))
        seen = _looked(context, prefixes, material)
    after = _looked(context, [EMPTY_PREFIX], (material[0], ()))
    return {"attached": seen, "detached": after}


def _renderers(context: QuestionContext, adaptation: Adaptation) -> list[Renderer]:
    """Of every prompt."""
    tokenizer = context.base.tokenizer
    return [Renderer(tokenizer, adaptation.spec, each) for each in adaptation.prompts]


def _figures(
    name: str, subject: Subject, bare: Mapping[str, Any], seen: Mapping[str, Any]
) -> list[Measurement]:
    seeds = (subject.record.seed,)
    plain, nothing = bare["plain"], np.array(bare["nothing"]["losses"])
    before = np.array(plain["losses"])
    losses = np.array(seen["attached"]["losses"])
    mean, low, high = student_interval(losses - before)
    riddles_change = paired_change(seen["attached"]["solved"], plain["solved"])
    trace = np.abs(np.array(seen["detached"]["losses"]) - nothing)
    return [
        Measurement(
            "loss_change_attached",
            name,
            _NATS,
            mean,
            len(losses),
            "loss on paragraphs of plain prose behind everything that is attached, minus that of "
            "the untouched base behind the plain instruction; Student's t over paragraphs",
            low,
            high,
            False,
            seeds=seeds,
        ),
        Measurement(
            "riddles_change_attached",
            name,
            SCORE,
            riddles_change.value,
            len(plain["solved"]),
            "share of riddles solved with it attached, minus that of the untouched base behind the "
            "plain instruction, same riddles",
            riddles_change.low,
            riddles_change.high,
            True,
            seeds=seeds,
        ),
        Measurement(
            "loss_change_detached",
            name,
            _NATS,
            float(trace.max()),
            len(losses),
            "largest change of a paragraph's loss after it is taken off again; 0 is no trace",
            higher_is_better=False,
            seeds=seeds,
        ),
    ]


def _untouched_figures(bare: Mapping[str, Any]) -> list[Measurement]:
    plain = bare["plain"]
    mean, low, high = student_interval(plain["losses"])
    share = mean_interval(plain["solved"])
    return [
        Measurement(
            "loss", "", _NATS, mean, len(plain["losses"]),
            "of the untouched base on plain prose, behind the plain instruction",
            low, high, False,
        ),
        Measurement(
            "riddles_solved", "", SCORE, share.value, len(plain["solved"]),
            "by the untouched base behind the plain instruction; the likeliest of four ways to go "
            "on is the right one",
            share.low, share.high, True,
        ),
    ]  # fmt: skip


def _without_base(name: str, subject: Subject) -> list[Measurement]:
    return [
        absent(each, name, unit, _NO_BASE, seeds=(subject.record.seed,))
        for each, unit in (
            ("loss_change_attached", _NATS),
            ("riddles_change_attached", SCORE),
            ("loss_change_detached", _NATS),
        )
    ]


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    for each in found:
        if each.value is None or each.low is None or each.high is None:
            continue
        if each.name == "loss_change_attached" and not each.low <= 0 <= each.high:
            way = "worse" if each.value > 0 else "better"
            told.append(
                f"With {each.about} attached the base predicts plain prose {way}: "
                f"{each.value:+.2f} nats a token ({each.low:+.2f} to {each.high:+.2f})."
            )
        elif each.name == "riddles_change_attached" and each.high < 0:
            told.append(
                f"With {each.about} attached it solves fewer riddles: {interval_text(each)} points."
            )
    left = [each for each in found if each.name == "loss_change_detached" and each.value]
    clean = [each for each in found if each.name == "loss_change_detached" and each.value == 0.0]
    if clean and not left:
        told.append("Taken off again, no adaptation leaves a trace: every loss is what it was.")
    told += [f"{each.about} leaves a trace after it is taken off: {each.value}." for each in left]
    return tuple(told)


def _picture(found: Sequence[Measurement]) -> Picture:
    points = [
        Point(each.about, each.value, each.low, each.high)
        for each in found
        if each.name == "loss_change_attached" and each.value is not None
    ]
    return Picture(
        "Loss on plain prose with an adaptation attached, beside the untouched base",
        "dots",
        "nats per token, more is worse",
        "",
        tuple(points),
    )


QUESTION = Forgetting()
