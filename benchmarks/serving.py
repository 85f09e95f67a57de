"""Serving, beside transformers and PEFT: `make bench-serve` writes benchmarks/serving.md.

All sides run in one process and take turns; what is compared is processor time on one thread, which
other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.records import put_block
from benchmarks.serving_load import KINDS, adaptations, base_spec, long_text, rows
from benchmarks.serving_page import block
from benchmarks.serving_peers import Peers
from benchmarks.serving_small import small_works
from tunewise.adaptation.bundle import Adaptation
from tunewise.model.base import Base, load_base
from tunewise.serve.contract import Ready, Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import row_request
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

FOLDER = Path("runs") / "benchmarks" / "serving"
PAGE = Path(__file__).resolve().parent / "serving.md"
STREAMS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """What every side is given.

    Attributes:
        texts: inputs.
        new_tokens: of every answer.
        made: adaptations by kind.
    """

    texts: list[str]
    new_tokens: int
    made: dict[str, list[Adaptation]]

    def mixed(self, count: int) -> list[tuple[Adaptation, str]]:
        """So many requests, of all adaptations in turn: every kind as often."""
        order = [self.made[kind][n] for n in range(len(self.made[KINDS[0]])) for kind in KINDS]
        # A stride without a common factor, so that a batch holds unlike ones.
        chosen = [order[(7 * n) % len(order)] for n in range(count)]
        return list(zip(chosen, self.texts[:count], strict=True))


class Side:
    """An engine and the ready adaptations in it."""

    def __init__(self, base: Base, load: Load, weights: Any = "own") -> None:
        self.load = load
        self.engine = EmbeddedEngine(base, EngineSettings(STREAMS, weights=weights))
        renderer = Renderer(base.tokenizer, base_spec(), PromptText(""))
        # The same tokens as behind the prefixes of the adaptations.
        self.rows = [renderer.row_tokens(text) for text in load.texts]

    def ready(self, adaptation: Adaptation) -> Ready:
        """One adaptation, by its identity."""
        return self.engine.ready("bench", str(id(adaptation)), lambda: adaptation)

    def sampling(self) -> Sampling:
        """Greedy, of one length."""
        return Sampling(self.load.new_tokens, ignore_end=True)

    def alone(self, count: int, streams: int) -> int:
        """The base alone; so many requests, so many at once."""
        ready = self.engine.base_alone("bench")
        return self._run(
            [Request(ready, row, sampling=self.sampling()) for row in self.rows[:count]], streams
        )

    def mixed(self, work: Sequence[tuple[Adaptation, str]]) -> int:
        """Requests of unlike adaptations."""
        made = [
            row_request(self.ready(adaptation), text, self.sampling()) for adaptation, text in work
        ]
        return self._run(made, STREAMS)

    def _run(self, requests: list[Request], streams: int) -> int:
        tokens = 0
        waiting = list(requests)
        running = [self.engine.submit(waiting.pop(0)) for _ in range(min(streams, len(waiting)))]
        while running:
            finished = running.pop(0).result(600)
            if finished.error is not None:
                raise finished.error
            tokens += finished.usage.completion_tokens
            if waiting:
                running.append(self.engine.submit(waiting.pop(0)))
        return tokens


def turns(sides: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Tokens a second of processor time: every side once to warm up, then in turns."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            begin = time.process_time()
            tokens = side()
            taken = time.process_time() - begin
            if turn > 0:
                rates[name].append(tokens / taken)
            _say(f"{name}: {tokens / taken:.1f} tokens a second" + (" (warm-up)" * (turn == 0)))
    return rates


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All works: in the machine's own dtype, and where that is bfloat16 some in float32 too."""
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"date": machine.now(), "load_before": machine.load()}
    own = machine.own_dtype()
    exact = load_base("smollm2-135m", dtype="float32")
    base = exact if own == "float32" else load_base("smollm2-135m", dtype=own)
    load = Load(rows(64), options.tokens, adaptations(base, options.each))
    ours, rounded = Side(base, load), Side(exact, load, "int8")
    ours_exact = ours if base is exact else Side(exact, load)
    peers = {
        dtype: Peers(load_base("smollm2-135m", dtype=dtype), options.tokens)
        for dtype in ("float32", "bfloat16")
    }
    some, many = load.texts[:STREAMS], options.requests
    loras = load.made["low_rank"]
    sides = {
        f"one stream, {own}": lambda: ours.alone(2, 1),
        "one stream, 8-bit weights": lambda: rounded.alone(2, 1),
        "one stream, generate, bfloat16": lambda: peers["bfloat16"].generate(ours.rows[:1]),
        "one stream, generate, float32": lambda: peers["float32"].generate(ours.rows[:1]),
        f"base alone, {own}": lambda: ours.alone(many, STREAMS),
        f"mixed, {own}": lambda: ours.mixed(load.mixed(many)),
        "base alone, 8-bit weights": lambda: rounded.alone(many, STREAMS),
        f"generate, {own}": lambda: peers[own].generate(ours.rows[:STREAMS]),
        f"attached for each request, {own}": lambda: peers[own].attach_each(load.mixed(4)),
    }
    if ours_exact is not ours:
        sides |= {
            "one stream, float32": lambda: ours_exact.alone(2, 1),
            "base alone, float32": lambda: ours_exact.alone(many, STREAMS),
            "generate, float32": lambda: peers["float32"].generate(ours.rows[:STREAMS]),
        }
    found["rates"] = turns(sides, options.repeats)
    # Last, since PEFT's layers stay in that model.
    found["rates"] |= turns(
        {
            f"LoRA only, PEFT's mixed batch, {own}": lambda: peers[own].mixed(loras, some),
            f"LoRA only, {own}": lambda: ours.mixed(
                [(loras[n % len(loras)], text) for n, text in enumerate(some)]
            ),
        },
        options.repeats,
    )
    found["small"] = small_works(ours, ours_exact, rounded, long_text(base, 400), options.repeats)
    for side in {id(each): each for each in (ours, ours_exact, rounded)}.values():
        side.engine.close()
    found["load_after"] = machine.load()
    found["own"], found["kind"] = own, machine.kind_of_machine()
    found["machine"] = machine.machine_lines(
        options.threads, ("torch", "transformers", "peft", "tunewise")
    )
    found["options"] = {
        "adaptations": len(KINDS) * options.each,
        "requests": many,
        "tokens": options.tokens,
        "repeats": options.repeats,
    }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep what was measured as JSON, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--each", type=int, default=16, help="adaptations of each kind")
    parser.add_argument("--page-only", action="store_true", help="from what was measured before")
    options = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / "measured.json"
    if not options.page_only:
        kept.write_text(json.dumps(measure(options), indent=1), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    put_block(PAGE, found["kind"], block(found), f"## {found['kind']}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
