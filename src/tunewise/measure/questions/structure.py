"""Do the answers hold together? Valid JSON, the schema, every field; SQL that runs.

Everything is read from the answers that the run gave to the test rows: those under the grammar
with their texts, those without it by their scores. SQL is run against a database in memory that is
made from a script the user names; a query may read and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tunewise.errors import ConfigError
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._sql import ScriptDatabase, looks_like_sql
from tunewise.measure.questions._telling import figures
from tunewise.measure.records import RowResult
from tunewise.numerics.counts import f1_interval
from tunewise.numerics.intervals import mean_interval
from tunewise.task.metrics import field_pairs, parse_json
from tunewise.task.types import Kind, Row, clusters_of

# Scores of the answers, and what they are called: under the grammar, and "free_" before it.
_CHECKS = {
    "valid_json": "answers that are JSON",
    "schema_valid": "answers that meet the schema",
    "exact": "answers whose every value is right",
}
FREE = "free_"
_MOST_FIELDS = 40


class StructureSettings(QuestionSettings):
    """Settings of `structure`."""

    runs_model: ClassVar[bool] = False

    sql_script: str | None = Field(
        None, description="path of an SQL script that makes the tables; unset: SQL is not run"
    )
    seconds: float = Field(2.0, gt=0, description="seconds that one query may take")


class Structure:
    """Form and fields of structured answers."""

    name = "structure"
    title = "Structure"
    asks = "are the answers well-formed, with and without a grammar, and which fields are right?"
    Settings = StructureSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        if context.spec.kind is Kind.JSON or _is_sql(context.test):
            return ""
        return f"the answers are neither JSON nor SQL (kind {context.spec.kind})"

    def cost(self, context: QuestionContext, settings: StructureSettings) -> int:
        """Nothing: the answers are there."""
        return 0

    def measure(self, context: QuestionContext, settings: StructureSettings) -> Answered:
        """See `Question.measure`."""
        chosen = context.chosen()
        if context.spec.kind is Kind.JSON:
            found = [
                each
                for name, subject in chosen.items()
                for each in (
                    *_checked(name, subject, context.test),
                    *_fields(name, subject, context.test),
                )
            ]
            return Answered(tuple(found), _json_findings(found), _json_pictures(found))
        found = _sql(context.test, chosen, settings)
        return Answered(tuple(found), _sql_findings(found))


def _checked(name: str, subject: Subject, rows: Sequence[Row]) -> list[Measurement]:
    """Shares of well-formed answers, with and without the grammar."""
    found = []
    results = subject.record.test
    for check, what in _CHECKS.items():
        for way, prefix in (("grammar", ""), ("free", FREE)):
            held = [_extra(one, f"{prefix}{check}") for one in results]
            scores = [score for score in held if score is not None]
            part = {"decoding": way}
            if not scores:
                missing = "no answer was read this way" if way == "free" else "not checked"
                found.append(absent(check, name, "share", missing, part=part))
                continue
            whole = clusters_of(
                [row for row, score in zip(rows, held, strict=True) if score is not None]
            )
            share = mean_interval([scores], clusters=whole)
            how = f"{what}, decoded {'under the grammar' if way == 'grammar' else 'freely'}"
            found.append(
                Measurement(
                    check, name, "share", share.value, len(scores), how, share.low, share.high,
                    higher_is_better=True, seeds=(subject.record.seed,), part=part,
                    n_failed=sum(one.answer is None for one in results),
                )
            )  # fmt: skip
    return found


def _extra(result: RowResult, name: str) -> float | None:
    """A failed answer is not well-formed, whatever the check."""
    return 0.0 if result.answer is None else result.extra.get(name)


def _fields(name: str, subject: Subject, rows: Sequence[Row]) -> list[Measurement]:
    """Precision and recall of every field as F1, most frequent fields first."""
    counts: dict[str, list[tuple[int, int, int]]] = {}
    having: dict[str, list[Row]] = {}
    for result, row in zip(subject.record.test, rows, strict=True):
        given, wanted = _by_field(result.answer), _by_field(row.output)
        for field in given.keys() | wanted.keys():
            told, true = given.get(field, Counter()), wanted.get(field, Counter())
            count = ((told & true).total(), told.total(), true.total())
            counts.setdefault(field, []).append(count)
            having.setdefault(field, []).append(row)
    found = []
    often = sorted(counts, key=lambda field: (-sum(c[2] for c in counts[field]), field))
    for field in often[:_MOST_FIELDS]:
        interval = f1_interval(counts[field], clusters=clusters_of(having[field]))
        found.append(
            Measurement(
                "field_f1", name, "score", interval.value, len(counts[field]),
                "F1 of the field's values over all rows that have it, interval by bootstrap over "
                "rows; n: rows in which it was expected or given",
                interval.low, interval.high, higher_is_better=True,
                seeds=(subject.record.seed,), part={"field": field},
            )
        )  # fmt: skip
    return found


def _by_field(answer: str | None) -> dict[str, Counter[str]]:
    """Values by field; none where there is no answer or it is no JSON."""
    valid, value = parse_json("" if answer is None else answer)
    held: dict[str, Counter[str]] = {}
    for (path, text), count in (field_pairs(value) if valid else Counter()).items():
        # `."slots"."city"` reads slots.city; a value that is no object has no name.
        field = path.replace('"', "").removeprefix(".")
        held.setdefault(field if field else "(whole)", Counter())[text] = count
    return held


def _is_sql(rows: Sequence[Row]) -> bool:
    return all(looks_like_sql(row.output) for row in rows[:50])


def _sql(
    rows: Sequence[Row], chosen: Mapping[str, Subject], settings: StructureSettings
) -> list[Measurement]:
    if settings.sql_script is None:
        reason = "no script that makes the tables is given (sql_script)"
        return [absent(what, "", "share", reason) for what in ("runs", "same_rows")]
    database = ScriptDatabase(_script(settings.sql_script), settings.seconds)
    expected = [database.rows_of(row.output) for row in rows]
    usable = [index for index, result in enumerate(expected) if result.error == ""]
    found, whole = [], clusters_of([rows[index] for index in usable])
    for name, subject in chosen.items():
        answers = [subject.record.test[index] for index in usable]
        given = [database.rows_of(one.answer or "") for one in answers]
        same = [
            result.error == "" and result.same_as(expected[index])
            for result, index in zip(given, usable, strict=True)
        ]
        shares: dict[str, tuple[list[bool], str]] = {
            "runs": ([result.error == "" for result in given], "queries that run"),
            "same_rows": (same, "queries that return the rows of the reference query"),
        }
        for what, (held, how) in shares.items():
            if not held:
                reason = f"no reference query runs: {expected[0].error}"
                found.append(absent(what, name, "share", reason))
                continue
            share = mean_interval([[float(each) for each in held]], clusters=whole)
            found.append(
                Measurement(
                    what, name, "share", share.value, len(held),
                    f"{how}; {len(rows) - len(usable)} rows left out, whose own query does not run",
                    share.low, share.high, higher_is_better=True, seeds=(subject.record.seed,),
                    n_failed=sum(one.answer is None for one in answers),
                )
            )  # fmt: skip
    return found


def _script(path: str) -> str:
    """The script's text.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the SQL script cannot be read",
            found=f"{path}: {error}",
            expected="a text file with CREATE and INSERT statements for SQLite",
            fix="correct sql_script",
        ) from error


def _json_findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    valid = {
        (each.of.about, each.of.part["decoding"]): each for each in figures(found, "valid_json")
    }
    for (name, way), each in valid.items():
        free = valid.get((name, "free"))
        if way == "grammar" and free is not None:
            told.append(
                f"{name}: of 100 answers {each.points()} are JSON under the grammar, "
                f"{free.points()} without it."
            )
    for name in dict.fromkeys(each.about for each in found):
        fields = [
            each for each in figures(found, "field_f1") if each.of.about == name and each.of.n >= 10
        ]
        if len(fields) > 1:
            worst = min(fields, key=lambda each: each.value)
            field = worst.of.part["field"]
            told.append(f"{name} is weakest at the field {field}: F1 {worst.points()}.")
    return tuple(told)


def _sql_findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    same = {each.of.about: each for each in figures(found, "same_rows")}
    return tuple(
        f"{each.of.about}: of 100 queries {each.points()} run, {same[each.of.about].points()} "
        "return the right rows."
        for each in figures(found, "runs")
    )


def _json_pictures(found: Sequence[Measurement]) -> tuple[Picture, ...]:
    def drawn(name: str, title: str, group: Callable[[Measurement], str]) -> Picture:
        points = tuple(
            Point(each.about, each.value, each.low, each.high, group=group(each)).in_points()
            for each in found
            if each.name == name and each.value is not None
        )
        return Picture(title, "dots", "of 100 answers", "", points)

    return (
        drawn(
            "valid_json",
            "Answers that are JSON, with and without the grammar",
            lambda each: str(each.part["decoding"]),
        ),
    )


QUESTION = Structure()
