"""What the methods store is a PEFT checkpoint: PEFT's own model computes our logits from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, fit, planted_view

from tunewise.adaptation import store
from tunewise.adaptation.parts import text_replaced
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.model.forward import pad_rows, row_inputs, selected_logits

CASES: list[tuple[str, dict[str, Any]]] = [
    ("soft_prompt", {}),
    ("soft_prompt", {"virtual_tokens": 5}),
    ("soft_prompt", {"virtual_tokens": 3, "residual_width": 4}),
    ("lora", {"rank": 2}),
    ("lora", {"rank": 2, "alpha": 5.0, "dora": True}),
    ("lora", {"rank": 4, "rslora": True}),
    ("lora", {"rank": 4, "layers": "embeddings"}),
    ("lora", {"rank": 2, "layers": "q_proj,embed_tokens"}),
]
TOGETHER: list[dict[str, Any]] = [
    {"lora_rank": 2},
    {"lora_rank": 2, "lora_layers": "embeddings", "soft_prompt_virtual_tokens": 5},
    {
        "lora_rank": 2,
        "lora_layers": "embeddings",
        "soft_prompt_virtual_tokens": 5,
        "soft_prompt_placed": "instead",
    },
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_peft_computes_the_same_logits(
    architecture: str, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """peft#2043: a prompt that was saved and loaded again had no effect."""
    if "embed_tokens" in settings.get("layers", "") and architecture == "gpt2":
        pytest.skip("its embeddings have another name")
    base, view = base_of(architecture), planted_view()
    # A start that a few steps improve, so that what is stored is no untouched start.
    adaptation = fit(
        base, name, view, steps=4, learning_rate=1e-2, batch_size=8, judgements=4, **settings
    )
    store.save(adaptation, tmp_path / "ada")
    fresh = base_of(architecture).model
    peft_model = PeftModel.from_pretrained(fresh, tmp_path / "ada").eval()
    row = view.validation[0]
    with predictor_for(base, store.load(tmp_path / "ada")) as predictor:
        assert isinstance(predictor, BasePredictor)
        readout, renderer = predictor.readout, predictor.readout.renderer
        own = renderer.row_tokens(row.input) + renderer.answer_tokens(row.output)
        padded = pad_rows([own], base.device, left=False)
        with torch.no_grad():
            ours = selected_logits(
                base,
                readout.prefix,
                row_inputs(base, readout.prefix.length, padded),
                padded.mask.nonzero(as_tuple=True),
            )
    with_text = torch.tensor([renderer.shared_tokens + own])
    ids = torch.tensor([own]) if text_replaced(adaptation.parts) else with_text
    with torch.no_grad():
        theirs = peft_model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        plain = base.model(input_ids=with_text).logits[0]
    torch.testing.assert_close(ours, theirs[-len(own) :], atol=1e-4, rtol=1e-4)
    if adaptation.provenance.notes["best_step"] > 0 or "virtual_tokens" in settings:
        assert (ours - plain[-len(own) :]).abs().max() > 1e-3


@pytest.mark.parametrize("settings", TOGETHER, ids=str)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_peft_computes_the_logits_of_two_parts(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """PEFT holds one kind at a time: its LoRA from the root, its prompt from the folder below."""
    base, view = base_of(architecture), planted_view()
    rates = {"soft_prompt_learning_rate": 1e-2, "lora_learning_rate": 1e-2}
    adaptation = fit(
        base, "soft_prompt+lora", view, steps=4, batch_size=8, judgements=4, **rates, **settings
    )
    store.save(adaptation, tmp_path / "ada")
    tuned = PeftModel.from_pretrained(base_of(architecture).model, tmp_path / "ada").eval()
    prompted = PeftModel.from_pretrained(
        base_of(architecture).model, tmp_path / "ada" / "virtual_tokens"
    )
    before: Any = prompted.get_prompt(batch_size=1)
    row = view.validation[0]
    with predictor_for(base, store.load(tmp_path / "ada")) as predictor, torch.no_grad():
        assert isinstance(predictor, BasePredictor)
        readout, renderer = predictor.readout, predictor.readout.renderer
        own = renderer.row_tokens(row.input) + renderer.answer_tokens(row.output)
        padded = pad_rows([own], base.device, left=False)
        ours = selected_logits(
            base,
            readout.prefix,
            row_inputs(base, readout.prefix.length, padded),
            padded.mask.nonzero(as_tuple=True),
        )
    replaced = text_replaced(adaptation.parts)
    ids = torch.tensor([own if replaced else renderer.shared_tokens + own])
    with torch.no_grad():
        # By the LoRA's own embedding layer.
        text = tuned.get_input_embeddings()(ids)
        theirs = tuned(inputs_embeds=torch.cat([before, text], dim=1)).logits[0]
    torch.testing.assert_close(ours, theirs[-len(own) :], atol=1e-4, rtol=1e-4)
    assert adaptation.kinds == ("prompt_text", "virtual_tokens", "low_rank")
