"""How long the registry takes with ten thousand adaptations: list, look up, promote, go back.

    python -m benchmarks.registry                      SQLite in a temporary folder
    python -m benchmarks.registry postgresql://...     a database that may be filled

The rows of the versions are written in bulk, as ten thousand registrations would have left them; a
hundred are registered for real, with their files. Each operation is timed on names drawn at random;
the promotions run the gate on the scores of 400 rows. Wall-clock holds the wait for the disk, to
which every commit is flushed, and what other processes do on the machine; processor time does not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.store import save
from tunewise.serve.registry import tables
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.gate import Scores
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry
from tunewise.task.types import Kind, TaskSpec

NAMES, REAL, TENANTS, ROWS = 10_000, 100, 20, 400


@dataclass(frozen=True)
class Times:
    """Milliseconds: median and 99th percentile of the wall-clock, median of processor time."""

    median: float
    high: float
    processor: float


def adaptation(number: int) -> Adaptation:
    """A small one that no other number has."""
    spec = TaskSpec("t", Kind.CLASSIFICATION, "Which?", ("a", "b"), "accuracy")
    made = Provenance("toy", {}, number, "base", "f" * 64, "float32", "d" * 64, {}, {})
    part = ShallowModelPart("constant", {"answer": "a"})
    return Adaptation((part,), Decoding("score"), spec, made)


def name_of(number: int) -> Name:
    """Twenty tenants with five hundred names each."""
    return Name(f"tenant{number % TENANTS:02d}", f"task-{number // TENANTS:04d}")


def fill(registry: Registry) -> None:
    """Ten thousand names: two versions each, an alias on the first."""
    now = registry.clock()
    common = {
        "state": "ready",
        "kinds": ["virtual_tokens"],
        "method": "toy",
        "task": "t",
        "task_kind": "classification",
        "metric": "accuracy",
        "base_name": "base",
        "base_fingerprint": "f" * 64,
        "data_hash": "d" * 64,
        "run": "",
        "notes": "",
        "bytes": 50_000,
        "created_at": now,
        "created_by": "ann",
    }
    named = [name_of(number) for number in range(REAL, NAMES)]
    keys = [{"tenant": each.tenant, "name": each.name} for each in named]
    one = [{"number": 1, "share": 1.0}]
    for start in range(0, len(keys), 2000):
        some = keys[start : start + 2000]
        rows = [
            {**key, **common, "number": number, "digest": f"{start + index:032x}{number:032x}"}
            for index, key in enumerate(some)
            for number in (1, 2)
        ]
        with registry.database.write() as connection:
            connection.execute(
                insert(tables.names), [{**k, "last_number": 2, "created_at": now} for k in some]
            )
            found = connection.execute(
                insert(tables.versions).returning(tables.versions.c.id), rows
            ).scalars()
            connection.execute(
                insert(tables.probes), [{"version": key, "report": {}} for key in found]
            )
            alias = {"alias": "production", "revision": 1, "targets": one, "at": now}
            connection.execute(insert(tables.aliases), [{**key, **alias} for key in some])
            past = {**alias, "action": "promote", "reason": "", "by": "ann"}
            connection.execute(insert(tables.alias_history), [{**key, **past} for key in some])


def register(registry: Registry, folder: Path) -> float:
    """A hundred for real; seconds each."""
    took = []
    for number in range(REAL):
        save(adaptation(number), folder / f"a{number}")
        registration = Registration(name_of(number), "ann", check=lambda _: {"probes": []})
        began = time.perf_counter()
        version = registry.add(folder / f"a{number}", registration)
        took.append(time.perf_counter() - began)
        registry.promote(str(version), "ann")
    return statistics.median(took)


def measure(registry: Registry) -> dict[str, Times]:
    """How long every operation takes."""
    random = np.random.default_rng(0)
    numbers = iter(random.permutation(np.arange(REAL, NAMES)).tolist())
    rows = [f"row{number}" for number in range(ROWS)]

    def fresh() -> str:
        return str(name_of(next(numbers)))

    def real() -> str:
        return str(name_of(int(random.integers(REAL))))

    def scored() -> str:
        name = fresh()
        for number in (1, 2):
            right = (random.random(ROWS) < 0.8 + 0.1 * (number - 1)).astype(float).tolist()
            scores = Scores("r", "accuracy", dict(zip(rows, right, strict=True)))
            registry.attach(registry.version(f"{name}@{number}"), scores, "ann")
        return name

    reason = Promotion(reason="timed")
    half = Promotion(share=0.5, reason="timed")
    found: dict[str, Times] = {}
    found["counter of changes"] = timed(lambda _: registry.changes(), lambda: None)
    found["list, 100 names of all"] = timed(
        lambda after: registry.names(None, after=after, limit=100), fresh
    )
    found["list, 100 names of a tenant"] = timed(
        lambda after: registry.names(after.split("/")[0], after=after, limit=100), fresh
    )
    found["look up a version"] = timed(lambda name: registry.version(f"{name}@2"), fresh)
    found["look up by 12 digits of a hash"] = timed(
        lambda version: registry.version(f"{version.name}@{version.digest[:12]}"),
        lambda: registry.version(f"{real()}@1"),
    )
    found["resolve an alias"] = timed(lambda name: registry.resolve(name, "user"), real)
    found["promote, the gate overridden"] = timed(
        lambda name: registry.promote(f"{name}@2", "ann", reason), fresh
    )
    found["promote through the gate, 400 rows"] = timed(
        lambda name: registry.promote(f"{name}@2", "ann"), scored
    )
    found["split an alias"] = timed(lambda name: registry.promote(f"{name}@2", "ann", half), fresh)

    def promoted() -> str:
        name = fresh()
        registry.promote(f"{name}@2", "ann", reason)
        return name

    found["go back"] = timed(lambda name: registry.rollback(name, "ann"), promoted)
    return found


def timed(run: Callable[[Any], Any], prepare: Callable[[], Any], times: int = 200) -> Times:
    """How long `run(prepare())` takes; preparing is not timed."""
    took, worked = [], []
    for _ in range(times):
        given = prepare()
        began, working = time.perf_counter(), time.process_time()
        run(given)
        worked.append(1000 * (time.process_time() - working))
        took.append(1000 * (time.perf_counter() - began))
    high = float(np.quantile(took, 0.99))
    return Times(statistics.median(took), high, statistics.median(worked))


def main() -> None:
    """Fill a registry, time it, print the table."""
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        place = sys.argv[1] if len(sys.argv) > 1 else str(folder / "registry")
        registry = Registry.open(place, files=str(folder / "files"))
        each = register(registry, folder)
        fill(registry)
        count = len(list(_all(registry)))
        lines = [
            f"{count:,} names, {2 * count - REAL:,} versions, {registry.database.kind}, "
            f"{time.strftime('%Y-%m-%d', time.gmtime())}",
            "",
            "| operation | median ms | 99% ms | processor ms |",
            "| --- | ---: | ---: | ---: |",
            f"| register a small adaptation | {1000 * each:.1f} | | |",
        ]
        lines += [
            f"| {name} | {took.median:.1f} | {took.high:.1f} | {took.processor:.1f} |"
            for name, took in measure(registry).items()
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        registry.close()


def _all(registry: Registry) -> list[str]:
    seen: list[str] = []
    while page := registry.names(None, after=seen[-1] if seen else "", limit=1000):
        seen += [str(each.name) for each in page]
    return seen


if __name__ == "__main__":
    main()
