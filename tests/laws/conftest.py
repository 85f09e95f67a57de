"""A base that follows its prompt, trained here: prompt-like parts show nothing without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.fitting import base_of, planted_rows, planted_view

from tunewise.model.base import Base
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose time on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shown(seed: int) -> tuple[Demonstration, ...]:
    rows = planted_rows(2, seed=seed, prefix="d")
    return tuple(Demonstration(row.input, row.output) for row in rows)


@pytest.fixture(scope="session")
def prompted_base() -> Base:
    """A tiny base that answers the planted task right behind demonstrations and at random without.

    Trained here in plain PyTorch: the label after two solved examples is the true one, after the
    bare instruction a coin's.
    """
    base = base_of("llama", scale=2.0)
    spec = planted_view().spec
    labels = spec.labels
    model = base.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    for step in range(160):
        bare = step % 2 == 0
        prompt = PromptText(spec.instruction, () if bare else shown(step))
        renderer = Renderer(base.tokenizer, spec, prompt)
        texts, targets = [], []
        for row in planted_rows(32, seed=5000 + step, prefix="p"):
            label = labels[int(random.integers(2))] if bare else row.output
            texts.append(renderer.shared_tokens + renderer.row_tokens(row.input))
            targets.append(renderer.answer_tokens(label)[0])
        longest = max(len(text) for text in texts)
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        for index, text in enumerate(texts):
            ids[index, : len(text)] = torch.tensor(text)
        ends = torch.tensor([len(text) - 1 for text in texts])
        logits: Any = model(input_ids=ids, use_cache=False).logits[torch.arange(len(texts)), ends]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    return Base.from_model(model, base.tokenizer)
