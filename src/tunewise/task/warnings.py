"""What a person should look at in the data before trusting a result, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tunewise.task.check import DataCheck, Finding, class_balance
from tunewise.task.types import Row

_FEW_ROWS = 5
_HEAVY_SHARE = 0.8
_MUCH_REMOVED = 0.2
# How many labels a warning names at most.
_NAMED = 10


def make_warnings(
    balance: Mapping[str, Mapping[str, int]],
    share: float | None,
    rows_after: Mapping[str, int],
    across: Finding,
    contradictory: Finding,
) -> tuple[str, ...]:
    """What a person should look at before trusting a result.

    Args:
        balance: rows by label, by split.
        share: of the most frequent label.
        rows_after: rows by split.
        across: near-duplicates removed.
        contradictory: inputs with different answers.
    """
    said: list[str] = []
    train = balance.get("train", {})
    if share is not None and share >= _HEAVY_SHARE and len(train) > 1:
        label = max(train, key=lambda each: train[each])
        said.append(f"heavy imbalance: {share:.0%} of the train rows are {label!r}")
    few = [f"{label!r} ({count})" for label, count in train.items() if count < _FEW_ROWS]
    if few:
        said.append(f"labels with fewer than {_FEW_ROWS} train rows: {', '.join(few[:_NAMED])}")
    folded: dict[str, set[str]] = {}
    for label in train:
        folded.setdefault(" ".join(label.casefold().split()), set()).add(label)
    same = [" and ".join(sorted(each)) for each in folded.values() if len(each) > 1]
    if same:
        said.append(f"labels that differ in case or spaces only: {'; '.join(same)}")
    if across.count > _MUCH_REMOVED * sum(rows_after.values()):
        said.append(
            f"{across.count} rows were removed as near-duplicates across splits; if rows belong "
            "together (one text, many questions), name the column that groups them with --group"
        )
    if contradictory.count:
        said.append(f"{_inputs(contradictory.count)} with different answers")
    return (*said, *_of_test(balance, rows_after))


def _inputs(count: int) -> str:
    return "1 input stands" if count == 1 else f"{count} inputs stand"


def with_test(check: DataCheck, rows: Sequence[Row], said: str) -> DataCheck:
    """The check where some of the test rows only are answered.

    Args:
        check: of all rows.
        rows: test rows that are answered.
        said: a word on why, to stand with the warnings.
    """
    balance, counts = dict(check.class_balance), {**check.rows_after, "test": len(rows)}
    if balance:
        balance |= class_balance({"test": rows}, check.kind)
    before = tuple(_of_test(check.class_balance, check.rows_after))
    kept = [each for each in check.warnings if each not in before]
    warnings = (*kept, *_of_test(balance, counts), said)
    return replace(check, class_balance=balance, rows_after=counts, warnings=warnings)


def _of_test(
    balance: Mapping[str, Mapping[str, int]], rows_after: Mapping[str, int]
) -> Iterator[str]:
    """The warnings that hang on which test rows there are."""
    tested = balance.get("test", {})
    untested = [repr(label) for label in balance.get("train", {}) if label not in tested]
    if untested:
        more = f" and {len(untested) - _NAMED} more" if len(untested) > _NAMED else ""
        yield f"labels without a test row: {', '.join(untested[:_NAMED])}{more}"
    if rows_after.get("test", 0) < 100:
        yield f"{rows_after.get('test', 0)} test rows: intervals will be wide"
