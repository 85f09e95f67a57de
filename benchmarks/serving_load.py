"""What the serving benchmark serves: 64 adaptations of the default base, and rows for them.

None is fitted: what serving costs does not depend on what the numbers are. Texts differ in words,
the others in random numbers of the size that fitting leaves.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from tunewise.adaptation.attach import low_rank_attached
from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import (
    KVPrefixPart,
    Part,
    PromptTextPart,
    VirtualTokensPart,
)
from tunewise.adaptation.peft_format import low_rank_part
from tunewise.model.base import Base
from tunewise.model.layers import linear_names
from tunewise.model.prefix import compute_prefix, token_embeddings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, TaskSpec

KINDS = ("prompt_text", "virtual_tokens", "kv_prefix", "low_rank")
INSTRUCTION = "Read the review of customer {} and tell in one sentence what they liked and why."
WORDS = [
    "the",
    "film",
    "was",
    "long",
    "but",
    "its",
    "story",
    "and",
    "music",
    "made",
    "a",
    "fine",
    "evening",
    "for",
    "all",
    "of",
    "us",
]


def adaptations(base: Base, each: int) -> dict[str, list[Adaptation]]:
    """So many adaptations of every kind."""
    return {kind: [_made(base, kind, seed) for seed in range(each)] for kind in KINDS}


def long_text(base: Base, tokens: int) -> Adaptation:
    """A text prompt of about so many tokens."""
    made = _made(base, "prompt_text", 0)
    words = random.Random(0)
    text = ""
    while len(base.tokenizer.encode(text)) < tokens - 10:
        text += words.choice(WORDS) + " "
    part = PromptTextPart(PromptText(text))
    return replace(made, parts=(part,))


def rows(count: int) -> list[str]:
    """Inputs of 8 to 24 words."""
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=draw.randint(8, 24))) for _ in range(count)]


def base_spec() -> TaskSpec:
    """The task of all of them."""
    return TaskSpec("reviews", Kind.GENERATION, INSTRUCTION.format(0), (), "rouge_l")


def _made(base: Base, kind: str, seed: int) -> Adaptation:
    prompt = PromptText(INSTRUCTION.format(seed))
    parts: tuple[Part, ...] = (PromptTextPart(prompt), *_parts(base, kind, prompt, seed))
    provenance = Provenance(
        method="made for a benchmark",
        settings={},
        seed=seed,
        base_name=base.name,
        base_fingerprint=base.fingerprint,
        dtype=base.dtype_name,
        data_hash="none",
        work={},
        versions={},
    )
    return Adaptation(parts, Decoding("free", max_new_tokens=32), base_spec(), provenance)


def _parts(base: Base, kind: str, prompt: PromptText, seed: int) -> tuple[Part, ...]:
    draw = torch.Generator().manual_seed(seed)
    shared = Renderer(base.tokenizer, base_spec(), prompt).shared_tokens
    with torch.no_grad():
        embeddings = token_embeddings(base, shared)
        noise = 0.02 * torch.randn(embeddings.shape, generator=draw)
        if kind == "virtual_tokens":
            return (VirtualTokensPart((embeddings.float() + noise)[0], True),)
        if kind == "kv_prefix":
            prefix = compute_prefix(base, embeddings)
            keys = tuple(tensor[0].float() for tensor in prefix.keys)
            values = tuple(tensor[0].float() for tensor in prefix.values)
            return (KVPrefixPart(keys, values, True),)
        if kind == "low_rank":
            config = {"r": 8, "lora_alpha": 16, "target_modules": linear_names(base)}
            with low_rank_attached(base, config, None, seed=seed) as layers:
                tensors = {
                    name.replace(".default", ""): 0.02 * torch.randn(t.shape, generator=draw)
                    for name, t in layers.exact.items()
                }
                return (low_rank_part(layers.config, tensors, base.name),)
    return ()
