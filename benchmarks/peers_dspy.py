"""DSPy's BootstrapFewShotWithRandomSearch on the same base, greedy, with DSPy's own rendering.

The signature has the task's instruction and, where there are labels, a `Literal` of them; the
adapter is DSPy's default. Candidates are scored on as many validation rows as keep the whole within
the number of rows given; rows that bootstrapping scores are counted with them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch

from tunewise.model.decode import decode
from tunewise.model.prefix import EMPTY_PREFIX
from tunewise.steps import Ground
from tunewise.task.score import score_row
from tunewise.task.types import Kind, Row

# Programs that the search tries besides: bare, labelled, bootstrapped.
_ALWAYS = 3
_PROGRAMS = 8
_ANSWER_ROOM = 48


class Counter:
    """Scores an answer by the task's metric, and counts."""

    def __init__(self, ground: Ground) -> None:
        self.spec, self.count = ground.task.spec, 0
        self.rows: dict[str, Row] = {}

    def examples(self, rows: Sequence[Row]) -> list[Any]:
        """The rows as DSPy takes them."""
        import dspy

        self.rows |= {row.id: row for row in rows}
        return [
            dspy.Example(id=row.id, text=row.input, answer=row.output).with_inputs("text")
            for row in rows
        ]

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        """The score, 0 to 1; for bootstrapping whether it is perfect."""
        self.count += 1
        score = score_row(
            self.spec.metric, str(prediction.answer), self.rows[example.id], self.spec
        )
        return float(score >= 1.0) if trace is not None else score


def bootstrap_search(
    ground: Ground, test: Sequence[Row], *, rows: int, seed: int
) -> dict[str, Any]:
    """Search, then answer the test rows; JSON values.

    Args:
        ground: base and task.
        test: the test rows.
        rows: that may be scored.
        seed: of the draw of validation rows; DSPy's own draws have fixed seeds.
    """
    import dspy
    from dspy.teleprompt import BootstrapFewShotWithRandomSearch

    # Every answer that cannot be read would be a line.
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    began, view, count = time.perf_counter(), ground.task.fit_view, Counter(ground)
    longest = max(len(_ids(ground, row.output)) for row in view.train)
    model = _model(ground, _ANSWER_ROOM + 2 * longest)
    programs = _PROGRAMS if rows >= (_PROGRAMS + _ALWAYS) * 32 else 2
    scored_on = min(len(view.validation), max(8, rows // (programs + _ALWAYS)))
    order = torch.randperm(
        len(view.validation), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    chosen = [view.validation[place] for place in order[:scored_on]]
    train = [view.train[place] for place in _order(len(view.train), seed)]
    with dspy.context(lm=model, disable_history=True):
        search = BootstrapFewShotWithRandomSearch(
            metric=count, num_candidate_programs=programs, num_threads=1, max_errors=10**9
        )
        program = search.compile(
            dspy.Predict(_signature(ground)),
            trainset=count.examples(train),
            valset=count.examples(chosen),
        )
        searched = count.count
        scores, failed, asked = [], 0, []
        for row in test:
            before = model.positions
            try:
                answer = str(program(text=row.input).answer)
                scores.append(score_row(count.spec.metric, answer, row, count.spec))
            except Exception:  # an answer that DSPy cannot read, or a prompt beyond the context
                scores.append(0.0)
                failed += 1
            asked.append(model.positions - before)
    return {
        "scores": scores,
        "failed": failed,
        "rows_scored": searched,
        "rows_asked_for": rows,
        "programs": programs + _ALWAYS,
        "validation_rows": scored_on,
        "demonstrations": len(program.demos),
        "tokens_before_a_request": sum(asked) / max(1, len(asked)),
        "empty_answers": model.empty,
        "seconds": time.perf_counter() - began,
    }


def _order(count: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(
        count, generator=torch.Generator().manual_seed(seed + 1)
    ).tolist()
    return order


def _signature(ground: Ground) -> Any:
    import dspy

    spec = ground.task.spec
    labelled = spec.kind is Kind.CLASSIFICATION
    answer: Any = Literal[spec.labels] if labelled else str  # type: ignore[valid-type]  # at run time
    fields = {"text": (str, dspy.InputField()), "answer": (answer, dspy.OutputField())}
    return dspy.Signature(fields, spec.instruction)


def _ids(ground: Ground, text: str) -> list[int]:
    return list(ground.base.tokenizer(text, add_special_tokens=False).input_ids)


def _model(ground: Ground, room: int) -> Any:
    """The base as one of DSPy's models: the messages through its chat template, greedy."""
    import dspy

    base = ground.base

    class _Base(dspy.BaseLM):  # type: ignore[misc]  # DSPy's classes are untyped
        positions, empty = 0, 0

        def __call__(self, prompt: Any = None, *, messages: Any = None, **given: Any) -> list[str]:
            asked = messages or [{"role": "user", "content": prompt}]
            text = base.tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True
            )
            row = _ids(ground, text)
            if len(row) + room > base.context_length:
                raise ValueError(f"{len(row)} tokens are longer than the context")
            end = int(base.tokenizer.eos_token_id)
            (made,) = decode(base, EMPTY_PREFIX, [row], end_token=end, max_new_tokens=room)
            type(self).positions += len(row)
            answer = base.tokenizer.decode(made.tokens, skip_special_tokens=True)
            type(self).empty += not answer.strip()
            return [answer]

        def copy(self, **given: Any) -> Any:
            """One model for all copies: it has no state that a copy could change."""
            return self

    return _Base(model=base.name, cache=False)
