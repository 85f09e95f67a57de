"""DSPy's BootstrapFewShotWithRandomSearch on the same base, greedy, with DSPy's own rendering.

The signature has the task's instruction and, where there are labels, a `Literal` of them; the
adapter is DSPy's default. Candidates are scored on as many validation rows as keep the whole within
the number of rows given; rows that bootstrapping scores are counted with them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import takewhile
from typing import Any, Literal

import torch

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import PromptTextPart, VirtualTokensPart
from tunewise.model.prefix import token_embeddings
from tunewise.serve.contract import Ready, Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.steps import Ground
from tunewise.task.prompt import PromptText
from tunewise.task.score import score_row
from tunewise.task.types import Kind, Row

# Programs that the search tries besides: bare, labelled, bootstrapped.
_ALWAYS = 3
_PROGRAMS = 8
_ANSWER_ROOM = 48
# Rows that are asked at once.
THREADS = 16


class Counter:
    """Scores an answer by the task's metric, and counts."""

    def __init__(self, ground: Ground) -> None:
        self.spec, self.count = ground.task.spec, 0
        self.rows: dict[str, Row] = {}
        self._lock = threading.Lock()

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
        with self._lock:
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
    served = Served(ground, _ANSWER_ROOM + 2 * longest)
    model = _model(ground, served)
    programs = _PROGRAMS if rows >= (_PROGRAMS + _ALWAYS) * 32 else 2
    scored_on = min(len(view.validation), max(8, rows // (programs + _ALWAYS)))
    order = torch.randperm(
        len(view.validation), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    chosen = [view.validation[place] for place in order[:scored_on]]
    train = [view.train[place] for place in _order(len(view.train), seed)]
    with closing(served), dspy.context(lm=model, disable_history=True):
        search = BootstrapFewShotWithRandomSearch(
            metric=count, num_candidate_programs=programs, num_threads=THREADS, max_errors=10**9
        )
        program = search.compile(
            dspy.Predict(_signature(ground)),
            trainset=count.examples(train),
            valset=count.examples(chosen),
        )
        searched, before = count.count, served.positions
        # Slow rows are not asked again.
        asked = dspy.Parallel(
            num_threads=THREADS, max_errors=10**9, disable_progress_bar=True, timeout=0
        )
        # None of an answer that DSPy cannot read, and of a prompt beyond the context.
        found = asked([(program, {"text": row.input}) for row in test])
        if served.fault is not None:
            raise served.fault
        scores = [
            0.0 if each is None else score_row(count.spec.metric, str(each.answer), row, count.spec)
            for row, each in zip(test, found, strict=True)
        ]
    return {
        "scores": scores,
        "failed": sum(each is None for each in found),
        "rows_scored": searched,
        "rows_asked_for": rows,
        "programs": programs + _ALWAYS,
        "validation_rows": scored_on,
        "demonstrations": len(program.demos),
        "tokens_before_a_request": (served.positions - before) / max(1, len(test)),
        "empty_answers": served.empty,
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


class Served:
    """The base behind our engine: many answers at once, and what the rows of a program have in
    common computed once. Greedy, so that the answers are those of one after the other.

    Args:
        ground: base and task.
        room: tokens of an answer at most.
    """

    def __init__(self, ground: Ground, room: int) -> None:
        self._ground, self._sampling = ground, Sampling(room)
        settings = EngineSettings(THREADS, budget_bytes=2**31)
        self._engine = EmbeddedEngine(ground.base, settings)
        self._lock = threading.Lock()
        self.positions = self.empty = 0
        self.fault: Exception | None = None

    def answer(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The answer to some messages.

        Raises:
            ValueError: they are longer than the context.
        """
        base = self._ground.base
        text = base.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        head, _, _ = text.rpartition(messages[-1]["content"])
        row, shared = _ids(self._ground, text), _ids(self._ground, head)
        # One token at least is the row's own.
        alike = takewhile(lambda both: both[0] == both[1], zip(row[:-1], shared, strict=False))
        same = sum(1 for _ in alike)
        if len(row) + (self._sampling.max_new_tokens or 0) > base.context_length:
            raise ValueError(f"{len(row)} tokens are longer than the context")
        request = Request(
            self._behind(tuple(row[:same])),
            tuple(row[same:]),
            sampling=self._sampling,
            readout="text",
        )
        found = self._engine.submit(request).result(3600)
        if found.error is not None:
            # DSPy takes any error for an answer that it cannot read.
            self.fault = found.error
            raise found.error
        with self._lock:
            self.positions += len(row)
            self.empty += not found.text.strip()
        return found.text

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def _behind(self, tokens: tuple[int, ...]) -> Ready:
        """What stands before the rows of a program, as an adaptation."""

        def load() -> Adaptation:
            base = self._ground.base
            with torch.no_grad():
                shown = token_embeddings(base, tokens)[0].float()
            parts = PromptTextPart(PromptText("")), VirtualTokensPart(shown, True)
            provenance = Provenance(
                "dspy", {}, 0, base.name, base.fingerprint, base.dtype_name, "none", {}, {}
            )
            return Adaptation(parts, Decoding("free"), self._ground.task.spec, provenance)

        return self._engine.ready("dspy", repr(tokens), load)


def _model(ground: Ground, served: Served) -> Any:
    """The base as one of DSPy's models: the messages through its chat template."""
    import dspy

    class _Base(dspy.BaseLM):  # type: ignore[misc]  # DSPy's classes are untyped
        def __call__(self, prompt: Any = None, *, messages: Any = None, **given: Any) -> list[str]:
            return [served.answer(messages or [{"role": "user", "content": prompt}])]

        def copy(self, **given: Any) -> Any:
            """One model for all copies: it has no state that a copy could change."""
            return self

    return _Base(model=ground.base.name, cache=False)
