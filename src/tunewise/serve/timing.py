"""Rows of several adaptations through one engine, and the seconds that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial

from tunewise.adaptation.bundle import Adaptation
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import row_request

Answer = Callable[[Sequence[tuple[str, str]]], float]
"""Answers (name of an adaptation, input) pairs together; wall-clock seconds."""
_TENANT = "timing"
# Nothing is to wait for room or to be turned away: what is timed is in memory as it is.
_UNBOUNDED = 2**40


@contextmanager
def timed_engine(
    base: Base, adaptations: Mapping[str, Adaptation], slots: int, ledger: Ledger
) -> Iterator[Answer]:
    """An engine as `tunewise serve` has it, with adaptations in memory, while the context lasts.

    Args:
        base: the base; nothing may attach to it meanwhile.
        adaptations: by name.
        slots: rows that are answered at once.
        ledger: is charged for the positions that were computed.

    Raises:
        InputError: the engine cannot carry the base; or, of what answers, one of the adaptations or
            rows. A row that fails raises its own error.
    """
    settings = EngineSettings(slots, budget_bytes=_UNBOUNDED, most_waiting=_UNBOUNDED)
    with closing(EmbeddedEngine(base, settings)) as engine:

        def loaded(name: str) -> Adaptation:
            return adaptations[name]

        def answer(pairs: Sequence[tuple[str, str]]) -> float:
            before, began = engine.stats(), time.perf_counter()
            streams = []
            for name, text in pairs:
                ready = engine.ready(_TENANT, name, partial(loaded, name))
                streams.append(engine.submit(row_request(ready, text)))
            ends = [stream.result() for stream in streams]
            seconds, after = time.perf_counter() - began, engine.stats()
            for end in ends:
                if end.error is not None:
                    raise end.error
            prompts = after.prompt_tokens - before.prompt_tokens
            ledger.charge(forward=prompts + after.completion_tokens - before.completion_tokens)
            return seconds

        yield answer
