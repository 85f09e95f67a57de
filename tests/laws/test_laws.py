"""The laws that hold for every method, whatever it is called: each discovered one, two seeds."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.adaptation.test_attach import state_of
from tests.laws.fitting import (
    base_of,
    context_of,
    counted_positions,
    fit,
    generation_view,
    plain_logits,
    planted_rows,
    planted_view,
)

from tunewise.adaptation import store
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.readout import adjusted_scores
from tunewise.errors import BudgetTooSmallError
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head, packable
from tunewise.numerics.calibration import cross_entropy
from tunewise.task.load import read_source
from tunewise.task.options import TaskOptions
from tunewise.task.task import load_task
from tunewise.task.types import FitView, Kind, LockedTest

# Chains are methods too: one that only searches, one that trains twice, one that searches last; and
# so are two that are trained together.
MADE = ("few_shot>prompt_search", "soft_prompt>lora", "lora>prompt_search", "soft_prompt+lora")
METHODS = discover_methods() | {name: find_method(name) for name in MADE}
VIEWS = {Kind.CLASSIFICATION: planted_view(), Kind.GENERATION: generation_view()}
CASES = [
    pytest.param(name, kind, seed, id=f"{name}-{kind}-{seed}")
    for name, method in METHODS.items()
    for kind in VIEWS
    if kind in method.needs.kinds
    for seed in (0, 1)
]
INPUTS = ["abc0", "hgfedcba1", "", "aa bb cc dd", "é日本0"]
every_case = pytest.mark.parametrize(("name", "kind", "seed"), CASES)
every_method = pytest.mark.parametrize("name", METHODS)


@dataclass(frozen=True)
class Fitted:
    """One fit and what was seen around it."""

    base: Base
    context: FitContext
    adaptation: Adaptation
    counts: dict[str, int]
    before: dict[str, torch.Tensor]
    state: dict[str, Any]


def known_settings(name: str, **wanted: Any) -> dict[str, Any]:
    """Those that the method has; one that is made of others, behind their names."""
    fields = METHODS[name].Settings.model_fields
    links = ("", *(f"{link}_" for link in re.split("[>+]", name)))
    return {
        link + key: value for link in links for key, value in wanted.items() if link + key in fields
    }


def settings_of(name: str, **wanted: Any) -> dict[str, Any]:
    """A few steps where there are steps at all."""
    # Replaced weights move all at once; a step that helps is far smaller.
    rate = 3e-4 if "weights" in METHODS[name].produces else 1e-2
    wanted |= {"steps": 6, "batch_size": 5, "learning_rate": rate, "most_positions": 150}
    return known_settings(name, **wanted)


def run(name: str, kind: Kind, seed: int, **wanted: Any) -> Fitted:
    base = base_of("llama")
    # Tried once per model, in plain forward passes that belong to no fit.
    has_plain_head(base)
    packable(base)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    state = state_of(base)
    context = context_of(base, VIEWS[kind], seed=seed)
    with counted_positions(base) as counts:
        adaptation = fit(base, name, VIEWS[kind], context=context, **settings_of(name, **wanted))
    return Fitted(base, context, adaptation, counts, before, state)


_FITS: dict[tuple[str, Kind, int], Fitted] = {}


@pytest.fixture
def fitted(name: str, kind: Kind, seed: int) -> Fitted:
    """The fit of this case, run once."""
    key = (name, kind, seed)
    if key not in _FITS:
        _FITS[key] = run(*key)
    return _FITS[key]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@every_case
def test_l1_the_same_seed_gives_the_same_bytes(
    fitted: Fitted, name: str, kind: Kind, seed: int, tmp_path: Path
) -> None:
    store.save(fitted.adaptation, tmp_path / "one")
    store.save(run(name, kind, seed).adaptation, tmp_path / "two")
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    assert one


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if method.needs.gradients])
def test_l1_another_seed_gives_other_parts(name: str, tmp_path: Path) -> None:
    parts = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        # More virtual tokens than the text has: the rest is drawn, so that step 0, which a few
        # steps on a random model may not better, has a seed too.
        got = run(name, Kind.CLASSIFICATION, seed, virtual_tokens=80).adaptation
        store.save(got, folder)
        parts.append({k: v for k, v in files_of(folder).items() if k.endswith(".safetensors")})
    assert parts[0]
    assert parts[0] != parts[1]


@every_case
def test_l2_the_base_is_unchanged(fitted: Fitted, name: str, kind: Kind, seed: int) -> None:
    after = fitted.base.model.state_dict()
    assert after.keys() == fitted.before.keys()
    assert all(after[key].equal(tensor) for key, tensor in fitted.before.items())
    assert state_of(fitted.base) == fitted.state
    assert not any(parameter.requires_grad for parameter in fitted.base.model.parameters())


@every_case
def test_l3_and_l9_stored_and_loaded_it_answers_as_at_the_end_of_the_fit(
    fitted: Fitted, name: str, kind: Kind, seed: int, tmp_path: Path
) -> None:
    base, adaptation = fitted.base, fitted.adaptation
    store.save(adaptation, tmp_path / "ada")
    loaded = store.load(tmp_path / "ada", base_fingerprint=base.fingerprint)
    with predictor_for(base, adaptation) as predictor:
        wanted = predictor.answers(INPUTS)
        scores = scores_of(predictor, kind)
    with predictor_for(base, loaded) as predictor:
        assert predictor.answers(INPUTS) == wanted
        again = scores_of(predictor, kind)
        assert (scores is None) == (again is None)
        if scores is not None and again is not None:
            assert scores.tobytes() == again.tobytes()
        for text, answer in zip(INPUTS, wanted, strict=True):
            alone = predictor.answers([text])[0]
            assert alone.text == answer.text
            if answer.probability is not None:
                assert alone.probability == pytest.approx(answer.probability, rel=1e-3)
        judged = [
            point["loss"]
            for point in adaptation.provenance.notes.get("validation", ())
            if point["step"] == adaptation.provenance.notes["best_step"]
        ]
        if judged and kind is Kind.CLASSIFICATION:
            assert isinstance(predictor, BasePredictor)
            rows = fitted.context.view.validation
            labels = fitted.context.view.spec.labels
            raw = predictor.readout.label_scores([row.input for row in rows])
            adjusted = adjusted_scores(raw, predictor.readout.renderer, loaded.decoding)
            gold = np.array([labels.index(row.output) for row in rows])
            assert cross_entropy(adjusted, gold) in [pytest.approx(loss) for loss in judged]


def scores_of(predictor: Any, kind: Kind) -> Any:
    if kind is not Kind.CLASSIFICATION or not isinstance(predictor, BasePredictor):
        return None
    return predictor.readout.label_scores(INPUTS)


@every_case
def test_l4_the_ledger_equals_the_work_that_was_seen(
    fitted: Fitted, name: str, kind: Kind, seed: int
) -> None:
    ledger, counts = fitted.context.ledger, fitted.counts
    method = METHODS[name]
    assert ledger.forward_tokens == counts["plain"] + counts["graded"]
    passes = 2 if "weights" in method.produces else 1
    assert ledger.backward_tokens == counts["graded"] * passes
    assert (ledger.backward_tokens > 0) == method.needs.gradients
    assert (ledger.spent > 0) == method.needs.base
    work = fitted.adaptation.provenance.work
    assert work == ledger.work().as_dict()


@every_method
@pytest.mark.parametrize("limit", [0, 300, 3000, 15000])
def test_l5_the_budget_is_respected(name: str, limit: int) -> None:
    method = METHODS[name]
    kind = next(kind for kind in VIEWS if kind in method.needs.kinds)
    base = base_of()
    has_plain_head(base)
    packable(base)
    context = context_of(base, VIEWS[kind], limit=limit)
    known = method.Settings.model_fields
    settings = {"epochs": 5.0, "batch_size": 8} if "epochs" in known else {}
    with counted_positions(base) as counts:
        try:
            fit(base, name, VIEWS[kind], context=context, **settings)
        except BudgetTooSmallError:
            # Only what trains may refuse; a prompt without choosing is always affordable.
            refused = True
        else:
            refused = False
    assert not refused or (method.needs.gradients and limit < 15000)
    assert counts["plain"] + counts["graded"] <= context.ledger.spent <= limit


@every_case
def test_l6_only_declared_parts_and_only_labels(
    fitted: Fitted, name: str, kind: Kind, seed: int
) -> None:
    adaptation = fitted.adaptation
    assert adaptation.kinds
    assert set(adaptation.kinds) <= set(METHODS[name].produces)
    assert adaptation.provenance.method == name
    assert adaptation.provenance.seed == seed
    assert adaptation.spec == VIEWS[kind].spec
    if kind is Kind.CLASSIFICATION:
        with predictor_for(fitted.base, adaptation) as predictor:
            answers = predictor.answers(INPUTS)
        assert {answer.text for answer in answers} <= set(adaptation.spec.labels)


def test_l7_a_method_is_given_nothing_that_holds_test_rows() -> None:
    assert {field.name for field in dataclasses.fields(FitView)} == {"spec", "train", "validation"}
    for field in dataclasses.fields(FitContext):
        assert "test" not in field.name
        assert "LockedTest" not in str(field.type)


SECRET = "zzsecretzz"


@every_method
def test_l7_test_rows_are_never_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = METHODS[name]
    kind = next(kind for kind in VIEWS if kind in method.needs.kinds)
    view = VIEWS[kind]
    splits = {"train": view.train, "validation": view.validation, "test": view.validation}
    for split, rows in splits.items():
        lines = []
        for index, row in enumerate(rows):
            text = f"{split} {index} {row.input[::-1]} {index * 7919 % 1009} {row.input}"
            text = f"{SECRET} {text}" if split == "test" else text
            lines.append(json.dumps({"input": text, "output": row.output}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    assert set(read_source(str(tmp_path))) == set(splits)
    task = load_task(str(tmp_path), TaskOptions(kind=kind, near_duplicate_similarity=1.0))
    assert len(task.test) > 0
    base = base_of()
    texts: list[str] = []
    original = type(base.tokenizer)._encode_plus

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        texts.append(str((args, kwargs)))
        return original(self, *args, **kwargs)

    def refuse(self: LockedTest) -> Any:
        raise AssertionError("the test rows were opened during a fit")

    monkeypatch.setattr(type(base.tokenizer), "_encode_plus", spy)
    monkeypatch.setattr(LockedTest, "open", refuse)
    adaptation = fit(base, name, task.fit_view, **settings_of(name))
    assert not any(SECRET in text for text in texts)
    assert any("validation" in text for text in texts) == method.needs.base
    assert SECRET not in repr(adaptation)
    assert task.test.times_opened == 0


@every_case
def test_l8_attached_and_taken_off_the_logits_are_bit_equal(
    fitted: Fitted, name: str, kind: Kind, seed: int
) -> None:
    base, tokens = fitted.base, tuple(range(60, 90))
    with torch.no_grad():
        before = plain_logits(base, tokens)
        with predictor_for(base, fitted.adaptation) as predictor:
            predictor.answers(INPUTS)
        assert plain_logits(base, tokens).equal(before)
    assert state_of(base) == fitted.state


UNSEEN = planted_rows(60, seed=77, prefix="x")


def accuracy(base: Base, adaptation: Adaptation) -> float:
    with predictor_for(base, adaptation) as predictor:
        answers = predictor.answers([row.input for row in UNSEEN])
    right = [answer.text == row.output for answer, row in zip(answers, UNSEEN, strict=True)]
    return sum(right) / len(right)


@every_method
def test_l10_what_can_learn_the_planted_task_learns_it(name: str, prompted_base: Base) -> None:
    """The base does the task where its prompt makes it, and guesses behind the bare instruction.

    Exempt by their parts, not by name: a shallow model never calls the base, and what neither
    trains nor shows demonstrations has nothing but the bare instruction.
    """
    method = METHODS[name]
    view = planted_view(48, 24)
    if not method.needs.base:
        pytest.skip("its part is a shallow model: words counted say nothing about this task")
    settings = known_settings(name, steps=60)
    if "weights" in method.produces:
        # The default is for models a thousand times as large.
        settings["learning_rate"] = 3e-3
    adaptation = fit(prompted_base, name, view, **settings)
    prompt = next(part for part in adaptation.parts if part.kind == "prompt_text")
    text: Any = prompt
    if not method.needs.gradients and not (text.prompt.demonstrations or text.prompt.nearest):
        pytest.skip("its only part is the bare instruction, which is the untouched base itself")
    untouched = fit(prompted_base, "zero_shot", view)
    assert accuracy(prompted_base, untouched) < 0.75
    assert accuracy(prompted_base, adaptation) > 0.9


@every_method
@pytest.mark.parametrize("rate", [1e-3, 3.0])
def test_l11_a_started_rung_never_ends_below_its_start(
    name: str, rate: float, prompted_base: Base
) -> None:
    """On validation rows, each by its own readout; also where training ruins what it touches."""
    if not METHODS[name].needs.base:
        pytest.skip("a shallow model starts from nothing")
    if not METHODS[name].needs.seeds:
        pytest.skip("it chooses nothing: the foot of the ladder, which may be below any start")
    view = planted_view(48, 24)
    start = fit(prompted_base, "few_shot", view, demonstrations=2, pick="balanced")
    wanted = known_settings(name, steps=6, batch_size=8, learning_rate=rate)
    found = fit(prompted_base, name, view, start=start, **wanted)
    (loss, metric), (before, least) = (
        on_validation(prompted_base, each, view) for each in (found, start)
    )
    assert metric >= least > 0.8
    assert loss <= before + 1e-4


def on_validation(base: Base, adaptation: Adaptation, view: FitView) -> tuple[float, float]:
    """Cross-entropy over the labels and accuracy, by the adaptation's own readout."""
    labels = view.spec.labels
    gold = np.array([labels.index(row.output) for row in view.validation])
    with predictor_for(base, adaptation) as predictor:
        assert isinstance(predictor, BasePredictor)
        raw = predictor.readout.label_scores([row.input for row in view.validation])
        scores = adjusted_scores(raw, predictor.readout.renderer, adaptation.decoding)
    return cross_entropy(scores, gold), float((scores.argmax(axis=1) == gold).mean())
