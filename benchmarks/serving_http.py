"""What HTTP costs: `python -m benchmarks.serving_http` writes benchmarks/serving_http.md.

A server is a process of its own; this one loads it over the loopback, and a third runs the same
rows through the same engine without HTTP. The adaptations are those of `benchmarks.serving`. The
two take turns. What is compared is processor time of the server and of the bare engine, one thread
each, which other work on the machine disturbs least; tokens a second and latencies are what the
clock said meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from benchmarks import machine
from benchmarks.serving_load import KINDS

PAGE = Path(__file__).resolve().parent / "serving_http.md"
ADAPTATIONS, NEW_TOKENS = 16, 32
ALONE, MIXED = "base alone, 16 streams", "64 adaptations of four kinds, 16 streams"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What some requests took.

    Attributes:
        processor_seconds: of the process that ran the engine.
        seconds: by the clock.
        tokens: that were generated.
        first: seconds until the first piece of each answer.
    """

    processor_seconds: float
    seconds: float
    tokens: int
    first: tuple[float, ...] = ()


def text_of(number: int) -> str:
    """A row of some 30 tokens that no other row begins like."""
    return (
        f"Ticket {number}: my card was charged twice for order {7919 * number % 10_000}, and the "
    )


def name_of(kind: str, number: int) -> str:
    """What an adaptation is called."""
    return f"{kind.replace('_', '-')}{number}"


def prepare(folder: Path, base_name: str) -> str:
    """A registry with sixteen adaptations of each kind in production; returns a key."""
    from benchmarks.serving_load import adaptations
    from tunewise.adaptation.store import save
    from tunewise.model.base import load_base
    from tunewise.serve.registry.aliases import Promotion
    from tunewise.serve.registry.names import Name
    from tunewise.serve.registry.publish import Registration
    from tunewise.serve.registry.registry import Registry
    from tunewise.serve.tenants.records import parse_grant
    from tunewise.serve.tenants.store import TenantStore

    registry = Registry.open(str(folder))
    for kind, made in adaptations(load_base(base_name), ADAPTATIONS).items():
        for number, adaptation in enumerate(made):
            source = folder / f"made-{kind}{number}"
            save(adaptation, source)
            name = name_of(kind, number)
            registry.add(source, Registration(Name("acme", name), "benchmark"))
            registry.promote(f"acme/{name}@1", "benchmark", Promotion(reason="a benchmark"))
    registry.close()
    store = TenantStore(str(folder / "keys.db"))
    store.set_tenant("acme")
    _, key = store.make_key("acme", [parse_grant("use")])
    store.close()
    return key.text


@contextmanager
def server(folder: Path, base: str) -> Iterator[tuple[psutil.Process, str]]:
    """The command in a process of its own; its address."""
    command = [sys.executable, "-m", "tunewise", "serve", "--base", base, "--port", "0",
               "--registry", str(folder)]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    ) as process:
        try:
            lines = iter(process.stderr or ())
            line = next(each for each in lines if "running on" in each)
            address = "http://" + json.loads(line)["message"].split("http://")[1].split()[0]
            # Somebody must read the log, or the server waits for it.
            reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
            yield psutil.Process(process.pid), address
        finally:
            process.terminate()
            process.wait(60)
            reader.terminate()
            reader.wait(10)


async def load(
    address: str, key: str, models: Sequence[str], streams: int, process: psutil.Process
) -> Cost:
    """Stream one answer of each model, so many at once."""
    numbers = iter(range(len(models)))
    tokens, first = 0, []

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        for number in numbers:
            body = {
                "model": models[number],
                "messages": [{"role": "user", "content": text_of(number)}],
                "max_tokens": NEW_TOKENS,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            began, seen = time.perf_counter(), False
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        if not seen:
                            first.append(time.perf_counter() - began)
                            seen = True
                        usage = json.loads(line[6:]).get("usage")
                        tokens += usage["completion_tokens"] if usage else 0

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=600) as client:
        before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(streams)))
        seconds = time.perf_counter() - began
        spent = sum(process.cpu_times()[:2]) - before
    return Cost(spent, seconds, tokens, tuple(first))


class Bare:
    """The engine alone, in a process of its own that takes lines and answers with lines."""

    def __init__(self, folder: Path, base: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving_http", "--bare", str(folder), base],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def run(self, models: Sequence[str], streams: int) -> Cost:
        """The same rows as `load`."""
        pipe, answers = self._process.stdin, self._process.stdout
        if pipe is None or answers is None:
            raise RuntimeError("the engine's process has no pipes")
        pipe.write(json.dumps({"models": list(models), "streams": streams}) + "\n")
        pipe.flush()
        return Cost(**json.loads(answers.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)


def bare(folder: Path, base_name: str) -> None:
    """What `Bare` runs."""
    from tunewise.adaptation.store import load as load_adaptation
    from tunewise.model.base import load_base
    from tunewise.serve.contract import Ready, Request, Sampling
    from tunewise.serve.engine.engine import EmbeddedEngine
    from tunewise.serve.registry.registry import Registry
    from tunewise.serve.requests import chat_tokens, row_request

    engine = EmbeddedEngine(load_base(base_name))
    registry = Registry.open(str(folder))
    sampling = Sampling(max_new_tokens=NEW_TOKENS)

    def made(model: str) -> Ready:
        if model == "base":
            return engine.base_alone("acme")
        version = registry.version(model)
        return engine.ready(
            "acme", version.digest, lambda: load_adaptation(registry.folder(version))
        )

    def request(model: str, number: int) -> Request:
        ready, text = made(model), text_of(number)
        if ready.renderer is None:
            tokens = chat_tokens(engine.base.tokenizer, [("user", text)])
            return Request(ready, tokens, "", sampling, "text")
        return row_request(ready, text, sampling)

    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        models, streams = asked["models"], asked["streams"]
        before, began, tokens = time.process_time(), time.perf_counter(), 0
        for at in range(0, len(models), streams):
            running = [
                engine.submit(request(model, at + place))
                for place, model in enumerate(models[at : at + streams])
            ]
            tokens += sum(each.result().usage.completion_tokens for each in running)
        cost = {
            "processor_seconds": time.process_time() - before,
            "seconds": time.perf_counter() - began,
            "tokens": tokens,
        }
        sys.stdout.write(json.dumps(cost) + "\n")
        sys.stdout.flush()


def compared(name: str, pairs: Sequence[tuple[Cost, Cost]], requests: int) -> str:
    """A line of the table: medians over the rounds."""
    middle = statistics.median
    ratio = middle(
        (bare_.processor_seconds / bare_.tokens) / (http.processor_seconds / http.tokens)
        for http, bare_ in pairs
    )
    added = middle(
        (http.processor_seconds - bare_.processor_seconds * http.tokens / bare_.tokens) / requests
        for http, bare_ in pairs
    )
    rate = middle(http.tokens / http.seconds for http, _ in pairs)
    first = middle(each for http, _ in pairs for each in http.first)
    return f"| {name} | {100 * ratio:.0f}% | {1000 * added:.1f} | {rate:.0f} | {1000 * first:.0f} |"


async def small(address: str, key: str, count: int) -> dict[str, float]:
    """Milliseconds of requests that do not reach the engine, medians."""
    times: dict[str, float] = {}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as client:
        for name, path in (
            ("no work (`/healthz`)", "/healthz"),
            ("a name resolved (`/v1/models/acme/low-rank1`)", "/v1/models/acme/low-rank1"),
            ("a name of another tenant", "/v1/models/beta/low-rank1"),
            ("64 names listed (`/v1/models`)", "/v1/models"),
        ):
            seen = []
            for _ in range(count):
                began = time.perf_counter()
                await client.get(path)
                seen.append(time.perf_counter() - began)
            times[name] = 1000 * statistics.median(seen)
    return times


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "BASE"))
    given = parser.parse_args()
    if given.bare is not None:
        bare(Path(given.bare[0]), given.bare[1])
        return
    names = {kind: [f"acme/{name_of(kind, n)}" for n in range(ADAPTATIONS)] for kind in KINDS}
    texts = names["prompt_text"]
    every = [each for together in zip(*names.values(), strict=True) for each in together]
    works = {
        "base alone, 1 stream": (["base"] * 4, 1),
        ALONE: (["base"] * 32, 16),
        "16 adaptations of text, 16 streams": (texts * 2, 16),
        MIXED: (every, 16),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        key = prepare(folder, given.base)
        engine = Bare(folder, given.base)
        pairs: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in works}
        try:
            with server(folder, given.base) as (process, address):
                cold = asyncio.run(load(address, key, texts, 1, process))
                engine.run(texts, 1)
                warm = asyncio.run(load(address, key, texts, 1, process))
                for _ in range(given.rounds):
                    for name, (models, streams) in works.items():
                        http = asyncio.run(load(address, key, models, streams, process))
                        pairs[name].append((http, engine.run(models, streams)))
                times = asyncio.run(small(address, key, 200))
        finally:
            engine.close()
    rows = [compared(name, pairs[name], len(works[name][0])) for name in works]
    switch = statistics.median(cold.first) - statistics.median(warm.first)
    shares = [
        (mixed.tokens / mixed.processor_seconds) / (alone.tokens / alone.processor_seconds)
        for (mixed, _), (alone, _) in zip(pairs[MIXED], pairs[ALONE], strict=True)
    ]
    _write(given, rows, times, 1000 * switch, shares)


def _write(
    given: argparse.Namespace,
    rows: list[str],
    times: dict[str, float],
    switch_ms: float,
    shares: Sequence[float],
) -> None:
    lines = [
        "# What HTTP costs",
        "",
        f"`python -m benchmarks.serving_http --base {given.base} --rounds {given.rounds}`, "
        f"{machine.now()} UTC; the load of the machine was {machine.load():.1f}.",
        "",
        *(f"- {line}" for line in machine.machine_lines(1, ("torch", "transformers", "tunewise"))),
        "",
        f"Each answer has at most {NEW_TOKENS} tokens; medians of {given.rounds} rounds. The first "
        "column is the tokens that a second of processor time gives through HTTP, of those that "
        "the bare engine gives. Answers end by themselves.",
        "",
        "| work | of the bare engine | added a request, ms of processor | tokens/s by the clock "
        "| to the first piece, ms by the clock |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Through HTTP the 64 adaptations have {statistics.median(shares):.2f} "
        f"({min(shares):.2f} to {max(shares):.2f}) of the tokens a second of the base alone.",
        "",
        f"An adaptation of text that is on disk only, against one in memory: {switch_ms:+.0f} "
        "ms until the first piece (medians of 16, by the clock; loading and its prefix).",
        "",
        "| a request that needs no engine | ms by the clock, median of 200 |",
        "| --- | --- |",
        *(f"| {name} | {value:.1f} |" for name, value in times.items()),
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    main()
