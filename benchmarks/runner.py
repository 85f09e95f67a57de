"""Runs the sides of a comparison in turns, A B A B, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job
from benchmarks.workloads import REPOSITORY

Say = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """What one side did.

    Attributes:
        facts: what it said when it was ready.
        seconds: per unit (step or row), one number a measured block.
        losses: of all steps, the warm ones included.
        flops: counted operations per unit, one number a measured block where the side counts.
        rates: best rates of matrix products, operations a second.
        scores: (rows, labels) of the last block.
        peak_bytes: the highest resident size after loading.
        expected: what a growing side expects of its size.
        fault: why the side stopped; "" where it did not.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    peak_bytes: int = 0
    expected: dict[str, float] = field(default_factory=dict)
    fault: str = ""


class SideError(Exception):
    """A side said that it cannot go on, or ended without a word."""


class SideProcess:
    """One side, started and held at its gate.

    Args:
        job: what it does.
        threads: of PyTorch.
    """

    def __init__(self, job: Job, threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONPATH": str(REPOSITORY),
        }
        said, path = tempfile.mkstemp(text=True)
        self._log = Path(path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", job.as_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        os.close(said)

    def hear(self, kind: str) -> dict[str, Any]:
        """The next report.

        Args:
            kind: "ready" or "done".

        Raises:
            SideError: it reports a fault, or has ended.
        """
        line = self._stream(self._process.stdout).readline()
        message: dict[str, Any] = json.loads(line) if line else {}
        if kind in message:
            found: dict[str, Any] = message[kind]
            return found
        raise SideError(message.get("failed", f"the process ended: {self._last_words()}"))

    def order(self, count: int, *, warm: bool) -> dict[str, Any]:
        """Have one block done and return its report.

        Raises:
            SideError: as of `hear`.
        """
        self._tell(count, warm=warm)
        return self.hear("done")

    def close(self) -> None:
        """End the side."""
        try:
            self._tell(0, warm=False)
            self._process.wait(timeout=30)
        except (OSError, SideError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._log.unlink(missing_ok=True)

    def _tell(self, count: int, *, warm: bool) -> None:
        stream = self._stream(self._process.stdin)
        try:
            stream.write(json.dumps({"count": count, "warm": warm}) + "\n")
            stream.flush()
        except BrokenPipeError as error:
            raise SideError(f"the process ended: {self._last_words()}") from error

    def _last_words(self) -> str:
        self._process.wait()
        said = self._log.read_text(errors="replace").splitlines()
        lines = [line.strip() for line in said if line.strip()]
        code = self._process.returncode
        return f"code {code}, {lines[-1] if lines else 'nothing said'}"

    @staticmethod
    def _stream(stream: Any) -> Any:
        if stream is None:
            raise SideError("the process has no pipe")
        return stream


def take_turns(
    jobs: Mapping[str, Job], *, steps: int, repeats: int, threads: int, say: Say
) -> dict[str, Measured]:
    """Warm every side up with one unit, then let them do `repeats` blocks each, in turns.

    A side's fault is recorded with it; the others go on.

    Args:
        jobs: the sides by name.
        steps: units in a block.
        repeats: blocks of each side that are measured.
        threads: of every side; only one of them works at a time.
        say: is told how far it is.
    """
    measured = {name: Measured() for name in jobs}
    alive: dict[str, SideProcess] = {}
    try:
        for name, job in jobs.items():
            say(f"  starting {name}")
            alive[name] = SideProcess(job, threads)
            _guarded(name, measured, alive, _begin)
        for block in range(repeats + 1):
            for name in list(alive):
                warm = block == 0
                _guarded(name, measured, alive, _block(1 if warm else steps, warm=warm))
                say(f"  {name}, block {block} of {repeats}: {_told(measured[name])}")
    finally:
        for side in alive.values():
            side.close()
    return measured


def _guarded(
    name: str,
    measured: dict[str, Measured],
    alive: dict[str, SideProcess],
    act: Callable[[SideProcess, Measured], None],
) -> None:
    try:
        act(alive[name], measured[name])
    except SideError as fault:
        measured[name].fault = str(fault)
        alive.pop(name).close()


def _told(side: Measured) -> str:
    if side.fault:
        return f"fault: {side.fault}"
    if side.rates:
        return f"{max(side.rates) / 1e9:.0f} GFLOP/s at best"
    return f"{side.seconds[-1]:.4f} s a unit" if side.seconds else "warm"


def _begin(side: SideProcess, into: Measured) -> None:
    into.facts.update(side.hear("ready"))


def _block(count: int, *, warm: bool) -> Callable[[SideProcess, Measured], None]:
    def run(side: SideProcess, into: Measured) -> None:
        report = side.order(count, warm=warm)
        into.losses += report.get("losses", [])
        into.peak_bytes = max(into.peak_bytes, report["peak_bytes"])
        into.expected = report.get("expected", into.expected)
        if warm:
            return
        units = count * into.facts["units"]
        into.seconds.append(report["seconds"] / units)
        into.rates += report.get("rates", [])
        into.scores = report.get("scores", into.scores)
        if "flops" in report:
            into.flops.append(report["flops"] / units)

    return run
