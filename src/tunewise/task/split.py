"""Splits: official ones are kept, missing ones carved, by content and seed alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

import numpy as np

from tunewise.errors import DataError
from tunewise.task.options import TaskOptions
from tunewise.task.types import Kind, Row

_FOLDS = 10
_TRIES = 20


def complete_splits(
    splits: Mapping[str, Sequence[Row]], kind: Kind, options: TaskOptions
) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """Train, validation and test, from whatever splits there are.

    Args:
        splits: rows by "train", "validation" and "test", or all under "all".
        kind: classification is stratified by label.
        options: fractions and seed.

    Returns:
        rows by the three splits in the order of the data, and where each comes from.

    Raises:
        DataError: there are only validation or test rows, or too few rows or groups.
    """
    have = {split: list(rows) for split, rows in splits.items() if rows}
    if "train" not in have and "all" not in have:
        raise DataError(
            "there are no rows to fit on",
            found=f"only {' and '.join(have) or 'empty files'}",
            expected="train rows, or one file with all rows",
            fix="add a train file, or give the file itself to have it split",
        )
    said = [f"{split}: as given" for split in ("train", "validation", "test") if split in have]
    pool = have.pop("all", None) or have.pop("train")
    if "test" not in have:
        pool, have["test"] = _carve(pool, options.test_fraction, kind, options.split_seed)
        said.append(_sentence("test", options.test_fraction, pool, have["test"], kind, options))
    if "validation" not in have:
        pool, part = _carve(pool, options.validation_fraction, kind, options.split_seed)
        have["validation"] = part
        said.append(_sentence("validation", options.validation_fraction, pool, part, kind, options))
    have["train"] = pool
    return {split: have[split] for split in ("train", "validation", "test")}, tuple(said)


def _sentence(
    split: str,
    fraction: float,
    rest: Sequence[Row],
    part: Sequence[Row],
    kind: Kind,
    options: TaskOptions,
) -> str:
    how = ["stratified by label"] if kind is Kind.CLASSIFICATION else []
    how += ["groups kept together"] if _grouped([*rest, *part]) else []
    manner = f", {' and '.join(how)}" if how else ""
    taken = f"{len(part)} of {len(rest) + len(part)} rows ({fraction:.0%} asked)"
    return f"{split}: {taken}, drawn from train with seed {options.split_seed}{manner}"


def _carve(
    rows: Sequence[Row], fraction: float, kind: Kind, seed: int
) -> tuple[list[Row], list[Row]]:
    """Part rows into the rest and a share; both keep the order of the data."""
    if len(rows) < 2:
        raise DataError(
            "there are too few rows to split",
            found=f"{len(rows)} row{'s' if len(rows) != 1 else ''}",
            expected="at least 2",
            fix="add rows",
        )
    # The order in the file must not matter: rows stand in the order of their content's hash.
    order = sorted(range(len(rows)), key=lambda i: (_content(rows[i]), i))
    labels = [rows[i].output if kind is Kind.CLASSIFICATION else "" for i in order]
    chosen = (
        _carve_groups([rows[i] for i in order], labels, fraction, seed)
        if _grouped(rows)
        else _carve_rows(labels, fraction, seed)
    )
    taken = {order[position] for position in chosen}
    rest = [row for i, row in enumerate(rows) if i not in taken]
    return rest, [row for i, row in enumerate(rows) if i in taken]


def _grouped(rows: Sequence[Row]) -> bool:
    return any(row.group is not None for row in rows)


def _content(row: Row) -> str:
    return hashlib.sha256(f"{row.input}\0{row.output}".encode()).hexdigest()


def _carve_rows(labels: Sequence[str], fraction: float, seed: int) -> list[int]:
    """Positions of a stratified share; every label keeps at least one row in the rest."""
    generator = random.Random(seed)
    by_label: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_label.setdefault(label, []).append(position)
    wanted = min(max(1, round(fraction * len(labels))), len(labels) - 1)
    exact = {label: fraction * len(each) for label, each in by_label.items()}
    counts = {label: min(int(exact[label]), len(by_label[label]) - 1) for label in by_label}
    # Largest remainders first; ties go by the label's name.
    remainders = sorted(by_label, key=lambda label: (-(exact[label] - counts[label]), label))
    while sum(counts.values()) < wanted:
        open_labels = [each for each in remainders if counts[each] < len(by_label[each]) - 1]
        if not open_labels:
            break
        for label in open_labels[: wanted - sum(counts.values())]:
            counts[label] += 1
    chosen: list[int] = []
    for label in sorted(by_label):
        members = list(by_label[label])
        generator.shuffle(members)
        chosen += members[: counts[label]]
    if not chosen:
        raise DataError(
            "the rows cannot be split by label",
            found=f"{len(labels)} rows with {len(by_label)} labels, none of them twice",
            expected="at least one label with two rows",
            fix="add rows, or set --kind if the answers are no labels",
        )
    return chosen


def _carve_groups(
    rows: Sequence[Row], labels: Sequence[str], fraction: float, seed: int
) -> list[int]:
    """Positions of whole groups, stratified as far as the groups allow (scikit-learn's folds)."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    groups = [f"group {r.group}" if r.group is not None else f"row {r.id}" for r in rows]
    count = len(set(groups))
    if count < 2:
        raise DataError(
            "all rows belong to one group, so they cannot be split",
            found=f"group {rows[0].group!r} in {len(rows)} rows",
            expected="at least two groups",
            fix="name another column with --group, or leave it out",
        )
    folds = min(_FOLDS, count)
    take = min(max(1, round(fraction * folds)), folds - 1)
    chosen: list[int] = []
    for attempt in range(_TRIES):
        kind = StratifiedGroupKFold if _rarest(labels) >= folds else GroupKFold
        splitter = kind(n_splits=folds, shuffle=True, random_state=seed + attempt)
        parts = [part for _, part in splitter.split(np.zeros(len(rows)), labels, groups)][:take]
        chosen = [int(position) for part in parts for position in part]
        rest = {labels[i] for i in range(len(rows)) if i not in set(chosen)}
        if set(labels) == rest:
            break
    return chosen


def _rarest(labels: Sequence[str]) -> int:
    """How often the rarest label occurs."""
    return min(labels.count(label) for label in set(labels))
