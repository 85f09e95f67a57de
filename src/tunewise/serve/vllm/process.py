"""A vLLM server that is started from an environment of its own, and ends with its engine.

vLLM pins its own versions of torch and transformers, so it never shares our environment: it is a
Python somewhere else, and a process that speaks HTTP on 127.0.0.1.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from tunewise.errors import ConfigError, UnavailableError
from tunewise.model.base import default_threads
from tunewise.model.cache import home
from tunewise.serve.vllm.carry import TARGETS

_MODULE = "vllm.entrypoints.openai.api_server"
_TOLD_LINES, _TOLD_CHARACTERS = 12, 1500
_PAUSE_SECONDS, _LEAVE_SECONDS = 0.25, 15.0


@dataclass(frozen=True, slots=True)
class Start:
    """How a server is started.

    Attributes:
        python: of the environment that vLLM is installed in.
        model: folder of the base.
        dtype: to compute in.
        context_tokens: most positions of a request; None for the base's own.
        slots: requests that it is given at a time.
        on_cpu: whether it computes on a processor.
        most_rank: the largest rank of a LoRA.
        most_loras: LoRAs in one batch.
        patience_seconds: until it must be ready.
    """

    python: str
    model: str
    dtype: str
    context_tokens: int | None = None
    slots: int = 16
    on_cpu: bool = True
    most_rank: int = 64
    most_loras: int = 4
    patience_seconds: float = 900.0

    def command(self, port: int) -> list[str]:
        """The command line.

        Args:
            port: to listen on, at 127.0.0.1.
        """
        flags: dict[str, str | None] = {
            "--model": self.model,
            "--served-model-name": "base",
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": self.dtype,
            # Settings of the model's own folder would change answers.
            "--generation-config": "vllm",
            "--max-num-seqs": str(self.slots),
            "--enable-prompt-embeds": None,
            "--enable-prompt-tokens-details": None,
            "--enable-lora": None,
            "--max-loras": str(self.most_loras),
            "--max-lora-rank": str(self.most_rank),
            # A line for every request would fill the disk in time.
            "--disable-uvicorn-access-log": None,
        }
        if self.context_tokens is not None:
            flags["--max-model-len"] = str(self.context_tokens)
        if self.on_cpu:
            # What it may take of the machine's memory beside what is named; compiling would take
            # minutes before the first answer.
            flags |= {"--gpu-memory-utilization": "0.2", "--enforce-eager": None}
        words = [self.python, "-m", _MODULE]
        for flag, value in flags.items():
            words += [flag] if value is None else [flag, value]
        return [*words, "--lora-target-modules", *TARGETS]

    def environment(self, given: Mapping[str, str], key: str) -> dict[str, str]:
        """The process's environment.

        Args:
            given: ours; what it says of processor cores and memory stands.
            key: that the server asks for.
        """
        ours: dict[str, str] = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_API_KEY": key,
        }
        processor = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # The automatic choice took one core.
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{default_threads() - 1}",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        # Our own modules are none of its business, and would stand before its own.
        rest = {name: value for name, value in given.items() if name != "PYTHONPATH"}
        return (processor if self.on_cpu else {}) | rest | ours


class VllmProcess:
    """A running server.

    Args:
        start: how.

    Attributes:
        url: where it listens.
        key: that it asks for.
        log: the file that it writes to.

    Raises:
        ConfigError: there is no such Python.
        UnavailableError: the server did not come up; its last lines are shown.
    """

    def __init__(self, start: Start) -> None:
        port = _free_port()
        self.url, self.key = f"http://127.0.0.1:{port}", secrets.token_hex(16)
        folder = home() / "vllm"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"server-{os.getpid()}-{port}.log"
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    start.command(port),
                    env=start.environment(os.environ, self.key),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: it has children, and a ^C is ours to pass on.
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(
                "that Python cannot be started",
                found=f"--vllm-python {start.python}: {error.strerror}",
                expected="the Python of an environment with vLLM, such as vllm-env/bin/python",
            ) from error
        atexit.register(self.stop)
        try:
            self._wait(start.patience_seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and its children; twice is fine."""
        atexit.unregister(self.stop)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_SECONDS)
        self._process.wait()

    def _wait(self, patience_seconds: float) -> None:
        end = time.monotonic() + patience_seconds
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            while time.monotonic() < end:
                if self._process.poll() is not None:
                    raise self._failed(f"it ended with {self._process.returncode}")
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{self.url}/health").status_code == httpx.codes.OK:
                        return
                time.sleep(_PAUSE_SECONDS)
        raise self._failed(f"it was not ready within {patience_seconds:.0f} seconds")

    def _failed(self, why: str) -> UnavailableError:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()][-_TOLD_LINES:]
        return UnavailableError(
            "the vLLM server did not start",
            found=f"{why}; {_last(lines)}",
            fix=f"its whole log is {self.log}",
        )


def _last(lines: list[str]) -> str:
    return "\n    ".join(lines)[-_TOLD_CHARACTERS:] if lines else "it wrote nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
