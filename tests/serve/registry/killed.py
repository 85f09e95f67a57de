"""A process that registers adaptations until it is killed; run by `test_killed`.

    python killed.py on PLACE SOURCES...               goes on until somebody kills it
    python killed.py x3 PLACE SOURCES...               three at once, each registers all of them
    python killed.py FIRST:END:STEP FOLDER SOURCES...  for each number a child with a registry of
                                                       its own, which dies at that step to the disk

What was said to be registered stands in PLACE.told, a line each.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry


def die_at(count: int) -> None:
    """Count every write to the disk or the database, before and after, and die at one of them."""
    steps = itertools.count(1)

    def step(*_: Any, **__: Any) -> None:
        if next(steps) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            step()
            result = function(*arguments, **named)
            step()
            return result

        return run

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "mkdir")):
        setattr(owner, name, counted(getattr(owner, name)))
    for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, moment, step)


def register(place: Path, sources: list[Path], turns: Iterable[int]) -> None:
    """Register every source under a name of its own in each turn, and say so."""
    registry = Registry.open(str(place))
    with place.with_suffix(".told").open("w", buffering=1) as told:
        told.write("ready\n")
        for turn in turns:
            for index, source in enumerate(sources):
                name = parse_name(f"acme/n{index}-{turn}")
                version = registry.add(
                    source, Registration(name, "ann", check=lambda _: {"probes": []})
                )
                if turn % 2 == 0:
                    registry.promote(str(version), "ann")
                told.write(f"{version}\n")
        told.write("done\n")


def main() -> None:
    """Run one of the three ways above."""
    mode, folder, *sources = sys.argv[1:]
    paths = [Path(each) for each in sources]
    if mode == "on":
        register(Path(folder), paths, itertools.count())
    elif mode.startswith("x"):
        children = [child(lambda: register(Path(folder), paths, range(1))) for _ in range(3)]
        sys.exit(any(os.waitpid(each, 0)[1] for each in children))
    else:
        for count in range(*map(int, mode.split(":"))):

            def run(count: int = count) -> None:
                die_at(count)
                register(Path(folder) / f"r{count}", paths, range(1))

            os.waitpid(child(run), 0)


def child(run: Callable[[], None]) -> int:
    """A process that runs this and ends. It begins with everything imported and nothing open."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return process


if __name__ == "__main__":
    main()
