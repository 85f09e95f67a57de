"""Our folders are PEFT checkpoints: PEFT loads them, and computes the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft import inject_adapter_in_model as inject
from tests.adaptation.samples import PROMPT, adaptation_of, assert_same
from tests.conftest import ARCHITECTURES, build_model
from torch import Tensor

from tunewise.adaptation import store
from tunewise.adaptation.parts import LowRankPart, VirtualTokensPart
from tunewise.adaptation.peft_format import injected_names, json_safe, low_rank_part
from tunewise.errors import AdaptationError

TOKENS = torch.tensor([[72, 101, 108, 108, 111, 33, 7], [3, 1, 4, 1, 5, 9, 2]])
TARGETS = {
    "llama": {"q_proj", "v_proj", "down_proj", "gate_proj"},
    "qwen3": {"q_proj", "o_proj", "up_proj"},
    "gpt2": {"c_attn", "c_fc"},
}


def logits_of(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def randomised(model: Any) -> Any:
    """B begins at zero; a test needs a change that shows."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.2
    return model.eval()


def lora_config(architecture: str, **settings: Any) -> LoraConfig:
    return LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=TARGETS[architecture],
        fan_in_fan_out=architecture == "gpt2",
        task_type="CAUSAL_LM",
        **settings,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("k", [1, 5])
def test_virtual_tokens_load_as_prompt_tuning(architecture: str, k: int, tmp_path: Path) -> None:
    embeddings = torch.randn(k, 32, generator=torch.Generator().manual_seed(k))
    store.save(adaptation_of(PROMPT, VirtualTokensPart(embeddings)), tmp_path / "ada")
    model = build_model(architecture)
    text = model.get_input_embeddings()(TOKENS)
    by_hand = logits_of(
        model, inputs_embeds=torch.cat([embeddings.expand(len(TOKENS), -1, -1), text], dim=1)
    )
    loaded = PeftModel.from_pretrained(build_model(architecture), tmp_path / "ada").eval()
    by_peft = logits_of(loaded, input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))
    torch.testing.assert_close(by_peft, by_hand, atol=1e-5, rtol=0)
    assert (by_hand[:, k:] - logits_of(model, input_ids=TOKENS)).abs().max() > 1e-2


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("injected", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_low_rank_loads_as_lora(
    architecture: str, injected: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = lora_config(architecture, **settings)
    make = inject if injected else get_peft_model
    arguments = (
        (config, build_model(architecture)) if injected else (build_model(architecture), config)
    )
    tuned = randomised(make(*arguments))
    part = low_rank_part(config.to_dict(), get_peft_model_state_dict(tuned), "tiny")
    adaptation = adaptation_of(part)
    store.save(adaptation, tmp_path / "ada")
    assert_same(store.load(tmp_path / "ada"), adaptation)
    loaded = PeftModel.from_pretrained(build_model(architecture), tmp_path / "ada").eval()
    expected = logits_of(tuned, input_ids=TOKENS)
    torch.testing.assert_close(logits_of(loaded, input_ids=TOKENS), expected, atol=1e-5, rtol=0)
    plain = logits_of(build_model(architecture), input_ids=TOKENS)
    assert (expected - plain).abs().max() > 1e-2


def test_a_hybrid_loads_part_by_part(tmp_path: Path) -> None:
    config = lora_config("llama")
    tuned = randomised(get_peft_model(build_model(), config))
    low_rank = low_rank_part(config.to_dict(), get_peft_model_state_dict(tuned), "tiny")
    embeddings = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    store.save(adaptation_of(VirtualTokensPart(embeddings), low_rank), tmp_path / "ada")
    loaded = PeftModel.from_pretrained(build_model(), tmp_path / "ada").eval()
    expected = logits_of(tuned, input_ids=TOKENS)
    torch.testing.assert_close(logits_of(loaded, input_ids=TOKENS), expected, atol=1e-5, rtol=0)
    soft = PeftModel.from_pretrained(build_model(), tmp_path / "ada" / "virtual_tokens")
    assert soft.prompt_encoder["default"].embedding.weight.equal(embeddings)


def test_the_part_is_plain_and_the_same_every_time() -> None:
    config = lora_config("llama")
    tensors = get_peft_model_state_dict(randomised(get_peft_model(build_model(), config)))
    part = low_rank_part(config.to_dict(), tensors, "tiny")
    turned = {**config.to_dict(), "target_modules": sorted(TARGETS["llama"], reverse=True)}
    assert part.config["target_modules"] == sorted(TARGETS["llama"])
    assert json.loads(json.dumps(part.config)) == part.config
    assert part.config["base_model_name_or_path"] == "tiny"
    assert (
        low_rank_part(
            {**turned, "target_modules": set(turned["target_modules"])}, tensors, "tiny"
        ).config
        == part.config
    )
    first = next(iter(tensors))
    before = part.tensors[first].clone()
    tensors[first].zero_()
    assert part.tensors[first].equal(before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_part_goes_back_into_a_model_with_injected_adapters(architecture: str) -> None:
    config = lora_config(architecture)
    tuned = randomised(get_peft_model(build_model(architecture), config))
    part = low_rank_part(config.to_dict(), get_peft_model_state_dict(tuned), "tiny")
    other = inject(config, build_model(architecture)).eval()
    outcome = set_peft_model_state_dict(other, injected_names(part.tensors))
    assert not outcome.unexpected_keys
    assert logits_of(other, input_ids=TOKENS).equal(logits_of(tuned, input_ids=TOKENS))


def test_json_safe() -> None:
    from peft import PeftType

    given = {"b": {"z", "a"}, "a": (1, None), "c": PeftType.LORA, "d": {PeftType.LORA: frozenset()}}
    assert json.dumps(json_safe(given)) == (
        '{"a": [1, null], "b": ["a", "z"], "c": "LORA", "d": {"LORA": []}}'
    )


def test_only_a_lora_makes_a_low_rank_part() -> None:
    with pytest.raises(AdaptationError, match="PROMPT_TUNING"):
        low_rank_part({"peft_type": "PROMPT_TUNING"}, {}, "tiny")
    with pytest.raises(AdaptationError, match="None"):
        low_rank_part({}, {}, "tiny")
    with pytest.raises(AdaptationError, match="no tensor"):
        store.fingerprint_of(adaptation_of(LowRankPart({}, {})))
