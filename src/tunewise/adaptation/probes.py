"""Does an adaptation do anything? A few inputs answered with it and without what was trained.

Servers have been seen to load an adapter whose tensors matched no layer and to answer as the bare
base without a word. So an adaptation is asked a few inputs beside its base: where every answer is
the same and the distributions of the first answer token agree, it does nothing. What it answers is
kept, so that a later load, another engine or an export can be held against it.

The base beside it gets the adaptation's own prompt text, if it has trained parts: a low-rank part
that changes nothing behind a good prompt is nothing, whatever the prompt does. Every trained part
is also left out alone, where there are several. An adaptation of text only stands beside the base
without any prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import (
    KVPrefixPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
)
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.readout import Readout
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.forward import pad_rows, row_inputs, selected_logits
from tunewise.model.prefix import compute_prefix, token_embeddings

PROBE_INPUTS = (
    "The delivery came two days late and the box was torn.",
    "Everything worked as described, I would buy it again.",
    "How do I change the address of my account?",
    "My card was charged twice for the same order.",
    "The patient reports mild headaches since Tuesday.",
    "Quarterly revenue rose by 4 percent to 12.3 million.",
    "Book a table for two at seven this evening.",
    "7 x 8 =",
    "Please cancel my subscription from next month on.",
    "The room was clean, but the street was loud at night.",
    "What is the capital of Peru?",
    "ok",
)
KEPT_TOKENS = 8
# Total variation between two distributions, below which they are the same but for rounding.
SAME = {torch.float32: 1e-4, torch.bfloat16: 0.02}


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What was answered to one input.

    Attributes:
        input: the text.
        answer: the answer; None where answering failed.
        probability: of the answer, where the readout has one.
        next_tokens: the most probable first tokens of the answer: (id, log-probability).
    """

    input: str
    answer: str | None
    probability: float | None
    next_tokens: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """How far answers lie from those without some of the parts.

    Attributes:
        without: the kinds of part that were left out.
        answers: how many answers differ.
        distance: largest total variation of the first token's distribution, 0 to 1.
    """

    without: tuple[str, ...]
    answers: int
    distance: float


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What an adaptation answered when it was held against its base.

    Attributes:
        dtype: that the base computed in; "" for an adaptation that needs no base.
        probes: one per input.
        base_answers: those of the base beside it.
        changes: how far the answers lie from those without what was trained.
    """

    dtype: str
    probes: tuple[ProbeAnswer, ...]
    base_answers: tuple[str | None, ...] = ()
    changes: tuple[Change, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        content: dict[str, Any] = asdict(self)
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ProbeReport:
        """The report that `as_dict` gave, also after it was JSON."""
        probes = tuple(
            ProbeAnswer(
                each["input"],
                each["answer"],
                each["probability"],
                tuple((int(token), float(value)) for token, value in each["next_tokens"]),
            )
            for each in content["probes"]
        )
        changes = tuple(
            Change(tuple(each["without"]), each["answers"], each["distance"])
            for each in content["changes"]
        )
        return cls(content["dtype"], probes, tuple(content["base_answers"]), changes)


@dataclass(frozen=True, slots=True)
class Probed:
    """Answers, and the distributions behind them.

    Attributes:
        answers: one per input.
        first_token: (n, V) log-probabilities of the answer's first token, float32 on the CPU.
    """

    answers: tuple[ProbeAnswer, ...]
    first_token: Tensor


def probe(base: Base, adaptation: Adaptation, inputs: Sequence[str] = PROBE_INPUTS) -> Probed:
    """Answer inputs with an adaptation that needs the base.

    Args:
        base: the base it was made for.
        adaptation: what to attach; anything but a shallow model.
        inputs: texts that fit into the context.

    Raises:
        WrongBaseError: it was made for another base.
        AdaptationError: a tensor does not fit the base, or it needs no base.
    """
    check_fits(base, adaptation.parts)
    with predictor_for(base, adaptation) as predictor:
        if not isinstance(predictor, BasePredictor):
            raise AdaptationError("this adaptation answers without the base")
        answers = predictor.answers(inputs)
        first = first_token(predictor, inputs)
    top = first.topk(min(KEPT_TOKENS, first.shape[1]), dim=1)
    kept = [
        tuple((int(token), round(float(value), 5)) for token, value in zip(*row, strict=True))
        for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    return Probed(
        tuple(
            ProbeAnswer(text, answer.text, answer.probability, tokens)
            for text, answer, tokens in zip(inputs, answers, kept, strict=True)
        ),
        first,
    )


def first_token(predictor: BasePredictor, inputs: Sequence[str]) -> Tensor:
    """(n, V) log-probabilities of the first token of each answer, float32 on the CPU.

    Of several prompts their mean, as a distribution again.
    """
    readout = predictor.readout
    found = [_first_token(each, inputs) for each in (readout, *readout.others)]
    return torch.stack(found).mean(dim=0).log_softmax(dim=-1) if readout.others else found[0]


def _first_token(readout: Readout, inputs: Sequence[str]) -> Tensor:
    base, renderer, prefix = readout.base, readout.renderer, readout.prefix
    found = []
    for text in inputs:  # one by one: a probe must not depend on its neighbours
        rows = pad_rows([renderer.row_tokens(text)], base.device, left=False)
        end = rows.mask.long().sum(dim=1) - 1
        select = (torch.zeros_like(end), end)
        with torch.no_grad():
            logits = selected_logits(base, prefix, row_inputs(base, prefix.length, rows), select)
        found.append(logits.log_softmax(dim=-1).cpu())
    return torch.cat(found)


def hold_against_base(
    base: Base | None, adaptation: Adaptation, inputs: Sequence[str] = PROBE_INPUTS
) -> ProbeReport:
    """Ask an adaptation and the base beside it, and refuse one that does nothing.

    Args:
        base: the base it was made for; None for a shallow model.
        adaptation: what is asked.
        inputs: what it is asked.

    Raises:
        AdaptationError: it, or one of its trained parts, changes nothing; or does not fit the base.
        WrongBaseError: it was made for another base.
    """
    if base is None or adaptation.part(ShallowModelPart) is not None:
        with predictor_for(base, adaptation) as predictor:
            answers = predictor.answers(inputs)
        return ProbeReport(
            "",
            tuple(
                ProbeAnswer(text, answer.text, answer.probability)
                for text, answer in zip(inputs, answers, strict=True)
            ),
        )
    own = probe(base, adaptation, inputs)
    bare, *others = (
        (left_out, probe(base, replace(adaptation, parts=parts), inputs))
        for left_out, parts in _lesser(adaptation.parts)
    )
    changes = tuple(_change(left_out, own, twin) for left_out, twin in (bare, *others))
    for change in changes:
        if change.answers == 0 and change.distance <= SAME.get(base.dtype, SAME[torch.bfloat16]):
            _refuse(change, len(inputs))
    return ProbeReport(
        base.dtype_name, own.answers, tuple(each.answer for each in bare[1].answers), changes
    )


def check_fits(base: Base, parts: Sequence[Part]) -> None:
    """Hold the shapes of parts that stand before the rows against the base.

    Parts inside the model are held against it when they are attached.

    Raises:
        AdaptationError: they do not fit.
    """
    for part in parts:
        if isinstance(part, VirtualTokensPart) and part.embeddings.shape[1] != base.width:
            raise AdaptationError(
                "virtual tokens do not fit the base",
                found=f"embeddings of width {part.embeddings.shape[1]}",
                expected=f"width {base.width}, as of {base.name}",
            )
        if isinstance(part, KVPrefixPart):
            with torch.no_grad():
                one = compute_prefix(base, token_embeddings(base, [0]))
            wanted = [(tuple(t.shape[1:2]), tuple(t.shape[3:])) for t in (*one.keys, *one.values)]
            found = [(tuple(t.shape[:1]), tuple(t.shape[2:])) for t in (*part.keys, *part.values)]
            if wanted != found:
                raise AdaptationError(
                    "a trained prefix does not fit the base",
                    found=f"{len(part.keys)} layers, heads and width {found[0]}",
                    expected=f"{base.layers} layers, heads and width {wanted[0]}",
                )


def _lesser(parts: tuple[Part, ...]) -> list[tuple[tuple[str, ...], tuple[Part, ...]]]:
    """What is left out, and what is left: all that was trained, then each trained part alone."""
    trained = [part for part in parts if not isinstance(part, PromptTextPart)]
    if not trained:
        return [(tuple(part.kind for part in parts), ())]
    texts = tuple(part for part in parts if isinstance(part, PromptTextPart))
    found: list[tuple[tuple[str, ...], tuple[Part, ...]]] = [
        (tuple(part.kind for part in trained), texts)
    ]
    if len(trained) > 1:
        found += [
            ((out.kind,), tuple(part for part in parts if part is not out)) for out in trained
        ]
    return found


def _change(left_out: tuple[str, ...], own: Probed, twin: Probed) -> Change:
    differ = sum(a.answer != b.answer for a, b in zip(own.answers, twin.answers, strict=True))
    distance = 0.5 * (own.first_token.exp() - twin.first_token.exp()).abs().sum(dim=1).max()
    return Change(left_out, differ, round(float(distance), 6))


def _refuse(change: Change, asked: int) -> None:
    kinds = " + ".join(change.without) if change.without else "an adaptation without parts"
    text_only = change.without in ((), ("prompt_text",))
    raise AdaptationError(
        "the adaptation answers as its base does",
        found=f"without {kinds}: the same answers to all {asked} probes, and distributions of the "
        f"first token that lie {change.distance:.1e} apart",
        expected="parts that change what is answered",
        fix="use the base as it is"
        if text_only
        else f"fit it again; or register it without {kinds}, which costs less and answers the same",
    )
