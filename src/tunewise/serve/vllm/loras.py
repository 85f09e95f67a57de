"""LoRAs on a vLLM server: PEFT folders, loaded under names that are never used twice.

A LoRA that is overwritten in place goes on answering from what was cached of the old one, so a name
stands for its bytes for good. It is unloaded once nobody holds the adaptation any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import shutil
import tempfile
import weakref
from pathlib import Path

from tunewise.adaptation.files import part_files
from tunewise.adaptation.parts import LowRankPart
from tunewise.errors import AdaptationError, TunewiseError
from tunewise.serve.engine.residents import Key
from tunewise.serve.vllm.carry import Carried
from tunewise.serve.vllm.wire import FailedError, RefusedError, Wire


class Loras:
    """The LoRAs of one engine; `load` from any thread.

    Args:
        wire: the server.
        loop: where the wire is used.
        base_name: of the base.
    """

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop, base_name: str) -> None:
        self._wire, self._loop, self._base_name = wire, loop, base_name
        self._root = Path(tempfile.mkdtemp(prefix="tunewise-vllm-"))
        self._numbers = itertools.count(1)
        self._loaded: set[str] = set()

    def load(self, key: Key, part: LowRankPart, carried: Carried) -> None:
        """Load a LoRA, and give its name to the adaptation it belongs to.

        Args:
            key: tenant and content hash.
            part: as vLLM reads it.
            carried: the adaptation; when nobody holds it any more, the LoRA is unloaded.

        Raises:
            AdaptationError: vLLM does not take it.
            UnavailableError: vLLM does not answer.
        """
        digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
        # The folder's own name is drawn, so another engine at the same server has other names.
        name = f"{self._root.name}-{digest}-{next(self._numbers)}"
        folder = self._root / name
        _, files = part_files(part, self._base_name, {})
        folder.mkdir()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        loading = asyncio.run_coroutine_threadsafe(self._wire.load(name, str(folder)), self._loop)
        try:
            loading.result()
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, RefusedError | FailedError):
                raise AdaptationError(
                    "the vLLM server does not take this LoRA",
                    found=error.found,
                    expected="a server with --enable-lora, a --max-lora-rank that is large enough "
                    f"(this one has {part.config['r']}), VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
                    "and this machine's files",
                    fix="start vLLM so, or let `tunewise serve --vllm-python` start it",
                ) from error
            raise
        self._loaded.add(name)
        carried.model = name
        weakref.finalize(carried, self._forget, name).atexit = False

    def _forget(self, name: str) -> None:
        # Runs wherever the last holder let go, perhaps inside a lock: it only leaves a note.
        with contextlib.suppress(RuntimeError):  # the loop has ended, and `close` unloaded all
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._unload(name)))

    async def _unload(self, name: str) -> None:
        if name not in self._loaded:
            return
        self._loaded.discard(name)
        # A server that is gone has forgotten it by itself.
        with contextlib.suppress(TunewiseError):
            await self._wire.unload(name)
        shutil.rmtree(self._root / name, ignore_errors=True)

    async def close(self) -> None:
        """Unload all, and remove their folders."""
        for name in sorted(self._loaded):
            await self._unload(name)
        shutil.rmtree(self._root, ignore_errors=True)
