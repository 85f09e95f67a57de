"""Whatever moment a process is killed at, what is registered is whole."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.serve.registry.samples import Clock, constant, stored, text

from tunewise.adaptation.store import load
from tunewise.serve.registry.collect import Ages
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry

SCRIPT = Path(__file__).with_name("killed.py")
# More than a registration and a promotion take; the last ones end by themselves.
STEPS = 220


def _start(mode: str, place: Path, sources: list[Path]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), mode, str(place), *map(str, sources)],
    )


def _told(place: Path) -> list[str]:
    """What a process said, but for a line that was cut."""
    file = place.with_suffix(".told")
    text = file.read_text() if file.exists() else ""
    return [line.strip() for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _check(place: Path, told: list[str], source: Path) -> None:
    """All that was said to be registered is; all that is registered is whole."""
    registry = Registry.open(str(place))
    checked = registry.verify()
    assert checked.faults == ()
    names = [str(each.name) for each in registry.names(None, limit=1000)]
    assert {line.partition("@")[0] for line in told if "@" in line} <= set(names)
    for name in names:
        for version in registry.versions(name):
            load(registry.folder(version))
    # Whatever lies there besides goes once it is old, and nothing else.
    clock = Clock()
    clock.now = time.time() + 3 * 86_400
    later = replace(registry, clock=clock)
    later.collect(Ages(), "ann")
    kept = {(version.digest) for name in names for version in registry.versions(name)}
    assert {held.digest for held in registry.files.held()} == kept
    with registry.files.incoming() as private:
        left = list(private.parent.glob("*")) if private.parent.exists() else []
    assert left == []
    assert registry.verify().faults == ()
    # And registering goes on where it was.
    version = registry.add(source, Registration(parse_name("acme/after"), "ann"))
    assert load(registry.folder(version)) == load(source)
    registry.close()


@pytest.mark.parametrize("part", range(2))
def test_killed_at_every_step_to_the_disk(part: int, tmp_path: Path) -> None:
    source = stored(tmp_path / "a", text("Say good or bad."))
    first = 1 + 5 * part
    process = _start(f"{first}:{STEPS}:11", tmp_path, [source])
    assert process.wait(timeout=300) == 0
    ended = []
    for count in range(first, STEPS, 11):
        told = _told(tmp_path / f"r{count}")
        ended.append("done" in told)
        _check(tmp_path / f"r{count}", told, source)
    # Those that were killed come first, and neither kind is missing.
    assert ended == sorted(ended)
    assert len(set(ended)) == 2


def test_killed_at_random_while_it_goes_on(tmp_path: Path) -> None:
    sources = [stored(tmp_path / f"s{n}", constant(f"answer {n}")) for n in range(5)]
    place = tmp_path / "registry"
    random = np.random.default_rng(0)
    for _ in range(3):
        place.with_suffix(".told").unlink(missing_ok=True)
        process = _start("on", place, sources)
        while not _told(place):
            time.sleep(0.01)
        time.sleep(float(random.uniform(0.02, 0.7)))
        process.kill()
        process.wait(timeout=60)
        registry = Registry.open(str(place))
        for line in _told(place)[1:]:
            assert registry.version(line)
        assert registry.verify().faults == ()
        registry.close()
    _check(place, [], sources[0])


def test_many_register_at_once(tmp_path: Path) -> None:
    sources = [stored(tmp_path / f"s{n}", constant(f"answer {n}")) for n in range(4)]
    place = tmp_path / "registry"
    assert _start("x3", place, sources).wait(timeout=120) == 0
    registry = Registry.open(str(place))
    for index in range(4):
        versions = registry.versions(f"acme/n{index}-0")
        assert [each.number for each in versions] == [1]
    assert registry.verify().faults == ()
    assert len(registry.files.held()) == 4
    registry.close()
