"""The vLLM engine: the same contract, answered by a vLLM server over HTTP.

One thread runs an event loop; every running request is a task on it, and vLLM puts them into one
batch. Requests beyond the slots wait here, in a queue that is fair between tenants.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import (
    AdaptationError,
    BusyError,
    RunError,
    TunewiseError,
    UnavailableError,
)
from tunewise.model.base import Base
from tunewise.serve.contract import BaseFacts, EngineStats, Ready, Request
from tunewise.serve.engine.batch import failure
from tunewise.serve.engine.readers import Generation
from tunewise.serve.engine.requests import Readers
from tunewise.serve.engine.residents import Key, Resident, Residents
from tunewise.serve.engine.shallow import answered
from tunewise.serve.engine.together import Joint, behind_each
from tunewise.serve.engine.waiting import FairQueue
from tunewise.serve.stream import EventStream
from tunewise.serve.vllm.answers import answer
from tunewise.serve.vllm.asking import Asking, Prompt
from tunewise.serve.vllm.carry import Carried, Ground, carried
from tunewise.serve.vllm.loras import Loras
from tunewise.serve.vllm.meet import Proof, meet
from tunewise.serve.vllm.process import VllmProcess
from tunewise.serve.vllm.rows import Row, readable
from tunewise.serve.vllm.wire import Wire

T = TypeVar("T")
_CLOSING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How much the engine takes at once.

    Attributes:
        slots: requests that vLLM is given at a time.
        budget_bytes: memory for adaptations beside the base; vLLM holds their LoRAs.
        most_waiting: requests that wait at most.
        context_tokens: most positions of a request; None for the server's own limit.
        silence_seconds: the longest time without a sign of life from the server.
        key: sent to the server as bearer token, or None.
    """

    slots: int = 16
    budget_bytes: int = 2**30
    most_waiting: int = 256
    context_tokens: int | None = None
    silence_seconds: float = 300.0
    key: str | None = None


class VllmEngine:
    """See `Engine`.

    Args:
        base: our own copy of the base: the server is held against it, and its tokenizer and input
            embeddings stay; its layers may be let go afterwards.
        url: where the server listens, without /v1.
        settings: how much it takes at once.
        process: the server's process where it was started for this engine; it ends with it.

    Raises:
        ConfigError: the URL is no address.
        WrongBaseError: the server has another base.
        UnavailableError: it does not answer.
        RunError: it answers something else than vLLM does.
    """

    def __init__(
        self,
        base: Base,
        url: str,
        settings: VllmSettings | None = None,
        *,
        process: VllmProcess | None = None,
    ) -> None:
        self._settings = settings = VllmSettings() if settings is None else settings
        self._process = process
        self._ground = Ground.of(base)
        hint = "see whether it runs" if process is None else f"its log is {process.log}"
        self._wire = Wire(url, settings.key, silence_seconds=settings.silence_seconds, hint=hint)
        # vLLM reads LoRAs from our folders, so it is on this machine, and computes where we do.
        self._wire.sides.on = base.device.type == "cpu"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunewise-vllm")
        self._thread.daemon = True
        self._thread.start()
        self._loras = Loras(self._wire, self._loop, base.name)
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: FairQueue[Row] = FairQueue()
        self._running: set[Row] = set()
        self._prompt_tokens = self._completion_tokens = 0
        self._secret = secrets.token_hex(16)
        self._bases: dict[str, Carried] = {}
        self._residents = Residents(settings.budget_bytes, self._make)
        try:
            self._met = self._call(meet(self._wire, self._ground, Proof.of(base)))
        except BaseException:
            self.close()
            raise
        limits = (base.context_length, self._met.context, settings.context_tokens)
        self._facts = BaseFacts.of(base, min(each for each in limits if each is not None))
        self._readers = Readers(base.tokenizer, base.vocabulary, self._facts.context_length)

    @property
    def base(self) -> BaseFacts:
        """See `Engine.base`."""
        return self._facts

    def base_alone(self, tenant: str) -> Ready:
        """See `Engine.base_alone`."""
        with self._lock:
            found = self._bases.setdefault(tenant, self._own(Carried((tenant, ""))))
        return found.ready()

    def ready(self, tenant: str, content_hash: str, load: Callable[[], Adaptation]) -> Ready:
        """See `Engine.ready`."""
        return self._residents.get((tenant, content_hash), load).ready()

    def drop(self, tenant: str, content_hash: str) -> bool:
        """See `Engine.drop`."""
        return self._residents.drop((tenant, content_hash))

    def submit(self, request: Request) -> EventStream:
        """See `Engine.submit`."""
        held = self._held(request)
        if held.shallow is not None:
            return answered(request, held.shallow, held.spec)
        if held.others:
            return self._together(request, held)
        row, stream = self._row(request, held)
        self._put([row])
        return stream

    def _held(self, request: Request) -> Carried:
        held = request.ready.held
        if not isinstance(held, Carried) or held.home is not self:
            raise RunError("the adaptation was made ready by another engine")
        return held

    def _together(self, request: Request, held: Carried) -> EventStream:
        """A row behind each prompt of an ensemble."""
        joint = Joint(request, held, partial(self._residents.use, held, -1))
        made = [self._row(each, each.ready.held) for each in behind_each(request)]
        joint.watch([(row.reader, stream) for row, stream in made])
        self._residents.use(held, 1)
        try:
            self._put([row for row, _ in made])
        except TunewiseError:
            self._residents.use(held, -1)
            raise
        return joint.stream

    def _row(self, request: Request, held: Carried) -> tuple[Row, EventStream]:
        row = Row(request, held, readable(request, self._readers.reader(request, held)))
        stream = row.stream = EventStream(lambda: self._soon(self._abort, row))
        return row, stream

    def _put(self, rows: Sequence[Row]) -> None:
        """Let the rows of one request wait, all or none."""
        with self._lock:
            if self._closed:
                raise RunError("the engine is closed")
            if len(self._waiting) >= self._settings.most_waiting:
                raise BusyError(
                    "the server has as many requests waiting as it takes",
                    found=f"{len(self._waiting)} waiting",
                    fix="try again in a moment",
                )
            for row in rows:
                self._residents.use(row.carried, 1)
                self._waiting.put(row.request.ready.tenant, row)
        self._soon(self._admit)

    def stats(self) -> EngineStats:
        """See `Engine.stats`; a step is a completion that vLLM was asked for."""
        residents = self._residents
        with self._lock:
            running, waiting = len(self._running), len(self._waiting)
        return EngineStats(
            running,
            waiting,
            self._settings.slots,
            len(residents),
            residents.bytes,
            residents.budget_bytes,
            residents.hits,
            residents.misses,
            residents.evictions,
            self._wire.requests,
            self._prompt_tokens,
            self._completion_tokens,
        )

    def check(self) -> None:
        """See `Engine.check`; vLLM itself is asked."""
        if self._closed:
            raise UnavailableError("the engine is closed")
        self._call(self._wire.check())

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            with contextlib.suppress(TimeoutError):
                self._call(asyncio.wait_for(self._end(), _CLOSING_SECONDS))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._process is not None:
                self._process.stop()

    def _make(self, key: Key, adaptation: Adaptation) -> Resident:
        made, change = carried(key, adaptation, self._ground)
        if made.virtual is not None and self._met.no_embeddings:
            raise AdaptationError(
                "the vLLM server takes no virtual tokens",
                found=self._met.no_embeddings,
                expected="a server that was started with --enable-prompt-embeds",
                fix="start vLLM so, or let `tunewise serve --vllm-python` start it",
            )
        self._own(made)
        if change is not None:
            self._loras.load(key, change, made)
        for each in made.others:
            if isinstance(each, Carried):
                # Whoever asks behind one of them holds the first, and with it the LoRA.
                each.home, each.model, each.salt = self, made.model, made.salt
        return made

    def _own(self, made: Carried) -> Carried:
        made.home, made.model = self, self._met.model
        # Not to be guessed, as vLLM asks for: who knows a salt could probe what it covers.
        made.salt = hashlib.sha256(f"{self._secret}\0{made.key[0]}".encode()).hexdigest()
        return made

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _soon(self, work: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and every request with it
            self._loop.call_soon_threadsafe(work, *given)

    # The engine's thread

    def _admit(self) -> None:
        while True:
            with self._lock:
                full = len(self._running) >= self._settings.slots
                row = None if full or self._closed else self._waiting.next()
                if row is None:
                    return
                self._running.add(row)
            row.task = self._loop.create_task(self._run(row))
            # Not inside the task: one that is cancelled before its first step runs nothing at all.
            row.task.add_done_callback(partial(self._release, row))

    async def _run(self, row: Row) -> None:
        stream, ends = row.stream, frozenset[int]()
        if isinstance(row.reader, Generation):
            ends = row.reader.ends
        prompt = Prompt(self._ground, row.carried, row.request.tokens)
        row.asking = Asking(self._wire, prompt, row.request.sampling, ends)
        try:
            if stream is not None and not row.aborted:
                row.reason = await answer(row.asking, row.reader, stream.put)
        except Exception as error:  # whatever it is, only this request fails
            row.error = failure(error)

    def _release(self, row: Row, _: asyncio.Task[None]) -> None:
        """Free what a row held, and only then tell its end."""
        usage = row.usage()
        with self._lock:
            self._running.discard(row)
            self._waiting.ended(row.request.ready.tenant)
            self._prompt_tokens += usage.prompt_tokens - usage.cached_tokens
            self._completion_tokens += usage.completion_tokens
        self._residents.use(row.carried, -1)
        row.tell_end()
        # What refers to itself would keep its adaptation, and so a LoRA on the server, for long.
        row.task = row.stream = row.asking = row.error = None
        self._admit()

    def _abort(self, row: Row) -> None:
        row.aborted = True
        if row.task is not None:
            row.task.cancel()
            return
        with self._lock:
            gone = self._waiting.remove(lambda each: each is row)
        self._leave(gone)

    def _leave(self, rows: list[Row]) -> None:
        """End rows that never ran."""
        for row in rows:
            self._residents.use(row.carried, -1)
            row.tell_end()

    async def _end(self) -> None:
        with self._lock:
            waiting = self._waiting.remove(lambda row: True)
            running = [row.task for row in self._running if row.task is not None]
        self._leave(waiting)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._loras.close()
        await self._wire.close()
