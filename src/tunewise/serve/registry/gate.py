"""May this version take the place of that one? Told from scores on the same rows, paired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, desc, insert, select

from tunewise.errors import GateRefusedError, RegistryError
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.serve.registry import tables
from tunewise.serve.registry.records import RECIPE, Version
from tunewise.task.types import Row

MARGIN = 0.05
# What is not told of a measurement: whose it is is known, and the rest is as long as the rows.
_BY_ROW = {"version", "scores", "clusters"}


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one version on rows.

    Attributes:
        rows_hash: of the rows' content: scores with the same hash are on the same rows.
        metric: how rows were scored.
        scores: row id -> score, 0 to 1; 0 where answering failed.
        n_failed: rows that could not be answered.
        source: where they come from, for people.
        clusters: row id -> group of the row; None where rows are independent, or it is not known.
    """

    rows_hash: str
    metric: str
    scores: Mapping[str, float]
    n_failed: int = 0
    source: str = ""
    clusters: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may be promoted, and what that rests on.

    Attributes:
        passed: whether it may.
        reason: in one sentence.
        difference, low, high: mean of its scores minus the present one's, with the limits of the
            95% interval; None where nothing could be compared.
        p_value: that there is no difference; n: rows; metric: how they were scored.
    """

    passed: bool
    reason: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    n: int = 0
    metric: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def rows_hash(rows: Iterable[Row]) -> str:
    """What rows are, whatever their order: ids, inputs and references."""
    told = sorted([row.id, row.input, list(row.references)] for row in rows)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def run_rows_hash(data_hash: str, ids: Iterable[str]) -> str:
    """What the test rows of a run are: the other side of the split whose fit view has this hash."""
    return hashlib.sha256(json.dumps([data_hash, sorted(ids)]).encode()).hexdigest()


def attach(connection: Connection, version: Version, scores: Scores, now: float) -> None:
    """Store scores of a version.

    Raises:
        RegistryError: there are none, one does not lie between 0 and 1, or groups are those of
            other rows.
    """
    wrong = {row: score for row, score in scores.scores.items() if not 0 <= score <= 1}
    if not scores.scores or wrong:
        some = dict(list(wrong.items())[:3])
        raise RegistryError(
            "these scores cannot be stored",
            found=f"{len(scores.scores)} rows; not between 0 and 1: {some}",
            expected="at least one row, scores between 0 and 1",
        )
    clusters = _numbered(scores)
    interval = mean_interval(
        list(scores.scores.values()),
        clusters=None if clusters is None else list(clusters.values()),
    )
    connection.execute(
        insert(tables.measurements).values(
            version=row_key(connection, version),
            rows_hash=scores.rows_hash,
            metric=scores.metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n=len(scores.scores),
            n_failed=scores.n_failed,
            scores=dict(scores.scores),
            clusters=clusters,
            source=scores.source,
            at=now,
        )
    )


def measured(connection: Connection, version: Version) -> list[dict[str, Any]]:
    """What is stored about a version, the newest first, without the single rows."""
    table = tables.measurements
    columns = [column for column in table.c if column.name not in _BY_ROW]
    chosen = select(*columns).where(table.c.version == row_key(connection, version))
    return [dict(row._mapping) for row in connection.execute(chosen.order_by(desc(table.c.id)))]


def judge(
    connection: Connection, candidate: Version, present: Version | None, margin: float = MARGIN
) -> Verdict:
    """Hold a version against the one in place, on the rows both were measured on.

    It may be promoted where the whole 95% interval of the paired difference lies above minus the
    margin, and not all of it below zero: where it is shown not to be much worse, and not shown to
    be worse at all. Too few rows do not pass: a tie on ten rows shows nothing. Rows of a group are
    one unit.

    Args:
        connection: a reader's.
        candidate: what is to be promoted.
        present: what is in place, or None.
        margin: the largest loss of mean score that would be borne, 0 to 1.
    """
    key = row_key(connection, candidate)
    held = select(tables.probes.c.version).where(tables.probes.c.version == key)
    if connection.execute(held).first() is None:
        return Verdict(False, "it was registered without being tried on its base")
    if present is None:
        return Verdict(True, "nothing was in place to compare it with")
    if present.digest == candidate.digest:
        return Verdict(True, "it is the version in place")
    own, other = _latest(connection, candidate), _latest(connection, present)
    common = [key for key in own if key in other and set(own[key][0]) == set(other[key][0])]
    if not common:
        return Verdict(
            False,
            f"{candidate} and {present} have no scores on the same rows "
            f"({len(own)} and {len(other)} sets of rows are stored)",
        )
    key_rows, metric = max(common, key=lambda key: len(own[key][0]))
    (new, new_clusters), (old, old_clusters) = own[key_rows, metric], other[key_rows, metric]
    rows = sorted(new)
    clusters = _coarsest(rows, new_clusters, old_clusters)
    both = [new[row] for row in rows], [old[row] for row in rows]
    found = paired_difference(*both, clusters=clusters)
    facts: dict[str, Any] = {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "n": len(rows),
        "metric": metric,
    }
    shown = (
        f"{metric} {100 * found.difference:+.1f} points ({100 * found.low:+.1f} to "
        f"{100 * found.high:+.1f}) against {present} on {len(rows)} rows"
        + ("" if clusters is None else f" of {len(set(clusters))} groups")
    )
    if found.high < 0:
        return Verdict(False, f"it is worse: {shown}", **facts)
    if found.low < -margin:
        return Verdict(
            False,
            f"it may be worse by more than {100 * margin:.1f} points: {shown}",
            **facts,
        )
    return Verdict(True, f"it is not worse: {shown}", **facts)


def refusal(
    connection: Connection, version: Version, alias: str, margin: float, verdict: Verdict
) -> GateRefusedError:
    """The gate's words, and what would open it.

    Args:
        connection: any.
        version: that was to be promoted.
        alias: what was to mean it.
        margin: the largest loss of mean score that would be borne.
        verdict: of `judge`.
    """
    expected = f"as good as the version in place, within {100 * margin:.1f} points, on stored rows"
    fix = "measure both on more of the same rows (`tunewise registry measure`)"
    if RECIPE in version.kinds:
        expected, fix = "scores, which a recipe has none of", "fit by it and compare"
    elif probe_report(connection, version) is None:
        expected, fix = "answers beside its base's", "register it again without --no-probes"
    return GateRefusedError(
        f"{version} is not promoted to {alias}",
        found=verdict.reason,
        expected=expected,
        fix=f"{fix}, or give a reason in words: --reason",
    )


def probe_report(connection: Connection, version: Version) -> dict[str, Any] | None:
    """What a version and its base answered when it was registered, or None."""
    table = tables.probes
    chosen = select(table.c.report).where(table.c.version == row_key(connection, version))
    found = connection.execute(chosen).scalar()
    return None if found is None else dict(found)


def row_key(connection: Connection, version: Version) -> int:
    """The key of a version's row."""
    table = tables.versions
    chosen = select(table.c.id).where(
        table.c.tenant == version.name.tenant,
        table.c.name == version.name.name,
        table.c.number == version.number,
    )
    return int(connection.execute(chosen).scalar_one())


def _numbered(scores: Scores) -> dict[str, int] | None:
    """Groups as they are stored, in the rows' order: a name may be as long as a text."""
    if scores.clusters is None:
        return None
    if set(scores.clusters) != set(scores.scores):
        raise RegistryError(
            "these scores cannot be stored",
            found=f"{len(scores.scores)} rows, and groups of {len(scores.clusters)} rows",
            expected="the group of each of the rows that have scores",
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(scores.clusters.values()))}
    return {row: numbers[scores.clusters[row]] for row in scores.scores}


def _coarsest(rows: Sequence[str], *known: Mapping[str, int] | None) -> list[int] | None:
    """Of the groupings that are known of the rows the one with the fewest groups.

    What was measured without groups, or before they were kept, knows of none.
    """
    found = [[each[row] for row in rows] for each in known if each is not None]
    return min(found, key=lambda each: len(set(each)), default=None)


def _latest(
    connection: Connection, version: Version
) -> dict[tuple[str, str], tuple[Mapping[str, float], Mapping[str, int] | None]]:
    """The newest scores of each set of rows and metric, and the groups of these rows."""
    table = tables.measurements
    chosen = (
        select(table.c.rows_hash, table.c.metric, table.c.scores, table.c.clusters)
        .where(table.c.version == row_key(connection, version))
        .order_by(table.c.id)
    )
    return {
        (row.rows_hash, row.metric): (row.scores, row.clusters)
        for row in connection.execute(chosen)
    }
