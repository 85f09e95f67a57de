"""Parts as PEFT checkpoints, so that other tools load them as they are.

A `low_rank` part is PEFT's LoRA checkpoint and a `virtual_tokens` part its prompt-tuning
checkpoint (`adapter_config.json` + `adapter_model.safetensors`). Nothing here imports PEFT: the
two files are plain JSON and safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from tunewise.adaptation.parts import KVPrefixPart, LowRankPart
from tunewise.errors import AdaptationError

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
PROMPT_EMBEDDINGS = "prompt_embeddings"
"""The one tensor of a prompt-tuning checkpoint, (k, D)."""

LOW_RANK_PREFIX = "base_model.model."
"""What PEFT puts before a parameter's name in the base when it stores a LoRA."""


def virtual_tokens_config(k: int, base_name: str, width: int) -> dict[str, Any]:
    """PEFT's `adapter_config.json` for k virtual tokens.

    Args:
        k: number of virtual tokens.
        base_name: of the base model.
        width: D, the width of an embedding.

    Returns:
        JSON values. What depends on the base alone (layers, heads) is left to PEFT to read from
        the base.
    """
    return {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": k,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": "CAUSAL_LM",
        "token_dim": width,
    }


def prefix_tuning_config(
    positions: int, base_name: str, *, layers: int, heads: int, head_width: int
) -> dict[str, Any]:
    """PEFT's `adapter_config.json` for keys and values of the first positions.

    Args:
        positions: P.
        base_name: of the base model.
        layers: of the base model.
        heads: H, the key/value heads.
        head_width: of one of them.

    Returns:
        JSON values.
    """
    return {
        "base_model_name_or_path": base_name,
        "encoder_hidden_size": heads * head_width,
        "inference_mode": True,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": positions,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "task_type": "CAUSAL_LM",
        "token_dim": heads * head_width,
    }


def prefix_part(flat: Tensor, *, layers: int, heads: int, replaces_text: bool) -> KVPrefixPart:
    """Keys and values from the tensor of a prefix-tuning checkpoint.

    Args:
        flat: (P, 2 x layers x H x head width): of a layer the keys, then the values.
        layers: of the base model.
        heads: H, the key/value heads.
        replaces_text: see `KVPrefixPart`.
    """
    apart = flat.float().reshape(len(flat), 2 * layers, heads, -1).permute(1, 2, 0, 3).contiguous()
    return KVPrefixPart(tuple(apart[0::2]), tuple(apart[1::2]), replaces_text)


def json_safe(value: Any) -> Any:
    """A PEFT setting as JSON, the same on every run.

    Enums become their values, sets sorted lists, tuples lists; other scalars stay.
    """
    if isinstance(value, Enum):
        return json_safe(value.value)
    if isinstance(value, Mapping):
        return {str(json_safe(key)): json_safe(item) for key, item in sorted(value.items())}
    if isinstance(value, set | frozenset):
        return sorted(json_safe(item) for item in value)
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def low_rank_part(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], base_name: str
) -> LowRankPart:
    """A low_rank part from what PEFT gives for a LoRA.

    Args:
        config: `LoraConfig.to_dict()`; sets and enums are allowed.
        tensors: `peft.get_peft_model_state_dict(...)`, of a `PeftModel` or of a model with
            injected adapters, whose names lack PEFT's prefix.
        base_name: of the base; stands in place of what PEFT recorded, often a path.

    Returns:
        The part: JSON config, ready for inference; copies of the tensors, float32, on the CPU.

    Raises:
        AdaptationError: the config is not one of a LoRA.
    """
    plain = json_safe(config)
    if plain.get("peft_type") != "LORA":
        raise AdaptationError(
            "a low_rank part is made from a LoRA",
            found=f"peft_type {plain.get('peft_type')!r}",
            expected="peft_type 'LORA'",
        )
    plain |= {"base_model_name_or_path": base_name, "inference_mode": True}
    # An automatic class is a runtime note of PEFT and names a module path.
    plain["auto_mapping"] = None
    plain["task_type"] = "CAUSAL_LM"
    named = {
        name if name.startswith(LOW_RANK_PREFIX) else LOW_RANK_PREFIX + name: tensor
        for name, tensor in tensors.items()
    }
    copies = {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in sorted(named.items())
    }
    return LowRankPart(plain, copies)


def injected_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a low_rank part under the names that a model with injected adapters takes.

    Args:
        tensors: as stored, every name with PEFT's prefix.

    Returns:
        The same tensors without the prefix, for `peft.set_peft_model_state_dict` on a model made
        by `peft.inject_adapter_in_model`.
    """
    return {name.removeprefix(LOW_RANK_PREFIX): tensor for name, tensor in tensors.items()}
