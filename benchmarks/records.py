"""What was measured, kept as JSON, so that one work can be measured again without the others."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.runner import Measured, Say, take_turns
from benchmarks.works import Group


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark is run.

    Attributes:
        steps: optimizer steps in a block.
        repeats: measured blocks of each side.
        threads: of each side.
    """

    steps: int
    repeats: int
    threads: int


@dataclass(frozen=True, slots=True)
class Record:
    """One group's run.

    Attributes:
        name: the group's.
        date: when it began.
        load_before, load_after: load average of the last minute.
        options: how it was run.
        sides: what each side did.
    """

    name: str
    date: str
    load_before: float
    load_after: float
    options: Options
    sides: dict[str, Measured]


def run_group(group: Group, options: Options, say: Say) -> Record:
    """Measure one group."""
    date, before = machine.now(), machine.load()
    steps = options.steps if group.steps is None else group.steps
    sides = take_turns(
        group.sides, steps=steps, repeats=options.repeats, threads=options.threads, say=say
    )
    return Record(group.name, date, before, machine.load(), options, sides)


def save(record: Record, folder: Path) -> None:
    """Write `<name>.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{record.name}.json", json.dumps(asdict(record), indent=1))


def load_record(name: str, folder: Path) -> Record | None:
    """A stored record, or None."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    stored["options"] = Options(**stored["options"])
    stored["sides"] = {name: Measured(**side) for name, side in stored["sides"].items()}
    return Record(**stored)


def put_block(page: Path, name: str, content: str, heading: str) -> None:
    """Put a block between two comments of its name, in place of the one before.

    Args:
        page: a Markdown file.
        name: of the block.
        content: of the block.
        heading: before it where it is new and stands at the end.
    """
    block = f"<!-- {name} -->\n\n{content}\n\n<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    place = re.compile(f"<!-- {re.escape(name)} -->.*<!-- end of {re.escape(name)} -->", re.DOTALL)
    found = place.search(text) is not None
    fresh = place.sub(lambda _: block, text) if found else f"{text}\n{heading}\n\n{block}\n"
    write(page, fresh)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
