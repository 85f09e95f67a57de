"""Tiny bases, planted tasks and fits that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.conftest import ARCHITECTURES, build_model, build_tokenizer
from torch import Tensor
from torch.nn import functional

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.methods._registry import find_method
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.task.types import FitView, Kind, Row, TaskSpec

ALL_ARCHITECTURES = (*ARCHITECTURES, "gemma3")
MARKS = {"no": "0", "yes": "1"}
WINDOW = 8


def build_gemma3(seed: int = 0) -> Any:
    """A tiny Gemma 3: one layer sees only the last 8 positions, the other all of them."""
    import transformers as hf

    config = hf.Gemma3TextConfig(
        vocab_size=261,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=257,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return hf.AutoModelForCausalLM.from_config(config).eval()


def base_of(
    architecture: str = "llama",
    *,
    chat: bool = True,
    seed: int = 0,
    scale: float = 4.0,
    dtype: torch.dtype = torch.float32,
) -> Base:
    """A tiny base. Its matrices are scaled up: at their usual size a random model hardly looks
    at its input, and a wrong mask or position would hide below any tolerance."""
    model = build_gemma3(seed) if architecture == "gemma3" else build_model(architecture, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return Base.from_model(model, build_tokenizer(chat=chat), dtype=dtype)


def planted_rows(count: int, *, seed: int, prefix: str, shortest: int = 5) -> tuple[Row, ...]:
    """Rows of 6 to 20 characters; the last one decides the label."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label = ("no", "yes")[index % 2]
        length = int(random.integers(shortest, 20))
        text = "".join(random.choice(list("abcdefgh"), size=length)) + MARKS[label]
        rows.append(Row(f"{prefix}{index}", text, label, (label,)))
    return tuple(rows)


def planted_view(train: int = 24, validation: int = 12, *, seed: int = 0) -> FitView:
    """A classification task decided by one byte of the input."""
    spec = TaskSpec("planted", Kind.CLASSIFICATION, "Say yes or no.", ("no", "yes"), "accuracy")
    return FitView(
        spec,
        planted_rows(train, seed=seed, prefix="t"),
        planted_rows(validation, seed=seed + 1000, prefix="v"),
    )


def generation_view(train: int = 16, validation: int = 8) -> FitView:
    """A generation task: repeat the first word."""
    spec = TaskSpec("repeat", Kind.GENERATION, "Repeat the first word.", (), "rouge_l")
    random = np.random.default_rng(0)

    def rows(count: int, prefix: str) -> tuple[Row, ...]:
        made = []
        for index in range(count):
            words = [
                "".join(random.choice(list("abcd"), size=int(random.integers(2, 5))))
                for _ in range(4)
            ]
            made.append(Row(f"{prefix}{index}", " ".join(words), words[0], (words[0],)))
        return tuple(made)

    return FitView(spec, rows(train, "t"), rows(validation, "v"))


def context_of(
    base: Base,
    view: FitView,
    *,
    seed: int = 0,
    limit: int | None = None,
    start: Adaptation | None = None,
    checkpoint_folder: Path | None = None,
) -> FitContext:
    """A fit's context with a fresh ledger and a fresh log."""
    ledger = Ledger(base.body_parameters, base.head_parameters, limit=limit)
    return FitContext(
        base, view, ledger, seed, FitLog(), "data", start=start, checkpoint_folder=checkpoint_folder
    )


def with_spec(view: FitView, **changes: Any) -> FitView:
    """The same rows under another spec."""
    return replace(view, spec=replace(view.spec, **changes))


def plain_logits(base: Base, tokens: tuple[int, ...], *, before: Tensor | None = None) -> Tensor:
    """(T, V) of one sequence: no cache, no padding, no sharing.

    Args:
        base: the base with whatever is attached.
        tokens: T token ids.
        before: (k, D) embeddings put before them; their own logits are left out.
    """
    ids = torch.tensor([tokens])
    if before is None:
        return base.model(input_ids=ids, use_cache=False).logits[0]
    text = base.model.get_input_embeddings()(ids)
    embeds = torch.cat([before[None].to(text.dtype), text], dim=1)
    logits: Tensor = base.model(inputs_embeds=embeds, use_cache=False).logits[0]
    return logits[before.shape[0] :]


def plain_answer_loss(
    base: Base, text: tuple[int, ...], answer: tuple[int, ...], *, before: Tensor | None = None
) -> Tensor:
    """Sum of -log p over the answer's tokens after a text, from one full pass."""
    logits = plain_logits(base, text + answer, before=before)
    begin = len(text) - 1
    return functional.cross_entropy(
        logits[begin : begin + len(answer)], torch.tensor(answer), reduction="sum"
    )


def fit(
    base: Base,
    name: str,
    view: FitView,
    *,
    seed: int = 0,
    limit: int | None = None,
    start: Adaptation | None = None,
    folder: Path | None = None,
    context: FitContext | None = None,
    **settings: Any,
) -> Adaptation:
    """Run one method by its name.

    Args:
        base: the base.
        name: the method's.
        view: the rows.
        seed, limit, start: see `context_of`.
        folder: the checkpoint's.
        context: a context of one's own in place of all that.
        settings: the method's.
    """
    method = find_method(name)
    if context is None:
        context = context_of(
            base, view, seed=seed, limit=limit, start=start, checkpoint_folder=folder
        )
    return method.fit(context, method.Settings(**settings))


def rates(name: str, rate: float) -> dict[str, float]:
    """One learning rate for all that a method trains."""
    fields = find_method(name).Settings.model_fields
    return {field: rate for field in fields if field.endswith("learning_rate")}


def first_layer(base: Base) -> Any:
    """The first transformer layer."""
    body = getattr(base.model, base.model.base_model_prefix)
    return (body.layers if hasattr(body, "layers") else body.h)[0]


@contextmanager
def counted_positions(base: Base) -> Iterator[dict[str, int]]:
    """Positions that really go through the first layer, with and without gradients enabled."""
    counts = {"graded": 0, "plain": 0}

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        counts["graded" if torch.is_grad_enabled() else "plain"] += hidden.shape[:2].numel()

    handle = first_layer(base).register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()
