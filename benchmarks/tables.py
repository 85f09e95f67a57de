"""`results.md`: the tables, from what was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.machine import machine_lines
from benchmarks.records import Options, Record
from benchmarks.runner import Measured
from benchmarks.works import MATMUL, MUST_SHARE, Comparison, Group

MEGA, GIGA = 2**20, 1e9
MOST_LOSSES = 10
TOLERANCE = 1e-4

_TIMES = (
    "work",
    "peer",
    "ours, s",
    "peer, s",
    "ratio",
    "must reach",
    "reached",
    "spread of ours and peer",
    "largest difference of first losses",
    "peak memory of ours and peer, MB",
)
_SHARES = ("work", "counted GFLOP a step", "s a step", "GFLOP/s", "best product, GFLOP/s", "share")
_MEMORY = (
    "work",
    "peer",
    "ours, MB",
    "peer, MB",
    "ours before",
    "peer before",
    "must be",
    "reached",
)
_RUNS = ("group", "measured on", "load before and after", "steps a block", "blocks", "rows of")


def results_block(pairs: Sequence[tuple[Group, Record]], options: Options, own: str) -> str:
    """What one machine measured.

    Args:
        pairs: groups with their records.
        options: of this run; each record holds its own.
        own: the machine's own dtype.
    """
    parts = [
        "\n".join(f"- {line}" for line in machine_lines(options.threads)),
        "### Time, first losses and memory",
        table(_TIMES, [_time_line(g, c, r) for g, r in pairs for c in g.comparisons]),
        "### Peak memory of soft_prompt and lora fitting",
        "The highest resident size of the process once it is loaded; before: its size at that "
        "moment, libraries and model included.",
        table(_MEMORY, [_memory_line(c, r) for g, r in pairs for c in g.comparisons if c.memory]),
        f"### Share of the machine's own matrix-product rate, {own}",
        "Counted operations (the ledger's: parameters met, forward and backward, padding "
        "included, attention's own products not) of a whole fitting step by its time, as a share "
        "of the best plain matrix product timed in the same run.",
        table((*_SHARES, "must reach", "reached"), _share_lines(pairs)),
        "### Runs",
        table(_RUNS, [_run_line(group, record) for group, record in pairs]),
    ]
    faults = [
        f"- {group.name}, {name}: {side.fault}"
        for group, record in pairs
        for name, side in record.sides.items()
        if side.fault
    ]
    if faults:
        parts += ["### Faults", "\n".join(faults)]
    return "\n\n".join(parts)


def _time_line(group: Group, line: Comparison, record: Record) -> list[str]:
    ours, peer = record.sides[line.ours], record.sides[line.peer]
    cells = [line.work, line.peer, _seconds(ours), _seconds(peer)]
    must = "" if line.must_reach is None else f"{line.must_reach:g}"
    if ours.seconds and peer.seconds:
        ratio = median(peer.seconds) / median(ours.seconds)
        reached = "" if line.must_reach is None else _yes(ratio >= line.must_reach)
        cells += [f"{ratio:.2f}", must, reached, f"{_spread(ours)}, {_spread(peer)}"]
    else:
        fault = ours.fault if ours.fault else peer.fault
        cells += ["", must, "fault" if fault else "not measured", fault[:120]]
    return [*cells, _difference(line, ours, peer), f"{_megabytes(ours)}, {_megabytes(peer)}"]


def _seconds(side: Measured) -> str:
    if side.fault and not side.seconds:
        return "fault"
    return f"{median(side.seconds):.4f}" if side.seconds else ""


def _spread(side: Measured) -> str:
    """Range of the blocks by their median."""
    return f"{(max(side.seconds) - min(side.seconds)) / median(side.seconds):.0%}"


def _difference(line: Comparison, ours: Measured, peer: Measured) -> str:
    if line.compares == "losses":
        pairs = list(zip(ours.losses, peer.losses, strict=False))[:MOST_LOSSES]
        if not pairs:
            return ""
        largest = max(abs(one - other) for one, other in pairs)
        return f"{largest:.1e} of {len(pairs)}{'' if largest <= TOLERANCE else ', too large'}"
    if line.compares == "scores":
        return _score_difference(ours, peer)
    return ""


def _score_difference(ours: Measured, peer: Measured) -> str:
    """The largest difference of label scores on rows that both sides scored."""
    known = dict(zip(ours.facts.get("indices", []), ours.scores, strict=False))
    found = dict(zip(peer.facts.get("indices", []), peer.scores, strict=False))
    common = sorted(known.keys() & found.keys())
    if not common:
        return ""
    largest = max(
        abs(one - other)
        for row in common
        for one, other in zip(known[row], found[row], strict=True)
    )
    return f"{largest:.1e} in the scores of {len(common)} rows"


def _megabytes(side: Measured) -> str:
    return f"{side.peak_bytes / MEGA:.0f}" if side.peak_bytes else "none"


def _memory_line(line: Comparison, record: Record) -> list[str]:
    ours, peer = record.sides[line.ours], record.sides[line.peer]
    before = [f"{side.facts.get('resident_bytes', 0) / MEGA:.0f}" for side in (ours, peer)]
    known = ours.peak_bytes > 0 and peer.peak_bytes > 0 and bool(peer.seconds)
    reached = _yes(ours.peak_bytes <= peer.peak_bytes) if known else "not measured"
    return [
        line.work,
        line.peer,
        _megabytes(ours),
        _megabytes(peer),
        *before,
        "no more than the peer's",
        reached,
    ]


def _share_lines(pairs: Sequence[tuple[Group, Record]]) -> list[list[str]]:
    lines = []
    for group, record in pairs:
        rates = record.sides[MATMUL].rates if MATMUL in record.sides else []
        for name in group.shares:
            side = record.sides[name]
            if not (rates and side.flops and side.seconds):
                continue
            # Blocks differ in their rows' lengths: each block's operations by its own time.
            achieved = median(
                flops / seconds for flops, seconds in zip(side.flops, side.seconds, strict=True)
            )
            share = achieved / max(rates)
            figures = (
                f"{median(side.flops) / GIGA:.0f}",
                f"{median(side.seconds):.4f}",
                f"{achieved / GIGA:.0f}",
                f"{max(rates) / GIGA:.0f}",
                f"{share:.0%}",
            )
            must = f"{MUST_SHARE:.0%}"
            lines.append([group.about, *figures, must, _yes(share >= MUST_SHARE)])
    return lines


def _run_line(group: Group, record: Record) -> list[str]:
    known = {str(side.facts["data"]) for side in record.sides.values() if "data" in side.facts}
    steps = record.options.steps if group.steps is None else group.steps
    return [
        group.name,
        f"{record.date} UTC",
        f"{record.load_before:.1f}, {record.load_after:.1f}",
        f"{steps} {group.unit}s" if group.unit == "step" else "all its rows",
        str(record.options.repeats),
        ", ".join(sorted(known)),
    ]


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or a sentence where there is nothing in it."""
    if not lines:
        return "Nothing measured."
    rule = ["---"] * len(header)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in (header, rule, *lines)
    )
