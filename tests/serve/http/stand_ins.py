"""An engine that answers with what it was given, and a server around it.

Its answer to a row is `[instruction of the adaptation] input`, in pieces of a few characters, so an
answer tells which adaptation's bytes were at work. It loads through the same door as a real one,
keeps a few adaptations and evicts the others, and can be made slow.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.errors import ConfigError, RunError, UnavailableError
from tunewise.serve.contract import (
    BaseFacts,
    EngineStats,
    Finished,
    Piece,
    Ready,
    Request,
    TokenChoice,
    Usage,
)
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

FINGERPRINT = "f" * 64
PIECE = 4


class StandInStream:
    """One request, answered by a thread of its own."""

    def __init__(self, engine: StandInEngine, request: Request) -> None:
        self._engine, self._request = engine, request
        self._events: list[Piece | Finished] = []
        self._changed = threading.Condition()
        self._aborted = threading.Event()
        self._listener: Callable[[Piece | Finished], None] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def __iter__(self) -> Iterator[Piece]:
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda at=position: len(self._events) > at)
                event = self._events[position]
            if isinstance(event, Finished):
                return
            yield event
            position += 1

    def subscribe(self, listener: Callable[[Piece | Finished], None]) -> None:
        with self._changed:
            self._listener = listener
            for event in self._events:
                listener(event)

    def result(self, timeout_seconds: float | None = None) -> Finished:
        with self._changed:
            if not self._changed.wait_for(self._ended, timeout_seconds):
                raise TimeoutError
            end = self._events[-1]
        assert isinstance(end, Finished)
        return end

    def abort(self) -> None:
        self._aborted.set()

    def _ended(self) -> bool:
        return bool(self._events) and isinstance(self._events[-1], Finished)

    def _put(self, event: Piece | Finished) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
            if self._listener is not None:
                self._listener(event)

    def _run(self) -> None:
        engine = self._engine
        engine.running.acquire()
        engine.started += 1
        engine.gate.wait(30)
        try:
            self._put(self._answer())
        finally:
            engine.running.release()
            engine.ended += 1

    def _answer(self) -> Finished:
        engine, request = self._engine, self._request
        ready = request.ready
        said = request.text or engine.base.tokenizer.decode(request.tokens)
        text = f"[{ready.held}] {said}"
        prompt = ready.prefix_positions + len(request.tokens)
        if request.readout == "labels" and ready.spec is not None:
            labels = tuple((label, 1 / len(ready.spec.labels)) for label in ready.spec.labels)
            return Finished("stop", "", Usage(prompt, 0, 0), labels=labels)
        if request.readout == "embedding":
            return Finished("stop", "", Usage(prompt, 0, 0), embedding=(0.5, -1.0, float(prompt)))
        if "fail" in said:
            return Finished("failed", "", Usage(prompt, 0, 0), error=RunError("it broke inside"))
        most = request.sampling.max_new_tokens
        pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        cut = pieces if most is None else pieces[:most]
        for number, piece in enumerate(cut):
            if self._aborted.is_set():
                engine.aborted += 1
                return Finished("aborted", "".join(cut[:number]), Usage(prompt, 0, number))
            if engine.seconds:
                self._aborted.wait(engine.seconds)
            choices = ()
            if request.sampling.logprobs is not None:
                choices = (TokenChoice(7, piece, -0.5, ((7, piece, -0.5),)),)
            self._put(Piece(piece, choices))
        reason = "stop" if len(cut) == len(pieces) else "length"
        return Finished(reason, "".join(cut), Usage(prompt, 0, len(cut)))


@dataclass(slots=True)
class StandInEngine:
    """See the module.

    Attributes:
        tokenizer: a byte tokenizer.
        resident: adaptations kept in memory.
        seconds: between two pieces.
        gate: while it is not set, no request gets further than its start.
    """

    tokenizer: Any
    resident: int = 2
    slots: int = 4
    context: int = 512
    seconds: float = 0.0
    kept: OrderedDict[tuple[str, str], Ready] = field(default_factory=OrderedDict)
    loads: int = 0
    evictions: int = 0
    started: int = 0
    aborted: int = 0
    ended: int = 0
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: Any = None
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.running = threading.Semaphore(self.slots)
        self.gate.set()

    @property
    def base(self) -> BaseFacts:
        return BaseFacts("tiny", FINGERPRINT, "float32", self.context, 261, 32, 0, self.tokenizer)

    def base_alone(self, tenant: str) -> Ready:
        return Ready(tenant, "", (), 0, 0, None, None, None, "base")

    def ready(self, tenant: str, content_hash: str, load: Callable[[], Adaptation]) -> Ready:
        place = (tenant, content_hash)
        with self.lock:
            if place in self.kept:
                self.kept.move_to_end(place)
                return self.kept[place]
        made = load()
        part = made.part(PromptTextPart)
        prompt = PromptText("nothing") if part is None else part.prompt
        renderer = Renderer(self.tokenizer, made.spec, prompt)
        shared = len(renderer.shared_tokens)
        ready = Ready(
            tenant, content_hash, made.kinds, 10, shared, made.spec, made.decoding, renderer,
            prompt.instruction,
        )  # fmt: skip
        with self.lock:
            self.loads += 1
            self.kept[place] = ready
            while len(self.kept) > self.resident:
                self.kept.popitem(last=False)
                self.evictions += 1
        return ready

    def drop(self, tenant: str, content_hash: str) -> bool:
        with self.lock:
            return self.kept.pop((tenant, content_hash), None) is not None

    def submit(self, request: Request) -> StandInStream:
        if self.closed:
            raise RunError("the engine is closed")
        if request.readout == "labels" and request.ready.spec is None:
            raise ConfigError("the base has no labels")
        return StandInStream(self, request)

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, self.slots, len(self.kept), 0, 0, 0, self.loads, self.evictions,
                           0, 0, 0)  # fmt: skip

    def check(self) -> None:
        if self.closed:
            raise UnavailableError("the engine has ended")

    def close(self) -> None:
        self.closed = True
