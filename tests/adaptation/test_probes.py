"""An adaptation that does nothing is seen, whatever the kind of its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.laws.fitting import base_of, fit, planted_view

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.adaptation.probes import (
    PROBE_INPUTS,
    ProbeReport,
    hold_against_base,
    probe,
)
from tunewise.errors import AdaptationError, WrongBaseError
from tunewise.model.base import Base
from tunewise.task.prompt import Demonstration, PromptText

SOME = PROBE_INPUTS[:4]


@pytest.fixture(scope="module")
def base() -> Base:
    return base_of("llama")


@pytest.fixture(scope="module")
def made(base: Base) -> dict[str, Adaptation]:
    view = planted_view()
    quick: dict[str, Any] = {"steps": 4, "learning_rate": 1e-2, "batch_size": 8, "judgements": 4}
    return {
        "soft_prompt": fit(base, "soft_prompt", view, virtual_tokens=5, **quick),
        "prefix": fit(base, "prefix", view, **quick),
        "lora": fit(base, "lora", view, rank=2, **quick),
        "full": fit(base, "full", view, **(quick | {"learning_rate": 1e-3})),
        "zero_shot": fit(base, "zero_shot", view),
    }


def with_parts(adaptation: Adaptation, *parts: Part) -> Adaptation:
    return replace(adaptation, parts=parts)


@pytest.mark.parametrize("name", ["soft_prompt", "prefix", "lora", "full", "zero_shot"])
def test_what_does_something_is_let_in(name: str, base: Base, made: dict[str, Adaptation]) -> None:
    report = hold_against_base(base, made[name], SOME)
    assert [each.input for each in report.probes] == list(SOME)
    assert report.changes[0].distance > 1e-3
    assert report.dtype == "float32"
    assert ProbeReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_the_first_token_is_that_of_the_plain_model(
    base: Base, made: dict[str, Adaptation]
) -> None:
    adaptation = made["zero_shot"]
    found = probe(base, adaptation, SOME)
    from tunewise.task.render import Renderer

    part = adaptation.part(PromptTextPart)
    assert part is not None
    renderer = Renderer(base.tokenizer, adaptation.spec, part.prompt)
    for row, text in enumerate(SOME):
        tokens = torch.tensor([list(renderer.shared_tokens + renderer.row_tokens(text))])
        logits = base.model(tokens).logits[0, -1].log_softmax(dim=-1)
        torch.testing.assert_close(found.first_token[row], logits, atol=1e-4, rtol=1e-4)
        best = found.answers[row].next_tokens[0]
        assert best[0] == int(logits.argmax())
        assert best[1] == pytest.approx(float(logits.max()), abs=1e-4)


def _zero_low_rank(made: dict[str, Adaptation]) -> Adaptation:
    part = made["lora"].part(LowRankPart)
    assert part is not None
    tensors = {
        name: torch.zeros_like(each) if ".lora_B" in name else each
        for name, each in part.tensors.items()
    }
    return with_parts(made["lora"], *made["zero_shot"].parts, LowRankPart(part.config, tensors))


def _same_weights(base: Base, made: dict[str, Adaptation]) -> Adaptation:
    name, tensor = next(iter(base.model.named_parameters()))
    return with_parts(
        made["full"], *made["zero_shot"].parts, WeightsPart({name: tensor.detach().clone()})
    )


def _idle(base: Base, made: dict[str, Adaptation]) -> dict[str, Adaptation]:
    low_rank = _zero_low_rank(made).parts[-1]
    return {
        "zero B": _zero_low_rank(made),
        "the base's own weights": _same_weights(base, made),
        "no part": with_parts(made["zero_shot"]),
        "empty prompt": with_parts(made["zero_shot"], PromptTextPart(PromptText(""))),
        "one idle part of two": with_parts(
            made["soft_prompt"], *made["soft_prompt"].parts, low_rank
        ),
    }


@pytest.mark.parametrize(
    "name", ["zero B", "the base's own weights", "no part", "empty prompt", "one idle part of two"]
)
def test_what_does_nothing_is_refused(name: str, base: Base, made: dict[str, Adaptation]) -> None:
    with pytest.raises(AdaptationError, match="as its base does") as caught:
        hold_against_base(base, _idle(base, made)[name], SOME)
    assert caught.value.fix
    if name == "one idle part of two":
        assert "without low_rank" in caught.value.found


def test_demonstrations_alone_do_something(base: Base, made: dict[str, Adaptation]) -> None:
    prompt = PromptText("", (Demonstration("abc0", "no"), Demonstration("abc1", "yes")))
    report = hold_against_base(base, with_parts(made["zero_shot"], PromptTextPart(prompt)), SOME)
    assert report.changes[0].without == ("prompt_text",)


def test_a_shallow_model_is_asked_without_a_base(made: dict[str, Adaptation]) -> None:
    constant = with_parts(made["zero_shot"], ShallowModelPart("constant", {"answer": "yes"}))
    report = hold_against_base(None, constant, SOME)
    assert [each.answer for each in report.probes] == ["yes"] * len(SOME)
    assert report.changes == ()


def test_another_base_is_refused(made: dict[str, Adaptation]) -> None:
    with pytest.raises(WrongBaseError):
        hold_against_base(base_of("llama", seed=1), made["lora"], SOME)


@pytest.mark.parametrize(
    "part",
    [
        VirtualTokensPart(torch.randn(3, 31)),
        KVPrefixPart((torch.randn(2, 3, 8),), (torch.randn(2, 3, 8),), False),
        KVPrefixPart((torch.randn(4, 3, 8),) * 2, (torch.randn(4, 3, 8),) * 2, False),
        KVPrefixPart((torch.randn(2, 3, 4),) * 2, (torch.randn(2, 3, 4),) * 2, False),
        WeightsPart({"model.norm.weight": torch.ones(31)}),
        WeightsPart({"model.nothing.weight": torch.ones(32)}),
    ],
    ids=["width", "layers", "heads", "head width", "shape", "name"],
)
def test_what_does_not_fit_is_refused(part: Part, base: Base, made: dict[str, Adaptation]) -> None:
    with pytest.raises(AdaptationError, match="fit the base"):
        hold_against_base(base, with_parts(made["zero_shot"], part), SOME)


def test_a_low_rank_part_that_matches_no_layer_is_refused(
    base: Base, made: dict[str, Adaptation]
) -> None:
    """vllm#34186: names with another prefix, and the base answers without a word."""
    part = made["lora"].part(LowRankPart)
    assert part is not None
    renamed = {name.replace("layers", "blocks"): each for name, each in part.tensors.items()}
    with pytest.raises(AdaptationError, match="does not fit the base"):
        hold_against_base(base, with_parts(made["lora"], LowRankPart(part.config, renamed)), SOME)


def test_the_base_is_as_before(base: Base, made: dict[str, Adaptation]) -> None:
    tokens = torch.arange(20)[None]
    before = base.model(tokens).logits
    for each in made.values():
        hold_against_base(base, each, SOME)
    with pytest.raises(AdaptationError):
        hold_against_base(base, _zero_low_rank(made), SOME)
    assert base.model(tokens).logits.equal(before)


def test_a_probe_does_not_depend_on_its_neighbours(base: Base, made: dict[str, Adaptation]) -> None:
    together = probe(base, made["prefix"], SOME).first_token
    for row, text in enumerate(SOME):
        assert probe(base, made["prefix"], [text]).first_token[0].equal(together[row])


def test_generated_answers_are_probed_too(base: Base, made: dict[str, Adaptation]) -> None:
    free = replace(made["soft_prompt"], decoding=Decoding("free", max_new_tokens=4))
    report = hold_against_base(base, free, SOME)
    assert all(each.answer is not None for each in report.probes)
