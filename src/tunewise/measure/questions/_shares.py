"""What a dear question is asked about, where all entries would cost more than the comparison did.

Every fit again costs what a fit of the run costs, and there are seven questions that fit or answer
again. So each has a share: token passes that it may plan with, in those of all fits of the run. The
entries that matter most come first: the best that is trained, the best prompt, then the others by
their score on validation rows. The first two are asked about in any case, since one alone compares
with nothing; what calls the base for nothing costs nothing. What is left out is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import Field

from tunewise.measure.evidence import Measurement, absent
from tunewise.measure.questions._again import passes_of, validation_mean
from tunewise.measure.questions._contract import QuestionContext, Subject

K = TypeVar("K")
AT_LEAST = 2
REASON = "left out to keep to the question's share of the work"


def share_field(default: float) -> Any:
    """The field `share` of a question's settings."""
    words = "what it may plan, as a part of the token passes of all fits of the run"
    return Field(default, gt=0, allow_inf_nan=False, description=words)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[K]):
    """What is asked about and what is left out, either in the order in which it matters.

    Attributes:
        kept: pieces of work.
        left_out: others.
        cost: token passes of those that are kept.
    """

    kept: tuple[K, ...]
    left_out: tuple[K, ...]
    cost: int


def by_weight(entries: Mapping[str, Sequence[Subject]]) -> list[str]:
    """Names of entries, those that matter most first; see the module's text."""
    ordered = sorted(entries, key=lambda name: (-validation_mean(entries[name][0].record), name))
    trained = [name for name in ordered if _is_trained(entries[name][0])]
    # The plain instruction is the prompt that cost least to find: it stands behind a searched one.
    prompts = [name for name in ordered if entries[name][0].record.parts == ("prompt_text",)]
    plain = min(prompts, key=lambda name: passes_of(entries[name][0].record), default="")
    prompts = [name for name in prompts if name != plain or len(prompts) == 1]
    return list(dict.fromkeys([*trained[:1], *prompts[:1], *ordered]))


def _is_trained(subject: Subject) -> bool:
    return any(part not in ("prompt_text", "shallow_model") for part in subject.record.parts)


def within(
    context: QuestionContext, costs: Mapping[K, float], share: float, *, everything: bool
) -> Chosen[K]:
    """Of pieces of work, in the order in which they matter, those that a share pays for.

    Args:
        context: of the question.
        costs: token passes of each piece, what matters most first.
        share: of the token passes of all fits of the run.
        everything: whether all is asked for, whatever it costs.
    """
    left = share * sum(
        passes_of(subject.record) for fits in context.subjects.values() for subject in fits
    )
    kept: dict[K, float] = {}
    for number, (piece, cost) in enumerate(costs.items()):
        # The first two may have taken more than there is; what costs nothing is still in.
        if everything or number < AT_LEAST or cost <= max(left, 0.0):
            kept[piece] = cost
            left -= cost
    left_out = tuple(piece for piece in costs if piece not in kept)
    return Chosen(tuple(kept), left_out, round(sum(kept.values())))


def not_asked(name: str, entries: Sequence[str], unit: str = "score") -> list[Measurement]:
    """The absent figure of every entry that was left out.

    Args:
        name, unit: of the figure.
        entries: that were left out.
    """
    return [absent(name, entry, unit, REASON) for entry in entries]


def left_out_text(question: str, entries: Sequence[str], share: float) -> tuple[str, ...]:
    """The sentence that tells what was left out; none where nothing was.

    Args:
        question: its name.
        entries: that were left out.
        share: of the question.
    """
    if not entries:
        return ()
    return (
        f"Left out: {', '.join(entries)}. The question keeps to {share:g} of the work of the run's "
        f"fits; a larger `share` under [questions.{question}] takes in more.",
    )
