"""The common claims about fine-tuning and prompt tuning, as data: what each says, what tests it.

Every test gives one figure a run, turned so that above zero speaks for the claim. How a claim comes
out follows from the figures by one rule (`claims.outcome`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.families import Figure, Run, few_steps, minus

Test = Callable[[Run], Figure | None]
FEW, MANY = 100, 1000  # rows to fit: "little data", "enough data"
EQUAL = 0.02  # scores that differ by less are the same for most purposes


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        text: as people say it.
        measurement: what tests it: "accuracy" and "cost" are in every run, others are questions.
        figure: what the figure is, in words; above zero speaks for the claim.
        test: the figure of a run, or None where the run does not have it.
        unit: "points" of 100, "times" (printed as a ratio; the figure is its decimal logarithm),
            "tokens", "rows", or "nats" a token.
    """

    text: str
    measurement: str
    figure: str
    test: Test
    unit: str = "points"


def better(a: str, b: str, *, least: int = 0, most: int = 10**9) -> Test:
    """Score of the best of one family minus that of another, on runs with so many rows to fit."""

    def test(run: Run) -> Figure | None:
        first, second = run.best(a), run.best(b)
        if first is None or second is None or not least <= run.train_rows <= most:
            return None
        return run.difference(first, second)

    return test


def equal(a: str, b: str, *, least: int = 0) -> Test:
    """How far two families stay within `EQUAL` of each other; below zero where they do not."""

    def test(run: Run) -> Figure | None:
        first, second = run.best(a), run.best(b)
        if first is None or second is None or run.train_rows < least:
            return None
        found = run.difference(first, second)
        return None if found is None else _within(found)

    return test


def all_equal(run: Run) -> Figure | None:
    """How far the best and the worst trained entry stay within `EQUAL`, with enough data."""
    best, worst = run.best("trained"), run.worst("trained")
    if best is None or worst is None or best is worst or run.train_rows < MANY:
        return None
    found = run.difference(best, worst)
    return None if found is None else _within(found)


def _within(found: Figure) -> Figure:
    """From a difference to the room that is left below `EQUAL`, with its limits."""
    ends = (abs(found.low), abs(found.high))
    nearest = 0.0 if found.low <= 0 <= found.high else min(ends)
    limits = EQUAL - max(ends), EQUAL - nearest
    return Figure(EQUAL - abs(found.value), *limits, found.n, found.few_steps)


def smaller(a: str, b: str, times: float) -> Test:
    """How many times smaller one family's adaptation is than another's, over so many times."""

    def test(run: Run) -> Figure | None:
        first, second = run.best(a), run.best(b)
        if first is None or second is None:
            return None
        ratio = math.log10(second["bytes_on_disk"] / first["bytes_on_disk"] / times)
        return Figure(ratio, ratio, ratio, 1)

    return test


def longer(a: str, b: str) -> Test:
    """Tokens before a request: of one family's best minus the other's. Counted."""

    def test(run: Run) -> Figure | None:
        first, second = run.best(a), run.best(b)
        if first is None or second is None:
            return None
        gap = first["prompt_tokens_per_request"] - second["prompt_tokens_per_request"]
        return Figure(gap, gap, gap, 1)

    return test


def asked(question: str, name: str, a: str, b: str, **part: Any) -> Test:
    """A question's figure of one family's best entry minus that of another's."""

    def test(run: Run) -> Figure | None:
        first, second = run.best(a), run.best(b)
        if first is None or second is None:
            return None
        one, two = (run.figure(question, name, each, part) for each in (first, second))
        if one is None or two is None:
            return None
        return replace(minus(one, two), few_steps=few_steps(first, second))

    return test


CLAIMS = (
    Claim(
        "Fine-tuning the weights scores higher than prompting.",
        "accuracy",
        "best of low-rank and full fine-tuning minus best text prompt",
        better("weights", "text"),
    ),
    Claim(
        "With little data, prompting is better than fine-tuning.",
        "accuracy",
        f"best text prompt minus best fine-tuning, at most {FEW} rows",
        better("text", "weights", most=FEW),
    ),
    Claim(
        "Soft prompts need less data than fine-tuning.",
        "accuracy",
        f"best of soft prompt and prefix minus best fine-tuning, at most {FEW} rows",
        better("soft", "weights", most=FEW),
    ),
    Claim(
        "Soft prompts lag behind fine-tuning on small models.",
        "accuracy",
        "best fine-tuning minus best of soft prompt and prefix",
        better("weights", "soft"),
    ),
    Claim(
        "LoRA is as good as full fine-tuning.",
        "accuracy",
        "2 points minus the distance between low-rank and full",
        equal("low_rank", "weights_alone"),
    ),
    Claim(
        "With enough data it does not matter how one trains.",
        "accuracy",
        f"2 points minus the distance of best and worst trained, {MANY:,} rows or more",
        all_equal,
    ),
    Claim(
        "Prefix tuning is stronger than prompt tuning.",
        "accuracy",
        "prefix minus soft prompt",
        better("kv_prefix", "virtual_tokens"),
    ),
    Claim(
        "Soft prompts beat hand-written and searched prompts.",
        "accuracy",
        "best of soft prompt and prefix minus best text prompt",
        better("soft", "text"),
    ),
    Claim(
        "Demonstrations make the model better at the task.",
        "accuracy",
        "prompt of demonstrations minus untouched base",
        better("demonstrations", "untouched"),
    ),
    Claim(
        "Searching for a better instruction pays.",
        "accuracy",
        "searched instruction minus untouched base",
        better("instruction", "untouched"),
    ),
    Claim(
        "A language model beats a small classifier.",
        "accuracy",
        "best trained minus linear classifier on word counts",
        better("trained", "classifier"),
    ),
    Claim(
        "A prompted language model beats a small classifier.",
        "accuracy",
        "best text prompt minus linear classifier on word counts",
        better("text", "classifier"),
    ),
    Claim(
        "A soft prompt is a hundred times smaller than LoRA.",
        "cost",
        "bytes of low-rank over bytes of soft prompt, over 100",
        smaller("virtual_tokens", "low_rank", 100),
        "times",
    ),
    Claim(
        "LoRA is ten times smaller than the model.",
        "cost",
        "bytes of full over bytes of low-rank, over 10",
        smaller("low_rank", "weights_alone", 10),
        "times",
    ),
    Claim(
        "Prompts make every request longer, fine-tuning does not.",
        "cost",
        "tokens before a request: best searched prompt minus best fine-tuning",
        longer("searched", "weights"),
        "tokens",
    ),
    Claim(
        "Fine-tuning forgets what the model could do; a prompt does not.",
        "forgetting",
        "loss on neutral text: fine-tuning minus text prompt",
        asked("forgetting", "loss_change_attached", "weights", "text"),
        "nats",
    ),
    Claim(
        "Fine-tuning forgets; a soft prompt does not.",
        "forgetting",
        "loss on neutral text: fine-tuning minus soft prompt or prefix",
        asked("forgetting", "loss_change_attached", "weights", "soft"),
        "nats",
    ),
    Claim(
        "Prompts are fragile, fine-tuned models are not.",
        "fragility",
        "score under the worst change that keeps the meaning, minus none: fine-tuning minus prompt",
        asked("fragility", "worst_change", "weights", "text", change="any"),
    ),
    Claim(
        "Fine-tuned models are more consistent.",
        "consistency",
        "agreement over rewordings: fine-tuning minus text prompt",
        asked("consistency", "rewording_agreement", "weights", "text"),
    ),
    Claim(
        "Fine-tuned models overfit narrow data.",
        "overfitting",
        "training minus held-out score: fine-tuning minus text prompt",
        asked("overfitting", "train_test_gap", "weights", "text"),
    ),
    Claim(
        "Wrong labels hurt fine-tuning more than prompts.",
        "wrong_labels",
        "change by spoiled answers: text prompt minus fine-tuning",
        asked("wrong_labels", "change", "text", "weights"),
    ),
    Claim(
        "Prompts carry over to other domains better than fine-tuning.",
        "out_of_domain",
        "points lost elsewhere: fine-tuning minus text prompt",
        asked("out_of_domain", "loss_elsewhere", "weights", "text"),
    ),
    Claim(
        "Soft prompts carry over to other domains better than fine-tuning.",
        "out_of_domain",
        "points lost elsewhere: fine-tuning minus soft prompt or prefix",
        asked("out_of_domain", "loss_elsewhere", "weights", "soft"),
    ),
    Claim(
        "Fine-tuning needs many rows, prompts few.",
        "data_need",
        "rows needed: best fine-tuning minus best text prompt",
        asked("data_need", "rows_needed", "weights", "text"),
        "rows",
    ),
)
