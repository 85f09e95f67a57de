"""Computed prefixes in a folder, for adaptations that come back: after an eviction, or a restart.

What a prefix takes to compute grows with its positions and the base; reading it is a copy. A file
belongs to one tenant, content, prompt and way of computing, holds the hash of its bytes, and is
written by a thread of its own after the prefix was used, so no answer waits for it. It is a cache:
whatever cannot be read or written is computed instead, and the least recently used files leave.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.engine.prefix_names import ENDING, UNFINISHED, make, owner
from tunewise.serve.engine.residents import Resident

log = logging.getLogger("tunewise.serve")

_DIGEST_BYTES = 32
# Prefixes that wait to be written; beyond that some are computed again one day.
_MOST_WAITING = 16


class PrefixFiles:
    """The folder; safe from any thread, and several processes may share it.

    Args:
        folder: made if it is not there, for this user alone.
        most_bytes: of all files together.
        base: whose keys and values.
        weights: as of `EngineSettings`: other weights, other keys and values.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, folder: Path, most_bytes: int, base: Base, weights: str) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._computed_by = (version("tunewise"), base.fingerprint, base.dtype_name, weights)
        try:
            make(folder, own=False)
        except OSError as error:
            raise ConfigError(
                "the folder for prefixes cannot be written to",
                found=str(error),
                expected="a folder of this user's own",
            ) from error
        self._writer = ThreadPoolExecutor(1, "tunewise-prefix-files")
        self._waiting = threading.Semaphore(_MOST_WAITING)

    def find(self, resident: Resident) -> Tensor | None:
        """The prefix of an adaptation, (L, 2K, P, W); None where it must be computed."""
        path = self._path(resident)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        found = _unpacked(data)
        fits = found is not None and found.ndim == 4 and found.shape[2] == resident.positions
        with contextlib.suppress(OSError):
            if fits:
                os.utime(path)
            else:
                log.warning("a stored prefix is damaged and is computed again")
                path.unlink(missing_ok=True)
        return found if fits else None

    def keep(self, resident: Resident, prefix: Tensor) -> None:
        """Write a prefix, some time later.

        Args:
            resident: whose.
            prefix: (L, 2K, P, W), not changed any more.
        """
        if prefix.nbytes <= self._most_bytes and self._waiting.acquire(blocking=False):
            self._writer.submit(self._write, self._path(resident), prefix)

    def close(self) -> None:
        """Write what waits to be written."""
        self._writer.shutdown()

    def _write(self, path: Path, prefix: Tensor) -> None:
        unfinished = self._unfinished(path.stem)
        try:
            if not path.exists():
                packed = save({"prefix": prefix.contiguous()})
                with open(unfinished, "xb", opener=_private) as target:
                    target.write(hashlib.sha256(packed).digest())
                    target.write(packed)
                os.replace(unfinished, path)
                self._trim()
        except OSError as error:
            log.warning("a prefix could not be stored", extra={"error": str(error)})
        finally:
            self._waiting.release()
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Remove the least recently used files, and what a process left that was killed."""
        found = []
        for path in self._folder.iterdir():
            # Another process may remove it first.
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == ENDING:
                    told = path.stat()
                    found.append((told.st_mtime_ns, told.st_size, path))
                elif path.suffix == UNFINISHED and not _runs(path):
                    path.unlink()
        left = sum(size for _, size, _ in found) - self._most_bytes
        for _, size, path in sorted(found):
            if left <= 0:
                break
            path.unlink(missing_ok=True)
            left -= size

    def _path(self, resident: Resident) -> Path:
        told = [*self._computed_by, *resident.key, resident.positions, *resident.text]
        name = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return self._folder / f"{owner(*resident.key)}-{name}{ENDING}"

    def _unfinished(self, stem: str) -> Path:
        return self._folder / f"{stem}.{os.getpid()}{UNFINISHED}"


def _unpacked(data: bytes) -> Tensor | None:
    digest, packed = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != digest:
        return None
    try:
        tensors: dict[str, Tensor] = load(packed)
    except SafetensorError:
        return None
    return tensors.get("prefix")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _runs(path: Path) -> bool:
    """Whether the process that writes an unfinished file may still be there."""
    process = path.stem.rpartition(".")[2]
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True
