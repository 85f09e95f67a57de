"""One running request, as whoever asked sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from tunewise.errors import RunError
from tunewise.serve.contract import Finished, Piece

Listener = Callable[[Piece | Finished], None]


class EventStream:
    """See `Stream`; the engine puts events in, any other thread reads them.

    Args:
        on_abort: tells the engine that nobody wants the answer any more.
    """

    def __init__(self, on_abort: Callable[[], None]) -> None:
        self._on_abort = on_abort
        self._changed = threading.Condition()
        self._pieces: list[Piece] = []
        self._finished: Finished | None = None
        self._listener: Listener | None = None

    def put(self, event: Piece | Finished) -> None:
        """Take the next event; nothing may follow a `Finished`."""
        with self._changed:
            if self._finished is not None:
                return
            if isinstance(event, Finished):
                self._finished = event
            else:
                self._pieces.append(event)
            self._changed.notify_all()
            # Inside the lock: a listener that comes at the same time sees every event once.
            if self._listener is not None:
                self._tell(self._listener, event)

    def __iter__(self) -> Iterator[Piece]:
        """See `Stream.__iter__`."""
        place = 0
        while True:
            with self._changed:
                while place == len(self._pieces) and self._finished is None:
                    self._changed.wait()
                if place == len(self._pieces):
                    return
                piece = self._pieces[place]
            place += 1
            yield piece

    def subscribe(self, listener: Listener) -> None:
        """See `Stream.subscribe`.

        Raises:
            RunError: somebody listens already.
        """
        with self._changed:
            if self._listener is not None:
                raise RunError("a stream has one listener")
            self._listener = listener
            for piece in self._pieces:
                self._tell(listener, piece)
            if self._finished is not None:
                self._tell(listener, self._finished)

    def result(self, timeout_seconds: float | None = None) -> Finished:
        """See `Stream.result`."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished is not None, timeout_seconds)
            if self._finished is None:
                raise TimeoutError(f"no answer within {timeout_seconds} seconds")
            return self._finished

    def abort(self) -> None:
        """See `Stream.abort`."""
        if self._finished is None:
            self._on_abort()

    def _tell(self, listener: Listener, event: Piece | Finished) -> None:
        try:
            listener(event)
        except Exception:  # its loop is closed, say: the engine's thread goes on for the others
            self._listener = None
