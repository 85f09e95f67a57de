"""How much memory does it take? The highest resident size of this process while something runs."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_PAUSE_SECONDS = 0.05


class PeakMemory:
    """Samples the resident size 20 times a second while the context lasts.

    Attributes:
        peak_bytes: the highest size seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
