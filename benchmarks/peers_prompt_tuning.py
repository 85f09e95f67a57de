"""PEFT's prompt tuning as its documentation has it, with the token passes of one of our fits.

Twenty virtual tokens from random rows of the vocabulary's embeddings, which is PEFT's default,
before the whole prompt; AdamW with a linear decay, as the Trainer has it; batches of 16. What it
finds is a `virtual_tokens` part, so it is judged and measured with our readout, calibration
included: only how it was found differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

from tunewise.adaptation.attach import lower_parts
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Judge, example
from tunewise.adaptation.parts import PromptTextPart, VirtualTokensPart
from tunewise.methods._contract import MethodSettings
from tunewise.model.answers import Example
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.steps import Ground
from tunewise.task.render import Renderer

VIRTUAL_TOKENS = 20
_BATCH = 16
_IGNORED = -100
_JUDGED_ROWS = 256


@dataclass(frozen=True, slots=True)
class Tuned:
    """One run of prompt tuning."""

    rate: float
    adaptation: Adaptation
    validation_loss: float
    steps: int
    seconds: float


def prompt_tuning(ground: Ground, rate: float, *, budget: int, seed: int) -> Tuned:
    """Train, then choose the readout on validation rows.

    Args:
        ground: base and task.
        rate: learning rate.
        budget: token passes; a padded position forward and backward is two.
        seed: of the start and of the rows' order.
    """
    base, view, began = ground.base, ground.task.fit_view, time.perf_counter()
    ledger = Ledger(base.body_parameters, base.head_parameters, None)
    context = FitContext(base, view, ledger, seed, FitLog(), ground.task.data_hash)
    renderer = Renderer(base.tokenizer, view.spec, context.starting_prompt())
    examples = [example(renderer, row) for row in view.train]
    batches = _batches(examples, len(renderer.shared_tokens), budget, seed)
    model = AutoModelForCausalLM.from_pretrained(
        base.path, dtype=base.dtype, local_files_only=True, use_safetensors=True
    )
    torch.manual_seed(seed)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    tuned = get_peft_model(model, config)
    leaf = tuned.prompt_encoder["default"].embedding.weight
    optimizer = torch.optim.AdamW([leaf], lr=rate, weight_decay=0.0)
    decay = get_linear_schedule_with_warmup(optimizer, 0, len(batches))
    tuned.train()
    for batch in batches:
        loss = tuned(**_tensors(renderer, [examples[place] for place in batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([leaf], 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
    part = VirtualTokensPart(leaf.detach().float().cpu().clone())
    parts = (part, PromptTextPart(context.starting_prompt()))
    judge = Judge(context, renderer, most_rows=_JUDGED_ROWS)
    verdict = judge.verdict(lower_parts(base, renderer, parts))
    found = context.finish("peft_prompt_tuning", MethodSettings(), parts, verdict.decoding)
    return Tuned(rate, found, verdict.loss, len(batches), time.perf_counter() - began)


def _batches(examples: Sequence[Example], shared: int, budget: int, seed: int) -> list[list[int]]:
    """Batches of shuffled rows, epoch after epoch, until the budget is used up."""
    generator, found, spent = torch.Generator().manual_seed(seed), [], 0
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for begin in range(0, len(order), _BATCH):
            batch = order[begin : begin + _BATCH]
            longest = max(len(examples[place].inputs) for place in batch)
            spent += 2 * len(batch) * (VIRTUAL_TOKENS + shared + longest)
            if spent > budget:
                return found
            found.append(batch)


def _tensors(renderer: Renderer, batch: Sequence[Example]) -> dict[str, Any]:
    """Prompt, row and answer in one; loss on the answers only; padded on the right."""
    rows = [(list(renderer.shared_tokens) + list(each.row), list(each.answer)) for each in batch]
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, _IGNORED), torch.zeros_like(ids)
    for number, (asked, answer) in enumerate(rows):
        length = len(asked) + len(answer)
        ids[number, :length] = torch.tensor(asked + answer)
        labels[number, len(asked) : length] = torch.tensor(answer)
        mask[number, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
