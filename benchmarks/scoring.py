"""Both sides of measuring: log-probabilities of label strings after every row.

The peers score every label for every row with the whole prompt, in batches of 16, and take logits
of every position, as the model returns them: a plain loop over transformers' model, and
lm-evaluation-harness, whose requests are handed over as the same token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Gate
from benchmarks.jobs import Job
from benchmarks.peers import load_plain
from benchmarks.workloads import BATCH, Workload, load_workload, spread_out
from tunewise.adaptation.attach import lower_parts
from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.readout import Readout
from tunewise.model.base import load_base
from tunewise.task.types import Row

Scores = list[list[float]]
Request = tuple[list[int], list[int]]


def serve_ours(job: Job, gate: Gate) -> None:
    """Our readout: "score" gives every label's number, "trie" the answer alone."""
    base = load_base(job.model, dtype=job.dtype)
    workload = _workload(job, base.tokenizer)
    prompt = PromptTextPart(workload.renderer.prompt)

    def score(rows: Sequence[Row]) -> Scores:
        prefix = lower_parts(base, workload.renderer, (prompt,))
        readout = Readout(base, workload.renderer, prefix)
        inputs = [row.input for row in rows]
        if job.method == "trie":
            readout.answers(inputs, Decoding(mode="trie"))
            return []
        found: Scores = readout.label_scores(inputs).tolist()
        return found

    _serve(job, gate, workload, score)


def serve_plain(job: Job, gate: Gate) -> None:
    """A plain loop."""
    model, tokenizer = load_plain(job)
    workload = _workload(job, tokenizer)

    def score(rows: Sequence[Row]) -> Scores:
        requests = _requests(workload, rows)
        scores: list[float] = []
        with torch.no_grad():
            for begin in range(0, len(requests), BATCH):
                scores += _plain_batch(model, requests[begin : begin + BATCH])
        return _by_row(scores, len(rows))

    _serve(job, gate, workload, score)


def serve_lm_eval(job: Job, gate: Gate) -> None:
    """lm-evaluation-harness' own model class, in this process."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_plain(job)
    workload = _workload(job, tokenizer)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)

    def score(rows: Sequence[Row]) -> Scores:
        requests = [
            ((f"row and label {number}", ""), context, label)
            for number, (context, label) in enumerate(_requests(workload, rows))
        ]
        found = harness._loglikelihood_tokens(requests, disable_tqdm=True)
        return _by_row([each[0] for each in found], len(rows))

    _serve(job, gate, workload, score)


def _serve(
    job: Job, gate: Gate, workload: Workload, score: Callable[[Sequence[Row]], Scores]
) -> None:
    rows = workload.scored_rows(job.rows)
    # The same few rows on every side that scores a part, so that scores can be compared.
    indices = spread_out(len(rows), job.subset) if job.subset else list(range(len(rows)))
    chosen = [rows[index] for index in indices]
    gate.ready(
        units=len(chosen),
        rows=len(rows),
        indices=indices,
        data=workload.data,
        dtype=job.dtype,
        shared_tokens=len(workload.renderer.shared_tokens),
        labels=len(workload.labels()),
    )
    while (order := gate.next()).count:
        part = chosen[: 1 + len(chosen) // 10] if order.warm else chosen
        found = [score(part) for _ in range(order.count)]
        gate.done(scores=[] if order.warm else found[-1])


def _workload(job: Job, tokenizer: Any) -> Workload:
    return load_workload(job.workload, tokenizer, rows=0, demonstrations=job.demonstrations)


def _requests(workload: Workload, rows: Sequence[Row]) -> list[Request]:
    """Prompt with row, and label, for every row and label."""
    shared, labels = list(workload.renderer.shared_tokens), workload.labels()
    contexts = [shared + list(workload.renderer.row_tokens(row.input)) for row in rows]
    return [(context, list(label)) for context in contexts for label in labels]


def _plain_batch(model: Any, requests: Sequence[Request]) -> list[float]:
    tokens = [context + label for context, label in requests]
    longest = max(len(each) for each in tokens)
    ids = torch.zeros(len(tokens), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, each in enumerate(tokens):
        ids[index, : len(each)] = torch.tensor(each)
        mask[index, : len(each)] = 1
    logits: Tensor = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
    ).logits
    scores = []
    for index, (context, label) in enumerate(requests):
        begin = len(context) - 1
        after = logits[index, begin : begin + len(label)].float().log_softmax(dim=-1)
        taken = after.gather(1, torch.tensor(label, device=model.device)[:, None])
        scores.append(float(taken.sum()))
    return scores


def _by_row(scores: Sequence[float], rows: int) -> Scores:
    width = len(scores) // rows
    return [list(scores[row * width : (row + 1) * width]) for row in range(rows)]
