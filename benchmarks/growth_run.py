"""`scaling.md`: how seconds and bytes grow with rows, virtual tokens, labels, length and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.growth import slope
from benchmarks.jobs import Job
from benchmarks.machine import machine_lines
from benchmarks.records import Options, Record, load_record, run_group, save
from benchmarks.runner import Measured, Say
from benchmarks.tables import table
from benchmarks.works import Group

MEGA = 2**20
# Below this much growth the allocator's own steps are all that is seen.
LEAST_BYTES = MEGA


@dataclass(frozen=True, slots=True)
class Growth:
    """Something that grows.

    Attributes:
        name: a kind of `growth.KINDS`, also for `--only`.
        about: what is done at each size.
        sizes: ascending.
    """

    name: str
    about: str
    sizes: tuple[int, ...]


_ALL = (
    Growth(
        "rows_loaded", "rows of a task loaded, checked and split", (100, 316, 1000, 3162, 10000)
    ),
    Growth(
        "rows_fitted", "rows of one pass of fitting, small model", (100, 316, 1000, 3162, 10000)
    ),
    Growth("rows_scored", "rows scored for two labels, small model", (100, 316, 1000, 3162, 10000)),
    Growth(
        "virtual_tokens", "virtual tokens of a soft prompt, one step", (5, 20, 50, 100, 200, 400)
    ),
    Growth("labels", "labels scored for 64 rows", (2, 6, 18, 52, 151)),
    Growth(
        "row_length", "tokens of each row, one step of a soft prompt", (16, 64, 256, 1024, 2048)
    ),
    Growth("width", "width of the model, one step of a soft prompt", (64, 128, 256, 512, 1024)),
)
GROWTHS = tuple(each.name for each in _ALL)


def run_growths(
    only: list[str], options: Options, folder: Path, say: Say, *, quick: bool
) -> str | None:
    """Measure what is asked for, and make the page from all that is stored.

    Args:
        only: names; all where empty.
        options: blocks and threads; a block is one unit here.
        folder: of the records.
        say: is told how far it is.
        quick: the three smallest sizes only.
    """
    found: list[tuple[Growth, Record]] = []
    for growth in _ALL:
        if not only or growth.name in only:
            say(f"{growth.name}: {growth.about}")
            sizes = growth.sizes[:3] if quick else growth.sizes
            sides = {str(size): Job("growth", method=growth.name, size=size) for size in sizes}
            group = Group(f"growth_{growth.name}", growth.about, "step", sides, (), steps=1)
            save(run_group(group, options, say), folder)
        record = load_record(f"growth_{growth.name}", folder)
        if record is not None:
            found.append((growth, record))
    return _page(found, options) if found else None


def _page(found: list[tuple[Growth, Record]], options: Options) -> str:
    parts = [
        "# How cost grows",
        "Written by `python -m benchmarks scaling`. Small models with random weights in float32, "
        "batches of 16 rows. Seconds are medians; bytes are what the process grew by at its peak "
        "over its size once loaded. A slope is that of a straight line through the logarithms: 1 "
        "is in proportion, 2 is with the square, 0 is not at all. Of two slopes the first is over "
        "all sizes, the second between the two largest. The expected slope is that of the counted "
        "operations, or of the numbers that must be alive at once, over the same sizes. What "
        "every call costs whatever its size lies outside the count and makes measured slopes "
        "smaller, at small sizes most.",
        "\n".join(f"- {line}" for line in machine_lines(options.threads)),
        "## Slopes",
        table(
            ("what grows", "seconds, expected", "measured", "bytes, expected", "measured"),
            [_slopes(growth, record) for growth, record in found],
        ),
    ]
    for growth, record in found:
        header = (growth.about, "seconds", "megabytes")
        parts += [
            f"## {growth.name}",
            f"{record.date} UTC, load {record.load_before:.1f} before and "
            f"{record.load_after:.1f} after, {record.options.repeats} blocks.",
            table(header, [_point(size, side) for size, side in record.sides.items()]),
        ]
    return "\n\n".join(parts) + "\n"


def _slopes(growth: Growth, record: Record) -> list[str]:
    good = {int(size): side for size, side in record.sides.items() if side.seconds}
    if len(good) < 2:
        return [growth.name, "", "not measured", "", ""]
    columns = (
        [side.expected["flops"] for side in good.values()],
        [median(side.seconds) for side in good.values()],
        [side.expected["bytes"] for side in good.values()],
        [max(LEAST_BYTES, grown(side)) for side in good.values()],
    )
    return [growth.name, *(_two_slopes(list(good), values) for values in columns)]


def _two_slopes(sizes: list[int], values: Sequence[float]) -> str:
    """Over all sizes, and between the two largest."""
    found = (slope(sizes, values), slope(sizes[-2:], values[-2:]))
    return ", ".join(f"{round(each, 2) + 0.0:.2f}" for each in found)


def _point(size: str, side: Measured) -> list[str]:
    if not side.seconds:
        return [size, "fault", side.fault[:120]]
    return [size, f"{median(side.seconds):.4f}", f"{grown(side) / MEGA:.1f}"]


def grown(side: Measured) -> int:
    """Bytes by which the process grew at its peak, over its size once loaded."""
    return side.peak_bytes - int(side.facts["resident_bytes"])
