"""Single times: first token, switching, memory, and what 8 bits change."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving_load import KINDS
from tunewise.adaptation import store
from tunewise.adaptation.bundle import Adaptation
from tunewise.serve.contract import Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import row_request

ONE = Sampling(1, ignore_end=True)
MANY = 10_000
BUDGET = 64 * 2**20


def small_works(
    ours: Any, exact: Any, rounded: Any, long: Adaptation, repeats: int
) -> dict[str, Any]:
    """All of them, in milliseconds of processor time but where it says otherwise."""
    return {
        "first_token_ms": first_token(ours, long, repeats),
        "in_memory_ms": in_memory(ours, repeats),
        "from_disk_ms": from_disk(ours, ours.engine, repeats),
        "from_disk_kept_ms": from_disk_kept(ours, repeats),
        "bytes": {kind: ours.ready(ours.load.made[kind][0]).bytes for kind in KINDS},
        "many": many(ours),
        "int8": agreement(exact, rounded),
    }


def first_token(side: Any, long: Adaptation, repeats: int) -> dict[str, float]:
    """A long prompt as an adaptation, warm, beside the same tokens sent with the request."""
    ready, text = side.ready(long), side.load.texts[0]
    if ready.renderer is None:
        raise TypeError("an adaptation has a renderer")
    whole = ready.renderer.shared_tokens + ready.renderer.row_tokens(text)
    plain = Request(side.engine.base_alone("bench"), whole, sampling=ONE)
    kept = row_request(ready, text, ONE)
    warm, sent = _turns([lambda: _answer(side, kept), lambda: _answer(side, plain)], 3 * repeats)
    return {"tokens": ready.prefix_positions, "warm": warm, "sent": sent}


def in_memory(side: Any, repeats: int) -> dict[str, float]:
    """What it adds that every request names another adaptation than the one before."""
    found = {}
    for kind in KINDS:
        both = side.load.made[kind][:2]

        def switched(both: list[Adaptation] = both) -> None:
            for adaptation in both:
                _answer(side, row_request(side.ready(adaptation), "a fine evening", ONE))

        def stayed(both: list[Adaptation] = both) -> None:
            for _ in both:
                _answer(side, row_request(side.ready(both[0]), "a fine evening", ONE))

        one, other = _turns([switched, stayed], 8 * repeats)
        found[kind] = (one - other) / 2
    return found


def from_disk(side: Any, engine: EmbeddedEngine, repeats: int) -> dict[str, float]:
    """What it adds that an adaptation is read first: bytes checked, prefix computed."""
    found = {}
    for kind in KINDS:
        adaptation = side.load.made[kind][0]
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder) / "a"
            store.save(adaptation, where)

            def cold(where: Path = where, kind: str = kind) -> None:
                engine.drop("bench", kind)
                warm(where, kind)

            def warm(where: Path = where, kind: str = kind) -> None:
                ready = engine.ready("bench", kind, lambda: store.load(where))
                engine.submit(row_request(ready, "a fine evening", ONE)).result(600)

            one, other = _turns([cold, warm], 2 * repeats)
            found[kind] = one - other
    return found


def from_disk_kept(side: Any, repeats: int) -> dict[str, float]:
    """The same where a prefix that was computed before lies on disk, too."""
    with tempfile.TemporaryDirectory() as folder:
        settings = EngineSettings(4, prefix_folder=Path(folder))
        # What is computed once is written when this engine closes.
        engine = EmbeddedEngine(side.engine._base, settings)
        from_disk(side, engine, 1)
        engine.close()
        engine = EmbeddedEngine(side.engine._base, settings)
        try:
            return from_disk(side, engine, repeats)
        finally:
            engine.close()


def many(side: Any) -> dict[str, float]:
    """So many adaptations named one after another, within a fixed budget of bytes."""
    adaptation = side.load.made["virtual_tokens"][0]
    engine = EmbeddedEngine(side.engine._base, EngineSettings(4, budget_bytes=BUDGET))
    try:
        gc.collect()
        before = psutil.Process().memory_info().rss
        begin = time.process_time()
        for number in range(MANY):
            own = replace(adaptation, provenance=replace(adaptation.provenance, seed=number))
            engine.ready("bench", str(number), lambda own=own: own)
        taken = time.process_time() - begin
        grown = psutil.Process().memory_info().rss - before
        stats = engine.stats()
        return {
            "named": MANY,
            "budget": BUDGET,
            "resident": stats.resident,
            "resident_bytes": stats.resident_bytes,
            "grown_bytes": grown,
            "each_ms": 1000 * taken / MANY,
        }
    finally:
        engine.close()


def agreement(exact: Any, rounded: Any) -> dict[str, float]:
    """Greedy answers with 8-bit weights beside those in float32."""
    texts = exact.load.texts
    answers: list[list[list[int]]] = []
    for side in (exact, rounded):
        sampling = Sampling(24, logprobs=0, ignore_end=True)
        base = side.engine.base_alone("bench")
        streams = [side.engine.submit(Request(base, row, sampling=sampling)) for row in side.rows]
        answers.append([[c.token for piece in each for c in piece.choices] for each in streams])
    pairs = list(zip(*answers, strict=True))
    agreed = [[a == b for a, b in zip(*pair, strict=True)] for pair in pairs]
    places = [own.index(False) if False in own else len(own) for own in agreed]
    same_first = sum(own[0] for own in agreed)
    same_all = sum(all(own) for own in agreed)
    return {
        "answers": len(texts),
        "first": same_first / len(texts),
        "whole": same_all / len(texts),
        "agreed_tokens": statistics.mean(places),
    }


def _answer(side: Any, request: Request) -> None:
    finished = side.engine.submit(request).result(60)
    if finished.error is not None:
        raise finished.error


def _turns(works: list[Callable[[], None]], repeats: int) -> list[float]:
    """Median milliseconds of processor time of each, in turns."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, own in zip(works, times, strict=True):
            begin = time.process_time()
            work()
            if turn > 0:
                own.append(1000 * (time.process_time() - begin))
    return [statistics.median(own) for own in times]
