"""Adaptations in memory, by tenant and content hash, within a budget of bytes.

Nothing computed for one tenant is used for another, though the bytes be the same: whether an answer
came sooner than it could have would tell what others serve.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import AdaptationError, BusyError
from tunewise.model.score import LabelTree
from tunewise.serve.contract import Ready
from tunewise.serve.engine.work import PLAIN, Inside
from tunewise.task.render import Renderer
from tunewise.task.types import TaskSpec

Key = tuple[str, str]
MOST_REFUSED = 1024


@dataclass(slots=True, eq=False)
class Resident:
    """One adaptation, ready to run; what is computed from it comes with its first request.

    Attributes:
        key: tenant and content hash.
        kinds: of its parts.
        spec: its task; None for the base alone.
        decoding: its readout; None for the base alone.
        renderer: of its rows; None for the base alone.
        inside: what of it stands inside the model.
        kept: (L, 2K, k, W) stored keys and values of its first positions, or None.
        virtual: (k, D) virtual tokens, or None.
        text: tokens of the shared text that is computed.
        shallow: answers without the base, or None.
        tree: its labels behind a row, where it has labels.
        positions: P, all that stand before a row.
        bytes: memory of all this, the keys and values of the P positions included.
        prefix: (L, 2K, P, W) once computed; None before, and where P is 0.
        computing: the row that computes it now.
        running: requests that use it.
        others: the same behind each further prompt of an ensemble; `bytes` counts them too.
    """

    key: Key
    kinds: tuple[str, ...] = ()
    spec: TaskSpec | None = None
    decoding: Decoding | None = None
    renderer: Renderer | None = field(default=None, repr=False)
    inside: Inside = PLAIN
    kept: Tensor | None = field(default=None, repr=False)
    virtual: Tensor | None = field(default=None, repr=False)
    text: tuple[int, ...] = field(default=(), repr=False)
    shallow: ShallowPredictor | None = field(default=None, repr=False)
    tree: LabelTree | None = field(default=None, repr=False)
    positions: int = 0
    bytes: int = 0
    prefix: Tensor | None = field(default=None, repr=False)
    computing: Any = field(default=None, repr=False)
    running: int = 0
    others: tuple[Resident, ...] = field(default=(), repr=False)

    def ready(self) -> Ready:
        """What a caller holds of it."""
        tenant, content_hash = self.key
        return Ready(
            tenant,
            content_hash,
            self.kinds,
            self.bytes,
            self.positions,
            self.spec,
            self.decoding,
            self.renderer,
            self,
            tuple(each.ready() for each in self.others),
        )


class Residents:
    """The adaptations in memory; safe from any thread.

    Args:
        budget_bytes: memory they may take.
        make: makes one of what was loaded.
    """

    def __init__(self, budget_bytes: int, make: Callable[[Key, Adaptation], Resident]) -> None:
        self.budget_bytes, self._make = budget_bytes, make
        self._lock = threading.Lock()
        # Least recently used first.
        self._table: OrderedDict[Key, Resident] = OrderedDict()
        self._loading: dict[Key, threading.Lock] = {}
        self._bases: dict[str, Resident] = {}
        # Bytes of what found no room: trying again must not cost loading again.
        self._refused: OrderedDict[Key, int] = OrderedDict()
        self.bytes = self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._table)

    def base_alone(self, tenant: str) -> Resident:
        """The base without an adaptation, as this tenant's."""
        with self._lock:
            return self._bases.setdefault(tenant, Resident((tenant, "")))

    def get(self, key: Key, load: Callable[[], Adaptation]) -> Resident:
        """The adaptation, from memory or loaded.

        Raises:
            AdaptationError: it is larger than the whole budget.
            BusyError: all that would have to go is in use.
            Whatever loading and making raise.
        """
        with self._lock:
            found = self._found(key)
            if found is not None:
                return found
            loading = self._loading.setdefault(key, threading.Lock())
        # One thread loads it, others that want the same wait here.
        with loading:
            try:
                with self._lock:
                    found = self._found(key)
                    if found is not None:
                        return found
                    self._check_room(self._refused.get(key, 0))
                    self.misses += 1
                made = self._make(key, load())
                with self._lock:
                    return self._admit(made)
            finally:
                with self._lock:
                    if self._loading.get(key) is loading:
                        del self._loading[key]

    def drop(self, key: Key) -> bool:
        """Forget an adaptation; whoever holds it keeps it."""
        with self._lock:
            found = self._table.pop(key, None)
            if found is not None:
                self.bytes -= found.bytes
            return found is not None

    def use(self, resident: Resident, change: int) -> None:
        """Count a request that begins (1) or ends (-1)."""
        with self._lock:
            resident.running += change

    def _found(self, key: Key) -> Resident | None:
        found = self._table.get(key)
        if found is not None:
            self.hits += 1
            self._table.move_to_end(key)
        return found

    def _admit(self, made: Resident) -> Resident:
        held = self._table.get(made.key)
        if held is not None:
            # After a failure or a drop two threads may load it at once.
            return held
        if made.bytes > self.budget_bytes:
            raise AdaptationError(
                "the adaptation is larger than the memory for adaptations",
                found=f"{made.bytes:,} bytes",
                expected=f"{self.budget_bytes:,} bytes at most",
                fix="give the engine a larger budget, or serve this adaptation elsewhere",
            )
        self._refused[made.key] = made.bytes
        while len(self._refused) > MOST_REFUSED:
            self._refused.popitem(last=False)
        self._check_room(made.bytes)
        del self._refused[made.key]
        idle = [key for key, each in self._table.items() if each.running == 0]
        while self.bytes + made.bytes > self.budget_bytes:
            self.bytes -= self._table.pop(idle.pop(0)).bytes
            self.evictions += 1
        self._table[made.key] = made
        self.bytes += made.bytes
        return made

    def _check_room(self, wanted: int) -> None:
        """Refuse what would not fit even if all that is idle went; nothing goes for it then."""
        used = sum(each.bytes for each in self._table.values() if each.running)
        if wanted and used + wanted > self.budget_bytes:
            raise BusyError(
                "the adaptations that are in use fill the memory for adaptations",
                found=f"{used:,} of {self.budget_bytes:,} bytes, {wanted:,} wanted",
                fix="try again in a moment, or give the engine a larger budget",
            )
