"""Servers beside each other, over HTTP: `python -m benchmarks.serving_servers`.

Each server is a process of its own with the base alone; this one loads them in turns over the
loopback, and puts a block into benchmarks/serving.md. Rates are tokens a second of the server's
processor time, on one thread each: other work on the machine disturbs them least. The peers that
are not installed beside Tunewise are given by the Python of their own environment.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import psutil

from benchmarks import machine
from benchmarks.records import put_block
from benchmarks.serving import PAGE
from benchmarks.serving_http import text_of
from tunewise.model.base import load_base
from tunewise.serve.vllm.process import Start

BASE, NEW_TOKENS = "smollm2-135m", 32
# Requests and how many at once.
WORKS = {"1 stream": (3, 1), "16 streams": (32, 16)}
_PATIENCE_SECONDS = 600.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started.

    Attributes:
        name: in the table.
        command: with `{port}` where the port goes.
        model: what requests call the base.
        environment: besides ours.
        ready: path that answers once it is up.
    """

    name: str
    command: tuple[str, ...]
    model: str = "base"
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/v1/models"


def servers(given: argparse.Namespace, folder: str) -> list[Server]:
    """Those that are installed, ours first.

    Args:
        given: the command line's.
        folder: of the base's weights.
    """
    ours = (sys.executable, "-m", "tunewise", "serve", "--open", "--base", BASE,
            "--port", "{port}", "--registry", f"{given.scratch}/registry")  # fmt: skip
    theirs = (str(Path(sys.executable).with_name("transformers")), "serve", folder,
              "--device", "cpu", "--port", "{port}", "--host", "127.0.0.1")  # fmt: skip
    found = [
        Server(f"Tunewise, {given.dtype}", (*ours, "--dtype", given.dtype), BASE),
        Server("Tunewise, 8-bit weights", (*ours, "--dtype", "float32", "--weights", "int8"), BASE),
        Server(
            f"transformers serve, continuous batching, {given.dtype}",
            # As much memory as vLLM's; the rest would be the others'.
            (
                *theirs,
                "--dtype",
                given.dtype,
                "--continuous-batching",
                "--cb-max-memory-percent",
                "0.2",
            ),
            folder,
            # Its list of models is a fault without a hub's cache.
            ready="/health",
        ),
    ]
    if given.vllm is not None:
        start = Start(given.vllm, folder, given.dtype)
        command = (given.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", folder,
                   "--served-model-name", "base", "--host", "127.0.0.1", "--port", "{port}",
                   "--dtype", given.dtype, "--max-num-seqs", "16", "--max-model-len", "2048",
                   "--gpu-memory-utilization", "0.2")  # fmt: skip
        one = {"VLLM_CPU_OMP_THREADS_BIND": "0"}
        environment = start.environment(os.environ, "none") | one
        found.append(Server(f"vLLM, CPU build, {given.dtype}", command, environment=environment))
        behind = (*ours, "--dtype", given.dtype, "--engine", "vllm", "--vllm-python", given.vllm)
        name = f"Tunewise over vLLM, {given.dtype}"
        found.append(Server(name, behind, BASE, environment=one))
    if given.llama is not None:
        for path in given.gguf:
            command = (given.llama, "-m", "llama_cpp.server", "--model", path, "--n_threads", "1",
                       "--n_threads_batch", "1", "--n_ctx", "2048", "--port", "{port}",
                       "--host", "127.0.0.1", "--model_alias", "base")  # fmt: skip
            found.append(Server(f"llama.cpp (one request at a time), {Path(path).stem}", command))
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens: its process, and where."""

    process: psutil.Process
    address: str

    def processor_seconds(self) -> float:
        """Of it and what it started."""
        all_of_it = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in all_of_it)


@contextmanager
def running(server: Server, scratch: Path) -> Iterator[Running]:
    """The server while the context lasts.

    Raises:
        RuntimeError: it does not come up; its last lines are shown.
    """
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    log = scratch / "log.txt"
    environment = os.environ | _ONE_THREAD | server.environment
    command = [word.replace("{port}", str(port)) for word in server.command]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    try:
        found = Running(psutil.Process(process.pid), f"http://127.0.0.1:{port}")
        _wait(server, process, found.address, log)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    headers = {"authorization": "Bearer none"}
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{address}{server.ready}", headers=headers, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"{server.name} does not answer:\n{last}")


async def load(server: Server, to: Running, requests: int, streams: int) -> tuple[float, float]:
    """Tokens a second of processor time, and by the clock.

    Args:
        server: which.
        to: where it runs.
        requests: rows that no two times are the same, so that nothing is reused.
        streams: so many at once.
    """
    numbers, tokens = iter([next(_NUMBERS) for _ in range(requests)]), 0

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        for number in numbers:
            body = {
                "model": server.model,
                "prompt": text_of(number),
                "max_tokens": NEW_TOKENS,
                "temperature": 0,
            }
            answer = await client.post("/v1/completions", json=body)
            answer.raise_for_status()
            tokens += answer.json()["usage"]["completion_tokens"]

    headers = {"authorization": "Bearer none"}
    async with httpx.AsyncClient(base_url=to.address, headers=headers, timeout=600) as client:
        before, began = to.processor_seconds(), time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(streams)))
        seconds = time.perf_counter() - began
        return tokens / (to.processor_seconds() - before), tokens / seconds


_NUMBERS = itertools.count(1)


def main() -> None:
    """Measure and put the block into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment with vLLM")
    parser.add_argument("--llama", metavar="PYTHON", help="... with llama-cpp-python[server]")
    parser.add_argument("--gguf", nargs="*", default=[], help="weights for llama.cpp")
    given = parser.parse_args()
    folder = str(load_base(BASE).path)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        given.scratch = scratch
        up: list[tuple[Server, Running]] = []
        for number, server in enumerate(servers(given, folder)):
            place = Path(scratch) / str(number)
            place.mkdir()
            sys.stderr.write(f"starting {server.name}\n")
            up.append((server, stack.enter_context(running(server, place))))
        rates = measure(up, given.rounds)
    kind = machine.kind_of_machine()
    put_block(PAGE, f"servers, {given.dtype}, {kind}", block(given, rates), f"## Servers, {kind}")


Rates = dict[tuple[str, str], list[tuple[float, float]]]


def measure(up: Sequence[tuple[Server, Running]], rounds: int) -> Rates:
    """Every server's rates of every work, a round to warm up left out."""
    rates: Rates = {}
    for turn in range(rounds + 1):
        for work, (requests, streams) in WORKS.items():
            for server, where in up:
                found = asyncio.run(load(server, where, requests, streams))
                sys.stderr.write(f"{server.name}, {work}: {found[0]:.1f}, {found[1]:.1f}\n")
                if turn > 0:
                    rates.setdefault((server.name, work), []).append(found)
    return rates


def block(given: argparse.Namespace, rates: Rates) -> str:
    """The rates as Markdown; ours by each, turn by turn."""
    names = list(dict.fromkeys(name for name, _ in rates))
    works = list(WORKS)
    lines = [
        f"{machine.now()} UTC, load average {machine.load():.1f} behind it. The base alone over "
        f"HTTP, answers of at most {NEW_TOKENS} tokens to rows of some 30, greedy; "
        f"{given.rounds} rounds after one to warm up. Tokens a second of processor time, one "
        "thread each, by the clock behind them; and ours (the first line) by that, turn by turn.",
        "",
        *(f"- {line}" for line in machine.machine_lines(1, ("torch", "transformers", "tunewise"))),
        "",
        "| server | " + " | ".join(f"{work} | ours by it" for work in works) + " |",
        "| --- |" + " ---: | ---: |" * len(works),
    ]
    for name in names:
        cells = []
        for work in works:
            own, first = rates[name, work], rates[names[0], work]
            middle = [statistics.median(each) for each in zip(*own, strict=True)]
            ratios = [a[0] / b[0] for a, b in zip(first, own, strict=True)]
            cells.append(f"{middle[0]:.0f} ({middle[1]:.0f})")
            cells.append(
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
