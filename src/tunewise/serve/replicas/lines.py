"""Log lines of other processes of this machine, on this one's standard error.

Ray prints what its workers write with a prefix, and leaves out lines that look alike; a log of JSON
lines needs neither. So replicas write to a socket in a folder that only this user may enter.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import IO, TextIO


class Gathered:
    """Takes lines from a socket to a stream, until it is closed.

    Args:
        target: gets each line whole.
    """

    def __init__(self, target: TextIO) -> None:
        self._target, self._lock = target, threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="tunewise-log-"))
        self.place = str(self._folder / "lines")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.place)
        self._socket.listen()
        threading.Thread(target=self._listen, name="tunewise-log", daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, connection.makefile(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with self._lock:
                    self._target.write(line)
                    self._target.flush()


def lines_to(place: str) -> IO[str]:
    """A stream whose lines another process gathers.

    Args:
        place: of its `Gathered`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(place)
    return connection.makefile("w", encoding="utf-8")
