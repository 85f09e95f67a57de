"""Adaptations saved in format 1 still load, and still give the logits recorded then.

The files of `format1/` are never written again: a test that fails here means that a user's stored
adaptations stop working. `base/` is a tiny Llama in bfloat16, computed in float32;
`expected.safetensors` holds each adaptation's logits after the last of TOKENS (for
`shallow_model` the log-probabilities of its labels); `fingerprints.json` the content hashes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from tunewise.adaptation import store
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import (
    KVPrefixPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.adaptation.shallow import ShallowPredictor

FOLDER = Path(__file__).parent / "format1"
EXPECTED = safetensors.torch.load_file(FOLDER / "expected.safetensors")
FINGERPRINTS = json.loads((FOLDER / "fingerprints.json").read_text(encoding="utf-8"))
TOKENS = torch.tensor([[72, 101, 108, 108, 111, 33, 7]])
P = TypeVar("P", bound=Part)


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER / "base", dtype=torch.float32).eval()


def logits(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits[0, -1]


def part_of(name: str, kind: type[P]) -> P:
    part = store.load(FOLDER / name).part(kind)
    assert part is not None
    return part


def virtual_tokens_by_hand() -> Tensor:
    model, part = base(), part_of("virtual_tokens", VirtualTokensPart)
    text = model.get_input_embeddings()(TOKENS)
    return logits(model, inputs_embeds=torch.cat([part.embeddings[None], text], dim=1))


def through_peft(name: str) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        model = PeftModel.from_pretrained(base(), FOLDER / name).eval()
        return logits(model, input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))

    return compute


def kv_prefix_by_hand() -> Tensor:
    part, cache = part_of("kv_prefix", KVPrefixPart), DynamicCache()
    for layer, (key, value) in enumerate(zip(part.keys, part.values, strict=True)):
        cache.update(key[None], value[None], layer)
    return logits(base(), input_ids=TOKENS, past_key_values=cache)


def weights_by_hand() -> Tensor:
    model = base()
    model.load_state_dict(dict(part_of("weights", WeightsPart).tensors), strict=False)
    return logits(model, input_ids=TOKENS)


def shallow_scores() -> Tensor:
    adaptation = store.load(FOLDER / "shallow_model")
    part = part_of("shallow_model", ShallowModelPart)
    scores = ShallowPredictor(part, adaptation.spec).scores(["my lost rate card"])
    return torch.from_numpy(scores[0])


WAYS: dict[str, tuple[str, Callable[[], Tensor]]] = {
    "the base itself": ("base", lambda: logits(base(), input_ids=TOKENS)),
    "virtual_tokens by hand": ("virtual_tokens", virtual_tokens_by_hand),
    "virtual_tokens through PEFT": ("virtual_tokens", through_peft("virtual_tokens")),
    "low_rank through PEFT": ("low_rank", through_peft("low_rank")),
    "hybrid, its LoRA through PEFT": ("hybrid", through_peft("hybrid")),
    "hybrid, its soft prompt through PEFT": (
        "virtual_tokens",
        through_peft("hybrid/virtual_tokens"),
    ),
    "kv_prefix by hand": ("kv_prefix", kv_prefix_by_hand),
    "weights by hand": ("weights", weights_by_hand),
    "shallow_model": ("shallow_model", shallow_scores),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_recorded_logits_are_given(way: str) -> None:
    name, compute = WAYS[way]
    torch.testing.assert_close(compute(), EXPECTED[name], atol=1e-4, rtol=0)
    if name not in ("base", "shallow_model"):
        assert (EXPECTED[name] - EXPECTED["base"]).abs().max() > 0.1


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_content_hash_is_the_recorded_one(name: str) -> None:
    adaptation: Adaptation = store.load(FOLDER / name)
    assert store.fingerprint_of_folder(FOLDER / name) == FINGERPRINTS[name]
    assert store.fingerprint_of(adaptation) == FINGERPRINTS[name]


def test_the_text_of_a_prompt_is_as_it_was() -> None:
    prompt = part_of("hybrid", PromptTextPart).prompt
    assert prompt.instruction == "Which?\n日本"
    assert [(each.input, each.output) for each in prompt.demonstrations] == [("a", "lost")]
    assert [(each.input, each.output) for each in prompt.pool] == [("b", "rate")]
    assert prompt.nearest == 1


def test_every_stored_adaptation_is_recorded(tmp_path: Path) -> None:
    stored = {path.parent.name for path in FOLDER.glob("*/adaptation.json")}
    assert stored == set(FINGERPRINTS)
    shutil.copytree(FOLDER / "hybrid", tmp_path / "copy")
    assert store.fingerprint_of_folder(tmp_path / "copy") == FINGERPRINTS["hybrid"]
