"""The questions of one run: each is asked once, in the run's folder.

    evidence/NAME.json   the answer, written last       evidence/NAME/   pieces of one under way

A question may take what it planned and a quarter more, since a plan cannot know how long generated
answers get; the ledger refuses the rest, and the same command then has room for twice that. Unless
more is asked for, the cheapest questions are asked as long as all of them together cost no more
than one more fit. What will be asked, what it takes and about how long is said before the first
one, and what is left of that while they are asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunewise.adaptation.reader import Reader
from tunewise.adaptation.store import installed_versions
from tunewise.compare.entries import chosen_first
from tunewise.compare.wording import duration, plural
from tunewise.errors import BudgetExceededError, InputError, RunError
from tunewise.jobs import Jobs
from tunewise.measure.evidence import NOT_ASKED, Answered, Evidence, evidence_from
from tunewise.measure.files import read_json, write_json
from tunewise.measure.forecast import Forecast, Watch, pace_of
from tunewise.measure.pieces import Pieces
from tunewise.measure.questions._again import began_elsewhere
from tunewise.measure.questions._contract import (
    Question,
    QuestionContext,
    QuestionSettings,
    Subject,
)
from tunewise.measure.questions._work import answering_passes
from tunewise.measure.records import FitRecord
from tunewise.model.checksum import weights_checksum
from tunewise.model.ledger import Ledger
from tunewise.refits import Refits
from tunewise.serve.timing import timed_engine
from tunewise.task.types import Row

_FOLDER = "evidence"
_SLACK = 1.25
_OVERRUNS = "overruns"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a run with its settings.

    Attributes:
        question: what is asked.
        settings: an instance of its `Settings`.
    """

    question: Question
    settings: QuestionSettings


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks the questions of a run whose fits are measured.

    Attributes:
        jobs: the run's fits.
        records: all of them, measured.
        rows: the test rows.
        seeds: of the run.
        reader: keeps the adaptations that were read.
    """

    jobs: Jobs
    records: Sequence[FitRecord]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    reader: Reader = field(default_factory=Reader)

    def ask(
        self,
        asked: Sequence[Asked],
        most_passes: int | None,
        most_seconds: float | None = None,
    ) -> tuple[Evidence, ...]:
        """Ask what is not answered yet.

        Args:
            asked: the questions.
            most_passes: token passes that all of them may cost together, the cheapest first; None
                for no limit. Those that are left out say so.
            most_seconds: that all of them may take, likewise, as far as can be told beforehand.

        Returns:
            One piece of evidence for each, the cheapest first.
        """
        found: dict[str, Evidence] = {}
        to_ask: list[tuple[Evidence, Asked]] = []
        room = self._room(most_passes, most_seconds)
        for plan, each in sorted(
            ((self._planned(each), each) for each in asked),
            key=lambda pair: (pair[0].planned_passes, pair[1].question.name),
        ):
            is_there = self._stored(each) is not None
            if not plan.absent and room is not None:
                if not is_there and plan.planned_passes > room.left:
                    plan = replace(plan, absent=room.left_out(plan))
                else:
                    room.left -= plan.planned_passes
            found[plan.question] = plan
            if not plan.absent and not is_there:
                to_ask.append((plan, each))
        forecast = self._announced([plan for plan, _ in to_ask])
        for number, (plan, each) in enumerate(to_ask, start=1):
            self.jobs.reporter.begin(f"asking: {each.question.title}", number, len(to_ask))
            found[plan.question] = self._answer(each, plan, forecast)
        return tuple(found.values())

    def _announced(self, plans: Sequence[Evidence]) -> Forecast:
        """Say what will be asked and what it will take."""
        planned = {plan.question: plan.planned_passes for plan in plans}
        # Without a question that calls the base no pace is needed.
        forecast = Forecast(planned, self._pace() if any(planned.values()) else 0.0)
        if forecast.total:
            dear = sorted(planned, key=lambda name: -planned[name])[:3]
            most = ", ".join(f"{name} {planned[name]:,}" for name in dear if planned[name])
            fits = forecast.total / self.jobs.budget
            self.jobs.reporter.say(
                f"{plural(len(plans), 'question')} to ask: about {forecast.total:,} token passes, "
                f"as many as {fits:.1f} fits; about {duration(forecast.seconds_left())} "
                f"(most for {most})"
            )
        return forecast

    def _pace(self) -> float:
        """Seconds of a token pass, over the run's fits and answers."""
        rows, base = [row.input for row in self.rows], self.jobs.ground.base
        answering = {
            name: answering_passes(base, fits[0].load(), rows)
            for name, fits in self._subjects().items()
        }
        return pace_of(self.records, answering)

    def _room(self, passes: int | None, seconds: float | None) -> _Room | None:
        if seconds is None:
            return None if passes is None else _Room(passes)
        pace = self._pace()
        # Without a method that calls the base nothing is known of a pass; then nothing takes long.
        return _Room(int(max(seconds, 0.0) / pace), pace) if pace else None

    def _planned(self, asked: Asked) -> Evidence:
        """What a question will cost, or why it cannot be asked."""
        stored = self._stored(asked)
        if stored is not None:
            return stored
        question, settings = asked.question, asked.settings
        context = self._context(asked, limit=0)
        reason = question.inapplicable(context)
        passes = 0 if reason else question.cost(context, settings)
        return Evidence(
            question.name,
            question.title,
            question.asks,
            Answered(()),
            absent=reason,
            settings=settings.model_dump(mode="json"),
            planned_passes=passes,
        )

    def _answer(self, asked: Asked, plan: Evidence, forecast: Forecast) -> Evidence:
        """Ask one question and store its answer; what it cannot do is told, not raised.

        Raises:
            RunError: the base was changed, which no question may do.
        """
        base, name = self.jobs.ground.base, asked.question.name
        before = weights_checksum(base)
        overruns = self._overruns(asked)
        limit = int(plan.planned_passes * _SLACK * 2**overruns)
        context = self._context(asked, limit, plan.planned_passes, forecast)
        try:
            answered = asked.question.measure(context, asked.settings)
        except (InputError, BudgetExceededError) as error:
            reason = "; ".join(text for text in (error.what, error.found) if text)
            if isinstance(error, BudgetExceededError):
                context.pieces.write(_OVERRUNS, {"count": overruns + 1})
                reason += "; the same command goes on from here, with twice as much"
            return replace(plan, absent=f"could not be measured: {reason}")
        finally:
            forecast.end(name, context.ledger.spent, context.watch.seconds)
            if weights_checksum(base) != before:
                raise RunError(f"the question {name} changed the base model", fix="mend it")
        if asked.settings.fits_again:
            began = began_elsewhere(context, answered.measurements)
            answered = replace(answered, findings=(*answered.findings, *began))
        evidence = replace(
            plan,
            answered=answered,
            work=context.ledger.work().as_dict(),
            seconds=context.watch.seconds,
        )
        content = {"identity": self._identity(asked), "evidence": asdict(evidence)}
        write_json(self._path(asked), content)
        context.pieces.clear()
        return evidence

    def _overruns(self, asked: Asked) -> int:
        """How often what the question may take was too little; each time it may take twice that."""
        told = Pieces(self._path(asked).with_suffix(""), self._identity(asked)).read(_OVERRUNS)
        return 0 if told is None else int(told["count"])

    def _stored(self, asked: Asked) -> Evidence | None:
        content = read_json(self._path(asked))
        if content is None or content.get("identity") != self._identity(asked):
            return None
        try:
            return evidence_from(content["evidence"])
        except (KeyError, TypeError, ValueError):
            return None  # of another version: asked again

    def _context(
        self, asked: Asked, limit: int, planned: int = 0, forecast: Forecast | None = None
    ) -> QuestionContext:
        base, task = self.jobs.ground.base, self.jobs.ground.task
        ledger, watch = Ledger(base.body_parameters, base.head_parameters, limit), Watch()
        folder, reporter = self._path(asked).with_suffix(""), self.jobs.reporter

        def report(done: int, total: int | None, text: str) -> None:
            reporter.work(done, total, text)
            if forecast is not None:
                name = asked.question.name
                left = forecast.seconds_left(name, done, watch.seconds)
                reporter.whole(forecast.done(name, done), forecast.total, left)

        return QuestionContext(
            base=base,
            view=task.fit_view,
            test=self.rows,
            data_check=self.jobs.ground.check.as_dict(),
            subjects=self._subjects(),
            refit=Refits(self.jobs, ledger, folder / "checkpoints", report, planned),
            serving=timed_engine,
            fit_budget=self.jobs.budget,
            seeds=self.seeds,
            ledger=ledger,
            pieces=Pieces(folder, self._identity(asked)),
            report=report,
            planned=planned,
            watch=watch,
        )

    def _subjects(self) -> dict[str, tuple[Subject, ...]]:
        by_method: dict[str, list[FitRecord]] = {}
        for record in self.records:
            by_method.setdefault(record.method, []).append(record)
        return {
            name: tuple(Subject(record, self._loader(record)) for record in chosen_first(fits))
            for name, fits in by_method.items()
        }

    def _loader(self, record: FitRecord) -> Any:
        fingerprint = self.jobs.ground.base.fingerprint
        return lambda: self.reader.load(self.jobs.out / record.adaptation, fingerprint)

    def _identity(self, asked: Asked) -> str:
        """Of everything besides the run itself that decides the answer."""
        content = {
            "settings": asked.settings.model_dump(mode="json"),
            "fits": sorted((record.method, record.seed) for record in self.records),
            "version": installed_versions().get("tunewise", ""),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _path(self, asked: Asked) -> Path:
        return self.jobs.out / _FOLDER / f"{asked.question.name}.json"


@dataclass(slots=True)
class _Room:
    """What questions may still take.

    Attributes:
        left: token passes.
        pace: seconds of one, where a time is what is left; 0 where passes are.
    """

    left: int
    pace: float = 0.0

    def left_out(self, plan: Evidence) -> str:
        """Why a question is not asked."""
        takes, asks = f"{plan.planned_passes:,} token passes", f"`--questions {plan.question}`"
        if not self.pace:
            return (
                f"{NOT_ASKED}it takes {takes}, and {self.left:,} are left of what is asked unless "
                f"named; {asks} or `--evidence` asks it"
            )
        seconds, left = plan.planned_passes * self.pace, self.left * self.pace
        return (
            f"{NOT_ASKED}it takes {takes}, about {duration(seconds)}, and {duration(left)} are "
            f"left of the run's time; {asks} asks it whatever it takes"
        )
