"""Several prompts that answer together: stored, refused, predicted and counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.adaptation.samples import PREFIX, PROMPT, adaptation_of, contents
from tests.laws.fitting import (
    base_of,
    context_of,
    counted_positions,
    fit,
    plain_answer_loss,
    plain_logits,
    planted_view,
)
from tests.serve.engine.planted import parts_of

from tunewise.adaptation import store
from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.checks import check_part
from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._registry import FORMATS
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.probes import hold_against_base, probe
from tunewise.adaptation.readout import label_sequences
from tunewise.errors import AdaptationError, CorruptAdaptationError
from tunewise.measure.questions._probabilities import label_probabilities
from tunewise.measure.questions._variants import FORMAT, ORDER, WORDING, Counts, variants
from tunewise.measure.questions._work import answering_passes
from tunewise.measure.questions.fragility import _with_prompt
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.serve.registry.diff import _lines
from tunewise.task.prompt import MOST_PROMPTS, Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind

VIEW = planted_view()
POOL = tuple(Demonstration(row.input, row.output) for row in VIEW.train)
PROMPTS = (
    PromptText("Say yes or no."),
    PromptText("Yes or no?", (Demonstration("ab", "no"), Demonstration("cd", "yes")), slot="user"),
    PromptText("", pool=POOL, nearest=2),
)
TEXT = PromptTextPart(PROMPTS[0], PROMPTS[1:])
INPUTS = ["abc0", "a longer row of text 1", "", "é日本 0"]


def ensemble(base: Base, *, with_lora: bool = False, **changes: Any) -> Adaptation:
    """Three prompts, behind a random LoRA where asked."""
    plain = fit(base, "zero_shot", VIEW)
    others = parts_of(base, "low_rank", 0)[1:] if with_lora else ()
    decoding = Decoding("score", length_normalised=True, label_bias=(0.3, -0.4))
    return replace(plain, **({"parts": (TEXT, *others), "decoding": decoding} | changes))


def by_hand(base: Base, adaptation: Adaptation, text: str) -> np.ndarray[Any, Any]:
    """(L,) probabilities: every label behind every prompt in a pass of its own, then the mean."""
    sums = []
    with attached(base, adaptation.parts), torch.no_grad():
        for prompt in adaptation.prompts:
            renderer = Renderer(base.tokenizer, adaptation.spec, prompt)
            before = renderer.shared_tokens + renderer.row_tokens(text)
            labels = label_sequences(renderer)
            sums.append([-float(plain_answer_loss(base, before, each)) for each in labels])
    lengths = [len(tokens) for tokens in label_sequences(renderer)]
    scores = np.array(sums).sum(axis=0) / len(sums) / lengths + adaptation.decoding.label_bias
    return np.asarray(np.exp(scores) / np.exp(scores).sum())


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_the_answer_is_that_of_the_mean(architecture: str, with_lora: bool) -> None:
    base = base_of(architecture)
    adaptation = ensemble(base, with_lora=with_lora)
    wanted = [by_hand(base, adaptation, text) for text in INPUTS]
    with predictor_for(base, adaptation) as predictor:
        answers = predictor.answers(INPUTS)
        table = label_probabilities(predictor, adaptation, INPUTS)
    labels = adaptation.spec.labels
    for answer, row, probability in zip(answers, table, wanted, strict=True):
        assert answer.text == labels[int(probability.argmax())]
        assert answer.probability == pytest.approx(float(probability.max()), rel=1e-3)
        assert row.tolist() == pytest.approx(probability.tolist(), rel=1e-3)


def test_a_number_that_all_labels_share_changes_nothing() -> None:
    """So it is no matter whether each prompt's scores are made a distribution first."""
    scores = np.random.default_rng(0).normal(size=(3, 5, 4))
    normal = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    for one, other in zip(scores.mean(axis=0), normal.mean(axis=0), strict=True):
        assert np.exp(one) / np.exp(one).sum() == pytest.approx(np.exp(other) / np.exp(other).sum())


def test_all_prompts_are_paid_and_shown() -> None:
    base = base_of()
    adaptation = ensemble(base)
    ledger = Ledger(base.body_parameters, base.head_parameters)
    with counted_positions(base) as counts, predictor_for(base, adaptation, ledger) as predictor:
        predictor.answers(INPUTS)
        shown = predictor.prompt_tokens(INPUTS)
    assert ledger.forward_tokens == counts["plain"] == answering_passes(base, adaptation, INPUTS)
    alone = [replace(adaptation, parts=(PromptTextPart(prompt),)) for prompt in PROMPTS]
    assert answering_passes(base, adaptation, INPUTS) == sum(
        answering_passes(base, each, INPUTS) for each in alone
    )
    single = []
    for each in alone:
        with predictor_for(base, each) as predictor:
            single.append(predictor.prompt_tokens(INPUTS))
    own = np.mean([len(base.tokenizer.encode(text, add_special_tokens=False)) for text in INPUTS])
    assert shown == pytest.approx(sum(single) + 2 * own)


def test_a_row_too_long_behind_one_prompt_is_a_failure() -> None:
    base = base_of()
    adaptation = ensemble(base)
    alone = replace(adaptation, parts=(PromptTextPart(PROMPTS[0]),))
    with predictor_for(base, alone) as predictor:
        assert predictor.answers(["x" * 470])[0].text is not None
    with predictor_for(base, adaptation) as predictor:
        short, long = predictor.answers(["abc0", "x" * 470])
        assert short.text is not None
        assert long.text is None
        assert "the model's context leaves" in long.failure
        table = label_probabilities(predictor, adaptation, ["abc0", "x" * 470])
        assert table[1].tolist() == [0.5, 0.5]
        with pytest.raises(AdaptationError, match="several prompts"):
            predictor.answers(["abc0"], Decoding("free"))


def test_each_prompt_has_a_file_of_its_own_and_one_alone_has_the_old_one(tmp_path: Path) -> None:
    many, one = adaptation_of(TEXT), adaptation_of(PromptTextPart(PROMPTS[0]))
    store.save(many, tmp_path / "many")
    store.save(one, tmp_path / "one")
    files = contents(tmp_path / "many")
    names = ["prompt_text.json", "prompt_text_2.json", "prompt_text_3.json"]
    assert sorted(files) == ["adaptation.json", *names]
    assert files["prompt_text.json"] == contents(tmp_path / "one")["prompt_text.json"]
    manifest = json.loads(files["adaptation.json"])
    assert manifest["parts"] == [{"kind": "prompt_text", "files": names}]
    assert manifest["format"] == 1
    assert store.load(tmp_path / "many").prompts == PROMPTS
    turned = adaptation_of(PromptTextPart(PROMPTS[0], (PROMPTS[2], PROMPTS[1])))
    assert store.fingerprint_of(turned) != store.fingerprint_of(many)


def test_prompts_that_cannot_answer_together_are_refused(tmp_path: Path) -> None:
    other = PromptText("Other.")
    with pytest.raises(AdaptationError, match="1 of them different"):
        check_part(PromptTextPart(other, (other,)))
    many = tuple(PromptText(f"Number {n}.") for n in range(MOST_PROMPTS))
    check_part(PromptTextPart(many[0], many[1:]))
    with pytest.raises(AdaptationError, match=f"up to {MOST_PROMPTS}"):
        check_part(PromptTextPart(other, many))
    for mode in ("trie", "free", "json"):
        with pytest.raises(AdaptationError, match=f"read out as '{mode}'"):
            replace(adaptation_of(TEXT), decoding=Decoding(mode))
    with pytest.raises(AdaptationError, match="in place of their text"):
        adaptation_of(TEXT, PREFIX)
    store.save(adaptation_of(PromptTextPart(other, (PromptText("That."),))), tmp_path / "ada")
    first = (tmp_path / "ada" / "prompt_text.json").read_bytes()
    (tmp_path / "ada" / "prompt_text_2.json").write_bytes(first)
    with pytest.raises(CorruptAdaptationError):
        store.load(tmp_path / "ada")


@pytest.mark.parametrize("name", ["text", "messages", "dspy", "peft", "merged"])
def test_no_export_makes_one_prompt_of_several(name: str) -> None:
    if name == "dspy":
        pytest.importorskip("dspy")
    base = base_of()
    trained = name in {"peft", "merged"}
    source = Source(ensemble(base, with_lora=trained), base.tokenizer, lambda _: base)
    with pytest.raises(AdaptationError, match="3 prompts whose label scores are averaged") as told:
        FORMATS.find(name).files(source)
    assert "--ensemble 1" in told.value.fix


def test_probes_see_all_prompts() -> None:
    base = base_of()
    adaptation = ensemble(base)
    found = probe(base, adaptation, INPUTS)
    for row, text in enumerate(INPUTS):
        each = []
        for prompt in PROMPTS:
            renderer = Renderer(base.tokenizer, adaptation.spec, prompt)
            tokens = renderer.shared_tokens + renderer.row_tokens(text)
            each.append(plain_logits(base, tokens)[-1].log_softmax(dim=-1))
        mean = torch.stack(each).mean(dim=0).log_softmax(dim=-1)
        torch.testing.assert_close(found.first_token[row], mean.detach(), atol=1e-3, rtol=1e-3)
    assert hold_against_base(base, adaptation, INPUTS).changes[0].distance > 1e-3
    # The bare prompt first and others behind it is not the bare base.
    bare = PromptTextPart(PromptText(""), PROMPTS[:1])
    assert hold_against_base(base, ensemble(base, parts=(bare,)), INPUTS).changes


def test_a_diff_names_every_prompt() -> None:
    assert _lines(PROMPT)[0] == "Is it gut?"
    lines = _lines(TEXT)
    assert [line for line in lines if line.startswith("prompt ")] == [
        "prompt 1:",
        "prompt 2:",
        "prompt 3:",
    ]
    assert "shown: ab -> no" in lines
    assert _lines(None) == []


def test_fragility_changes_all_prompts_alike_and_leaves_words_alone() -> None:
    base = base_of()
    adaptation = ensemble(base)
    made, left_out = variants(adaptation, VIEW.validation, VIEW.train, Counts(2, 2, 2), 0)
    assert set(left_out) == {WORDING, ORDER}
    formats = [each for each in made if each.family == FORMAT]
    assert formats
    for each in formats:
        assert each.prompt == PROMPTS[0]
        changed = _with_prompt(adaptation, each.prompt, each.others)
        assert len(changed.prompts) == 3
        assert changed.prompts[1].instruction == PROMPTS[1].instruction
        assert changed.prompts[1].demonstrations != PROMPTS[1].demonstrations
        assert changed.prompts[2].pool != PROMPTS[2].pool
    plain = [each for each in made if each.family != FORMAT]
    assert plain
    assert all(_with_prompt(adaptation, each.prompt, each.others) == adaptation for each in plain)


@pytest.mark.parametrize("name", ["zero_shot", "few_shot", "lora", "prefix", "soft_prompt"])
def test_what_starts_at_several_prompts_starts_at_the_first_and_says_so(name: str) -> None:
    base = base_of()
    start = ensemble(base)
    quick = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3}
    settings: dict[str, Any] = quick if name in {"lora", "prefix", "soft_prompt"} else {}
    single = replace(start, parts=(PromptTextPart(PROMPTS[0]),))
    got = fit(base, name, VIEW, start=start, **settings)
    assert got.provenance.notes["began_behind"] == "the first of the start's 3 prompts"
    assert got.provenance.start == store.fingerprint_of(start)
    wanted = fit(base, name, VIEW, start=single, **settings)
    assert got.prompts == wanted.prompts
    assert got.decoding == wanted.decoding
    assert "began_behind" not in wanted.provenance.notes


def test_the_readout_of_several_is_not_taken_for_that_of_the_first() -> None:
    base = base_of()
    start = ensemble(base)
    got = fit(base, "few_shot", VIEW, start=start, limit=0)
    assert got.prompts == PROMPTS[:1]
    assert got.decoding == Decoding("score")
    single = replace(start, parts=(PromptTextPart(PROMPTS[0]),))
    assert context_of(base, VIEW, start=single).starting_decoding() == start.decoding


def test_a_task_without_labels_cannot_hold_several() -> None:
    base = base_of()
    spec = replace(VIEW.spec, kind=Kind.GENERATION, labels=(), metric="rouge_l")
    with pytest.raises(AdaptationError, match="cannot answer through several prompts"):
        ensemble(base, spec=spec, decoding=Decoding("free"))
