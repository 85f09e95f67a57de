"""Tiny bases with many layers."""

from __future__ import annotations

import torch
import transformers as hf
from tests.conftest import build_model, build_tokenizer
from tests.laws.fitting import build_gemma3

from tunewise.model.base import Base


def deep(architecture: str = "llama", layers: int = 20) -> Base:
    """A tiny base of so many layers."""
    found = build_gemma3() if architecture == "gemma3" else build_model(architecture)
    given = found.config
    own = given.to_dict() | {"num_hidden_layers": layers, "layer_types": None}
    own |= {"n_layer": layers} if architecture == "gpt2" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(type(given)(**own))
    return Base.from_model(model.eval(), build_tokenizer())
