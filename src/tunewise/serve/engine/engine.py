"""The embedded engine: one thread that admits requests, runs passes and hands answers out.

Every pass takes all running rows one token further and as much of new prompts as is set, whatever
adaptations they have. Requests come and go between passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import BusyError, ConfigError, RunError, TunewiseError, UnavailableError
from tunewise.model.base import Base
from tunewise.serve.contract import BaseFacts, EngineStats, Ready, Request
from tunewise.serve.engine.batch import Batch, failure
from tunewise.serve.engine.decoder import plain_decoder
from tunewise.serve.engine.general import GeneralRunner
from tunewise.serve.engine.int8 import int8_lay
from tunewise.serve.engine.layout import Lay, plain_lay
from tunewise.serve.engine.plain import PlainRunner
from tunewise.serve.engine.prefix_files import PrefixFiles
from tunewise.serve.engine.prepare import prepare
from tunewise.serve.engine.requests import Readers
from tunewise.serve.engine.residents import Resident, Residents
from tunewise.serve.engine.rows import Row
from tunewise.serve.engine.shallow import answered
from tunewise.serve.engine.slots import KeyValueSlots, place_shape
from tunewise.serve.engine.together import Joint, behind_each
from tunewise.serve.engine.waiting import FairQueue
from tunewise.serve.engine.work import Runner
from tunewise.serve.stream import EventStream

# Nodes of a label tree stand behind a row, beyond the context, since they stand beside each other.
_TREE_PLACES = 2048


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How much an engine takes at once.

    Attributes:
        slots: requests in the batch.
        budget_bytes: memory for adaptations beside the base.
        most_waiting: requests that wait at most.
        prompt_positions: positions of new prompts in one pass at most; running answers wait for
            them.
        context_tokens: most positions of a request; None for the base's own limit.
        guessed_within: so many positions of answers in one pass at most get a guess at what follows
            (guess.py); 0 guesses nothing. Answers are the same.
        weights: "own" are the base's, in its dtype; "int8" are rounded to 8 bits (int8.py).
        prefix_folder: where computed prefixes are kept (prefix_files.py); None for nowhere.
        prefix_folder_bytes: all of them together at most.
    """

    slots: int = 16
    budget_bytes: int = 2**30
    most_waiting: int = 256
    prompt_positions: int = 512
    context_tokens: int | None = None
    guessed_within: int = 8
    weights: Literal["own", "int8"] = "own"
    prefix_folder: Path | None = None
    prefix_folder_bytes: int = 2**30


class EmbeddedEngine:
    """See `Engine`.

    Args:
        base: the base; while the engine lives, nothing else may attach to it.
        settings: how much it takes at once.
        plain: whether a plain decoder may run in few calls; False runs every base through its own
            forward.

    Raises:
        ConfigError: the base's layers keep something else than keys and values, or prefixes cannot
            be kept where they should.
    """

    def __init__(
        self, base: Base, settings: EngineSettings | None = None, *, plain: bool = True
    ) -> None:
        settings = EngineSettings() if settings is None else settings
        self._base, self._settings = base, settings
        context = base.context_length
        if settings.context_tokens is not None:
            context = min(context, settings.context_tokens)
        dtype = None if settings.weights == "own" else settings.weights
        self._facts = BaseFacts.of(base, context, dtype)
        self._shape = place_shape(base)
        places = context + _TREE_PLACES
        slots = KeyValueSlots(self._shape, settings.slots, places, base.dtype)
        self._runner = _runner(base, slots, settings.weights if plain else None)
        self._residents = Residents(settings.budget_bytes, self._make)
        self._readers = Readers(base.tokenizer, base.vocabulary, context)
        # Another runner runs rows of several positions one by one.
        within = settings.guessed_within if isinstance(self._runner, PlainRunner) else 0
        self._files: PrefixFiles | None = None
        if settings.prefix_folder is not None:
            self._files = PrefixFiles(
                settings.prefix_folder, settings.prefix_folder_bytes, base, settings.weights
            )
        keep = None if self._files is None else self._files.keep
        self._batch = Batch(self._runner, slots, settings.prompt_positions, within, keep)
        self._changed = threading.Condition()
        self._waiting: FairQueue[Row] = FairQueue()
        self._aborts = False
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="tunewise-engine", daemon=True)
        self._thread.start()

    @property
    def base(self) -> BaseFacts:
        """See `Engine.base`."""
        return self._facts

    def base_alone(self, tenant: str) -> Ready:
        """See `Engine.base_alone`."""
        return self._residents.base_alone(tenant).ready()

    def ready(self, tenant: str, content_hash: str, load: Callable[[], Adaptation]) -> Ready:
        """See `Engine.ready`."""
        return self._residents.get((tenant, content_hash), load).ready()

    def drop(self, tenant: str, content_hash: str) -> bool:
        """See `Engine.drop`."""
        return self._residents.drop((tenant, content_hash))

    def submit(self, request: Request) -> EventStream:
        """See `Engine.submit`."""
        resident = request.ready.held
        if not isinstance(resident, Resident):
            raise RunError("the adaptation was made ready by another engine")
        if resident.shallow is not None:
            return answered(request, resident.shallow, resident.spec)
        if resident.others:
            return self._together(request, resident)
        row, stream = self._row(request, resident)
        self._put([row])
        return stream

    def _together(self, request: Request, resident: Resident) -> EventStream:
        """A row behind each prompt of an ensemble."""
        joint = Joint(request, resident, partial(self._residents.use, resident, -1))
        made = [self._row(each, each.ready.held) for each in behind_each(request)]
        joint.watch([(row.reader, stream) for row, stream in made])
        self._residents.use(resident, 1)
        try:
            self._put([row for row, _ in made])
        except TunewiseError:
            self._residents.use(resident, -1)
            raise
        return joint.stream

    def _row(self, request: Request, resident: Resident) -> tuple[Row, EventStream]:
        row = Row(request, resident, self._readers.reader(request, resident))
        stream = row.stream = EventStream(lambda: self._abort(row))
        return row, stream

    def _put(self, rows: Sequence[Row]) -> None:
        """Let the rows of one request wait, all or none."""
        with self._changed:
            if self._closed:
                raise RunError("the engine is closed")
            if len(self._waiting) >= self._settings.most_waiting:
                raise BusyError(
                    "the server has as many requests waiting as it takes",
                    found=f"{len(self._waiting)} waiting",
                    fix="try again in a moment",
                )
            for row in rows:
                self._residents.use(row.resident, 1)
                self._waiting.put(row.request.ready.tenant, row)
            self._changed.notify_all()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        batch, residents = self._batch, self._residents
        with self._changed:
            waiting = len(self._waiting)
        return EngineStats(
            len(batch.rows),
            waiting,
            self._settings.slots,
            len(residents),
            residents.bytes,
            residents.budget_bytes,
            residents.hits,
            residents.misses,
            residents.evictions,
            batch.steps,
            batch.prompt_tokens,
            batch.completion_tokens,
        )

    def check(self) -> None:
        """See `Engine.check`."""
        if not self._thread.is_alive():
            raise UnavailableError("the engine has ended")

    def close(self) -> None:
        """See `Engine.close`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            if self._files is not None:
                self._files.close()

    def _make(self, key: tuple[str, str], adaptation: Adaptation) -> Resident:
        with torch.no_grad():
            made = prepare(key, adaptation, self._base, self._runner, self._shape)
        for each in (made, *made.others):
            if self._files is not None and each.prefix is None and each.positions:
                each.prefix = self._files.find(each)
        return made

    def _abort(self, row: Row) -> None:
        with self._changed:
            row.aborted = self._aborts = True
            self._changed.notify_all()

    # The engine's thread

    def _loop(self) -> None:
        # Beyond no gradients: no views and versions to keep, a tenth of a small step.
        with torch.inference_mode():
            while self._admit():
                for row in self._batch.step():
                    self._release(row)
        with self._changed:
            left = self._waiting.remove(lambda row: True)
        for row in (*left, *self._batch.leave(lambda row: True)):
            self._residents.use(row.resident, -1)
            row.tell_end()

    def _admit(self) -> bool:
        """Let requests in and out; waits while there is nothing to do. False at the end."""
        while True:
            with self._changed:
                while not (self._closed or self._aborts or self._batch.rows or self._waiting):
                    self._changed.wait()
                if self._closed:
                    return False
                gone: list[Row] = []
                if self._aborts:
                    self._aborts = False
                    gone = self._waiting.remove(lambda row: row.aborted)
                fresh: list[Row] = []
                while len(fresh) < self._batch.free and (row := self._waiting.next()) is not None:
                    fresh.append(row)
            for row in gone:
                self._residents.use(row.resident, -1)
                row.tell_end()
            for row in self._batch.leave(lambda row: row.aborted):
                self._release(row)
            for row in fresh:
                self._enter(row)
            if self._batch.rows:
                return True

    def _enter(self, row: Row) -> None:
        try:
            self._batch.enter(row)
        except Exception as error:  # whatever it is, only this request fails
            self._batch.leave(lambda each: each is row)
            row.error = failure(error)
            self._release(row)

    def _release(self, row: Row) -> None:
        """Free what a row held, and only then tell its end."""
        self._residents.use(row.resident, -1)
        with self._changed:
            self._waiting.ended(row.request.ready.tenant)
        row.tell_end()


def _runner(base: Base, slots: KeyValueSlots, weights: str | None) -> Runner:
    lay: Lay = int8_lay(base) if weights == "int8" else plain_lay(base)
    found = None if weights is None else plain_decoder(base, slots.places, lay)
    if found is not None:
        decoder, own = found
        return PlainRunner(base, decoder, own, slots, lay)
    if weights == "int8":
        raise ConfigError(
            "8-bit weights are for plain decoders of the Llama family",
            found=type(base.model).__name__,
            fix="serve with the base's own weights",
        )
    return GeneralRunner(base, slots)
