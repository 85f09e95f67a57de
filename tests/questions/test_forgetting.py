"""Forgetting: against plain passes over the texts, exactly nothing after it is taken off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.questions.running import Run, toys
from tests.questions.running import Toy as AnyQuestion

from tunewise.adaptation.attach import attached
from tunewise.adaptation.parts import LowRankPart, PromptTextPart
from tunewise.measure.questions._material import neutral_texts, riddles
from tunewise.measure.questions._registry import QUESTIONS
from tunewise.measure.questions.forgetting import _asked
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

QUESTION = QUESTIONS.find("forgetting")


def slow_losses(base: Any, texts: list[str], ahead: tuple[int, ...]) -> list[float]:
    """Mean loss per token of each text by itself behind some tokens, by transformers' own loss."""
    found = []
    for text in texts:
        own = base.tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([[*ahead, *own]])
        # The first token of a text is given.
        targets = torch.tensor([[-100] * (len(ahead) + 1) + own[1:]])
        with torch.no_grad():
            found.append(float(base.model(input_ids=ids, labels=targets).loss))
    return found


def shared(base: Any, spec: Any, instruction: str) -> tuple[int, ...]:
    """What stands before every row of a task with this instruction."""
    return Renderer(base.tokenizer, spec, PromptText(instruction)).shared_tokens


def test_losses_and_traces_on_a_run(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("forgetting", tmp_path, texts=3, riddles=8)
    assert not evidence.absent, evidence.absent
    base = small_run.jobs.ground.base
    texts = list(neutral_texts()[:3])
    spec = small_run.jobs.ground.task.spec
    before = slow_losses(base, texts, shared(base, spec, spec.instruction))
    bare = evidence.find("loss")
    assert bare is not None
    assert bare.value == pytest.approx(sum(before) / 3, abs=1e-4)
    for name in ("zero_shot", "few_shot", "soft_prompt", "prefix", "lora", "full"):
        trace = evidence.find("loss_change_detached", name)
        assert trace is not None
        assert trace.value == 0.0, name
        change = evidence.find("loss_change_attached", name)
        assert change is not None
        assert change.low is not None
        assert (change.n, change.unit) == (3, "nats_per_token")
    shallow = evidence.find("loss_change_attached", "tfidf")
    assert shallow is not None
    assert shallow.value is None
    assert "without the base" in shallow.absent
    assert any("no adaptation leaves a trace" in told for told in evidence.answered.findings)
    work = evidence.work["forward_tokens"]
    assert 0.9 * evidence.planned_passes <= work <= 1.1 * evidence.planned_passes


def test_what_lives_in_the_model_is_really_attached(small_run: Run, tmp_path: Path) -> None:
    # A large low-rank part must be seen, and by as much as transformers' own loss says.
    asking = small_run.asking(tmp_path)
    asked = replace(toys(AnyQuestion())[0], question=QUESTION, settings=QUESTION.Settings(texts=2))
    context = asking._context(asked, limit=10**7)
    subject = context.subjects["lora"][0]
    adaptation = subject.load()
    part = adaptation.part(LowRankPart)
    assert part is not None
    torch.manual_seed(0)
    drawn = {name: 2.0 * torch.randn_like(each) for name, each in part.tensors.items()}
    loud = (replace(part, tensors=drawn),)
    planted = replace(subject, load=lambda: replace(adaptation, parts=loud))
    context = replace(context, subjects={"lora": (planted,)})
    answered = QUESTION.measure(context, asked.settings)
    (change,) = [each for each in answered.measurements if each.name == "loss_change_attached"]
    texts = list(neutral_texts()[:2])
    spec = context.spec
    before = slow_losses(context.base, texts, shared(context.base, spec, spec.instruction))
    with attached(context.base, loud):
        after = slow_losses(context.base, texts, shared(context.base, spec, ""))
    plain = sum(after) / 2 - sum(before) / 2
    assert abs(plain) > 0.01
    assert change.value == pytest.approx(plain, abs=1e-4)


def test_the_plain_prompt_changes_nothing(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("forgetting", tmp_path, texts=3, riddles=8)
    for name in ("loss_change_attached", "riddles_change_attached"):
        found = evidence.find(name, "zero_shot")
        assert found is not None
        assert found.value == pytest.approx(0.0, abs=1e-6)


def test_the_material_is_sound() -> None:
    assert len(neutral_texts()) == len(set(neutral_texts())) >= 24
    assert all(100 <= len(text) <= 400 for text in neutral_texts())
    assert len({each.start for each in riddles()}) == len(riddles()) == 40
    assert len({each.skill for each in riddles()}) == 5
    for each in riddles():
        assert len(set(each.options)) == 4
        assert each.start == each.start.strip()


def test_fewer_riddles_are_of_every_skill() -> None:
    texts, some = _asked(QUESTION.Settings(texts=2, riddles=10))
    assert (len(texts), len(some)) == (2, 10)
    assert len({each.skill for each in some}) == 5


def test_several_prompts_are_all_looked_behind(small_run: Run, tmp_path: Path) -> None:
    """Prose by the mean loss, riddles by the option of the least mean loss, as labels are read."""
    asking = small_run.asking(tmp_path)
    settings = QUESTION.Settings(texts=2, riddles=4)
    asked = replace(toys(AnyQuestion())[0], question=QUESTION, settings=settings)
    context = asking._context(asked, limit=10**7)
    subject = context.subjects["zero_shot"][0]
    adaptation = subject.load()
    words = ("Say what it is.", "Which of the two is meant by this? Answer in a word.")
    part = PromptTextPart(PromptText(words[0]), (PromptText(words[1]),))
    planted = replace(subject, load=lambda: replace(adaptation, parts=(part,)))
    context = replace(context, subjects={"zero_shot": (planted,)})
    answered = QUESTION.measure(context, settings)
    found = {each.name: each for each in answered.measurements if each.about == "zero_shot"}
    texts, spec = list(neutral_texts()[:2]), context.spec
    behind = [
        sum(slow_losses(context.base, texts, shared(context.base, spec, each))) / 2
        for each in (*words, spec.instruction)
    ]
    expected = (behind[0] + behind[1]) / 2 - behind[2]
    assert abs(behind[0] - behind[1]) > 4e-4  # more than what is allowed below
    assert found["loss_change_attached"].value == pytest.approx(expected, abs=1e-4)
    assert found["loss_change_detached"].value == 0.0
    planned = QUESTION.cost(context, settings)
    assert 0.9 * planned <= context.ledger.spent <= 1.1 * planned
