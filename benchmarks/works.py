"""The works of the benchmark: which sides take turns, what is compared, what must be reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.jobs import Job

FLOAT32, BFLOAT16 = "float32", "bfloat16"
MATMUL = "matmul"
Dtypes = tuple[str, ...]
SCORING = ("ours_scoring", "plain_scoring", "lm_eval")
"""Sides that score rows instead of fitting."""

MUST_SHARE = 0.6
"""Of the machine's own matrix-product rate, a whole fitting step in the machine's own dtype."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the results.

    Attributes:
        work: what is done.
        ours, peer: names of the two sides.
        must_reach: ratio of the peer's time to ours; None where nothing is demanded.
        compares: "losses" of the first steps or "scores" of the same rows, where both sides
            compute in float32; "" where not.
        memory: whether the peak must be no more than the peer's.
    """

    work: str
    ours: str
    peer: str
    must_reach: float | None
    compares: Literal["losses", "scores", ""] = ""
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Sides that take turns, and the comparisons between them.

    Attributes:
        name: for `--only`.
        about: what is done, in a line.
        unit: what a time is per.
        sides: jobs by name.
        comparisons: lines of the results.
        steps: units in a block, where the group has its own number; None for the option's.
        shares: sides whose share of the matrix-product rate is told.
    """

    name: str
    about: str
    unit: Literal["step", "row"]
    sides: dict[str, Job]
    comparisons: tuple[Comparison, ...]
    steps: int | None = None
    shares: tuple[str, ...] = ()


def quick(group: Group) -> Group:
    """The same sides on a few of the scored rows."""
    sides = {
        name: replace(job, rows=job.rows // 10, subset=-(-job.subset // 10))
        if job.side in SCORING
        else job
        for name, job in group.sides.items()
    }
    return replace(group, sides=sides)


def groups(steps: int, repeats: int, own: str) -> tuple[Group, ...]:
    """All works.

    Args:
        steps: optimizer steps in a block.
        repeats: measured blocks.
        own: the machine's own dtype, `FLOAT32` or `BFLOAT16`. Where bfloat16 is not faster than
            float32 nobody computes in it, and it is not measured.
    """
    total = 1 + steps * repeats
    dtypes = (FLOAT32,) if own == FLOAT32 else (FLOAT32, own)
    return (
        _prompt_tuning(20, 4.0, None, total, dtypes),
        _prompt_tuning(100, 8.0, 12.0, total, dtypes),
        _prefix(total, dtypes),
        _lora_short(total, dtypes),
        *(_lora_long(dtype, repeats, dtypes) for dtype in dtypes),
        _full_float32(total, dtypes),
        *((_full_bfloat16(total),) if BFLOAT16 in dtypes else ()),
        _demonstrations(dtypes),
        _many_labels(dtypes),
    )


def _prompt_tuning(
    size: int, must: float, as_it_comes: float | None, total: int, dtypes: Dtypes
) -> Group:
    peer = "PEFT, Trainer"
    sides = _each("ours", "trainer", peer, "soft_prompt", size, 1e-2, total, dtypes)
    work = f"soft_prompt, {size} virtual tokens"
    found = list(_same_dtype(work, peer, must, dtypes, memory=True))
    if as_it_comes is not None:
        name = f"{work}, as it comes"
        own = f"ours {dtypes[-1]}"
        found.append(Comparison(name, own, f"{peer} {FLOAT32}", as_it_comes, memory=True))
    return _fitting(f"soft_prompt_{size}", f"{work}, short rows", sides, tuple(found), dtypes)


def _prefix(total: int, dtypes: Dtypes) -> Group:
    peer = "PEFT, Trainer"
    sides = _each("ours", "trainer", peer, "prefix", 50, 1e-2, total, dtypes)
    work = "prefix, 50 positions"
    found = _same_dtype(work, peer, 3.0, dtypes)
    return _fitting("prefix_50", f"{work}, short rows", sides, found, dtypes)


def _lora_short(total: int, dtypes: Dtypes) -> Group:
    peer = "TRL SFTTrainer"
    sides = _each("ours", "sft_trainer", peer, "lora", 8, 3e-4, total, dtypes)
    work = "lora all-linear rank 8, short rows"
    found = _same_dtype(work, peer, 2.5, dtypes, memory=True)
    return _fitting("lora_short", work, sides, found, dtypes)


def _lora_long(dtype: str, repeats: int, dtypes: Dtypes) -> Group:
    peer = "TRL SFTTrainer"
    total = 1 + repeats
    one = (dtype,)
    both = _each("ours", "sft_trainer", peer, "lora", 8, 3e-4, total, one, workload="mts_section")
    # All 16 rows at once would take the peer some 20 GB in float32.
    sides = {name: replace(job, pieces=4) for name, job in both.items()}
    work = "lora all-linear rank 8, long rows"
    found = _same_dtype(work, peer, 1.5, one, memory=True)
    return _fitting(f"lora_long_{dtype}", f"{work}, {dtype}", sides, found, dtypes, steps=1)


def _full_float32(total: int, dtypes: Dtypes) -> Group:
    peer = f"TRL SFTTrainer {FLOAT32}"
    sides = {
        f"ours {FLOAT32}": _fit("ours", "full", FLOAT32, 0, 5e-5, total),
        peer: _fit("sft_trainer", "full", FLOAT32, 0, 5e-5, total),
    }
    line = Comparison(f"full, {FLOAT32}", f"ours {FLOAT32}", peer, 1.5, "losses")
    return _fitting("full_float32", line.work, sides, (line,), dtypes)


def _full_bfloat16(total: int) -> Group:
    mixed = "TRL SFTTrainer, float32 weights, bfloat16 products"
    pure = "TRL SFTTrainer, bfloat16 weights"
    ours = f"ours {BFLOAT16}"
    sides = {
        ours: _fit("ours", "full", BFLOAT16, 0, 5e-5, total),
        mixed: _fit("sft_trainer", "full", FLOAT32, 0, 5e-5, total, autocast=True),
        pure: _fit("sft_trainer", "full", BFLOAT16, 0, 5e-5, total),
    }
    lines = (
        Comparison("full, bfloat16 products of float32 masters", ours, mixed, 1.5),
        Comparison("full, the same against weights kept in bfloat16 alone", ours, pure, None),
    )
    return _fitting("full_bfloat16", "full, bfloat16", sides, lines, (FLOAT32, BFLOAT16))


def _demonstrations(dtypes: Dtypes) -> Group:
    plain, harness = "plain loop", "lm-evaluation-harness"
    sides = {}
    lines: list[Comparison] = []
    for dtype in dtypes:
        ours = f"ours {dtype}"
        shown = Job("", dtype=dtype, workload="reviews3", rows=200, demonstrations=8)
        sides[ours] = replace(shown, side="ours_scoring", method="score")
        sides[f"{plain} {dtype}"] = replace(shown, side="plain_scoring", subset=20)
        sides[f"{harness} {dtype}"] = replace(shown, side="lm_eval", subset=20)
        checked: Literal["scores", ""] = "scores" if dtype == FLOAT32 else ""
        work = f"measuring 200 rows with 8 demonstrations, {dtype}"
        lines += [
            Comparison(work, ours, f"{plain} {dtype}", 10.0, checked),
            Comparison(work, ours, f"{harness} {dtype}", 3.0, checked),
        ]
    about = "label scores of 200 rows behind 8 demonstrations"
    return Group("demonstrations_8", about, "row", sides, tuple(lines), steps=1)


def _many_labels(dtypes: Dtypes) -> Group:
    plain = "scoring each label"
    sides = {}
    lines: list[Comparison] = []
    for dtype in dtypes:
        rows = Job("ours_scoring", dtype=dtype, workload="banking77", rows=500, method="score")
        sides[f"ours, answers {dtype}"] = replace(rows, method="trie")
        sides[f"ours, all scores {dtype}"] = replace(rows, subset=50)
        sides[f"{plain} {dtype}"] = replace(rows, side="plain_scoring", subset=5)
        checked: Literal["scores", ""] = "scores" if dtype == FLOAT32 else ""
        work = f"77-label classification of 500 rows, {dtype}"
        peer = f"{plain} {dtype}"
        lines += [
            Comparison(f"{work}: the answers", f"ours, answers {dtype}", peer, 10.0),
            Comparison(
                f"{work}: every label's score", f"ours, all scores {dtype}", peer, None, checked
            ),
        ]
    return Group("labels_77", "answers among 77 labels", "row", sides, tuple(lines), steps=1)


def _fitting(
    name: str,
    about: str,
    sides: dict[str, Job],
    comparisons: tuple[Comparison, ...],
    dtypes: Dtypes,
    steps: int | None = None,
) -> Group:
    ours = f"ours {dtypes[-1]}"
    if ours not in sides:
        return Group(name, about, "step", sides, comparisons, steps)
    with_rate = sides | {MATMUL: Job("matmul", dtype=dtypes[-1])}
    return Group(name, about, "step", with_rate, comparisons, steps, shares=(ours,))


def _same_dtype(
    work: str, peer: str, must: float, dtypes: Dtypes, *, memory: bool = False
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            f"{work}, {dtype}",
            f"ours {dtype}",
            f"{peer} {dtype}",
            must,
            "losses" if dtype == FLOAT32 else "",
            memory,
        )
        for dtype in dtypes
    )


def _each(
    ours: str,
    other: str,
    peer: str,
    method: str,
    size: int,
    rate: float,
    total: int,
    dtypes: Dtypes,
    *,
    workload: str = "reviews3",
) -> dict[str, Job]:
    sides = {}
    for dtype in dtypes:
        # TRL multiplies in bfloat16 by autocast unless told otherwise; PEFT's own way is to load
        # the base in bfloat16.
        autocast = other == "sft_trainer" and dtype == BFLOAT16
        sides[f"ours {dtype}"] = _fit(ours, method, dtype, size, rate, total, workload=workload)
        sides[f"{peer} {dtype}"] = _fit(
            other, method, dtype, size, rate, total, workload=workload, autocast=autocast
        )
    return sides


def _fit(
    side: str,
    method: str,
    dtype: str,
    size: int,
    rate: float,
    total: int,
    *,
    workload: str = "reviews3",
    autocast: bool = False,
) -> Job:
    return Job(
        side,
        dtype=dtype,
        workload=workload,
        rows=16 * (total + 1),
        method=method,
        size=size,
        learning_rate=rate,
        steps=total,
        autocast=autocast,
    )
