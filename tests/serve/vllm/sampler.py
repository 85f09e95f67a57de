"""What the stand-in for vLLM computes: a LoRA's weights, the next token, its log-probabilities."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch


def merged(model: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """A copy of a model with a LoRA added to its weights."""
    made = copy.deepcopy(model)
    weights = dict(made.named_parameters())
    for name, down in tensors.items():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            weights[f"{module}.weight"].data += config["lora_alpha"] / config["r"] * up @ down
    return made


def draw(body: dict[str, Any], logits: torch.Tensor, generator: torch.Generator | None) -> int:
    """The next token, as vLLM's sampler takes it."""
    for token, bias in body.get("logit_bias", {}).items():
        logits[int(token)] += bias
    if body.get("allowed_token_ids"):
        mask = torch.full_like(logits, -math.inf)
        mask[body["allowed_token_ids"]] = 0.0
        logits = logits + mask
    if body["temperature"] == 0.0:
        return int(logits.argmax())
    probability = (logits / body["temperature"]).softmax(dim=-1)
    ordered, order = probability.sort(descending=True)
    kept = ordered.cumsum(dim=0) - ordered < body.get("top_p", 1.0)
    probability = torch.zeros_like(probability)
    probability[order[kept]] = ordered[kept]
    return int(torch.multinomial(probability, 1, generator=generator))


def told(
    body: dict[str, Any], token: int, raw: torch.Tensor, *, asked_ids: bool, beside_named: bool
) -> dict[str, Any]:
    """Log-probabilities of one place, before anything was biased or forbidden.

    Beside a request that names tokens, as vLLM does without Triton, the likeliest are not told:
    token 0 stands in their place, without a number.
    """
    ids = body.get("logprob_token_ids") if asked_ids else None
    most = body["logprobs"]
    shown = raw.topk(most).indices.tolist() if ids is None and most else (ids or [])
    top = {f"token_id:{each}": max(float(raw[each]), -9999.0) for each in [token, *shown]}
    if ids is None and most and beside_named:
        top = {f"token_id:{token}": float(raw[token]), "token_id:0": -9999.0}
    return {
        "tokens": [f"token_id:{token}"],
        "token_logprobs": [float(raw[token])],
        "top_logprobs": [top],
        "text_offset": [0],
    }
