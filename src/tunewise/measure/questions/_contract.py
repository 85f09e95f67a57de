"""What a question is: a name, what it asks, its settings, what it costs, and one `measure`.

A question is one file in this folder (or an entry point of the group `tunewise.questions`) with a
module-level `QUESTION`. It knows adaptations and parts, never a method: where it needs another fit
it is handed a `refit`. It runs after the comparison has answered the test rows, on a stated part
of the budget, and a run that was killed goes on with the pieces that were done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import Predictor, predictor_for
from tunewise.measure.accuracy import Measured, measure_rows
from tunewise.measure.evidence import Answered
from tunewise.measure.forecast import Watch
from tunewise.measure.pieces import Pieces
from tunewise.measure.records import FitRecord
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.task.types import FitView, Row, TaskSpec


class QuestionSettings(BaseModel):
    """Base class of a question's settings: frozen, and a field that is not known is refused.

    Every field has a default and a `description` of one line that names its unit.

    Attributes:
        runs_model: whether the question calls the base at all; for guesses before there are fits.
        fits_again: whether it holds fits of its own against those of the run.
    """

    runs_model: ClassVar[bool] = True
    fits_again: ClassVar[bool] = False

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Subject:
    """One adaptation as the run fitted it.

    Attributes:
        record: its fit: cost, curve, and its answers to the test and the validation rows.
        load: reads it from the run's folder (weights may be as large as the base: load when
            needed, and let go).
    """

    record: FitRecord
    load: Callable[[], Adaptation] = field(repr=False)

    @property
    def name(self) -> str:
        """For progress and messages."""
        return f"{self.record.method}, seed {self.record.seed}"


@dataclass(frozen=True, slots=True)
class Refitted:
    """Another fit of a method: what it found and what it cost (seconds are wall-clock)."""

    adaptation: Adaptation
    seconds: float
    token_passes: int
    flops: int
    peak_bytes: int


class Refit(Protocol):
    """Fits a method of the run again, with the run's settings, on other rows."""

    def __call__(
        self,
        method: str,
        seed: int,
        view: FitView,
        *,
        budget: int | None = None,
        start: Adaptation | None = None,
    ) -> Refitted:
        """Fit; the work is booked on the question's ledger. Nothing is stored.

        Args:
            method: name of an entry.
            seed: of the fit.
            view: rows to fit and choose on.
            budget: token passes at most; None for as many as each fit of the run had.
            start: adaptation to go on from, or None.

        Raises:
            BudgetTooSmallError: the budget does not pay for it.
            DataError: the method needs more rows.
        """
        ...


class Serving(Protocol):
    """The engine of `tunewise serve`, handed in since a question knows no server."""

    def __call__(
        self, base: Base, adaptations: Mapping[str, Adaptation], slots: int, ledger: Ledger
    ) -> AbstractContextManager[Callable[[Sequence[tuple[str, str]]], float]]:
        """Gives, while its context lasts, what answers (name, input) pairs together.

        Args:
            base: the base.
            adaptations: by name.
            slots: rows that are answered at once.
            ledger: is charged.

        Returns:
            A function from pairs to the wall-clock seconds of answering them.

        Raises:
            InputError: the engine cannot carry the base; or, of what answers, one of the
                adaptations or rows. A row that fails raises its own error.
        """
        ...


@dataclass(frozen=True, slots=True)
class QuestionContext:
    """Everything a question is given beside its settings.

    Attributes:
        base: the base model; unchanged afterwards.
        view: the task with its training and validation rows.
        test: the test rows, which are open by now.
        data_check: what the data check found; JSON values.
        subjects: by entry, in the order in which they were fitted; of one entry the seed that is
            best on validation rows first.
        refit: fits again.
        serving: answers rows of several adaptations together.
        fit_budget: token passes that each fit of the run could spend.
        seeds: of the run.
        ledger: the question's part of the budget; work beyond it raises.
        pieces: what was done before the run was interrupted.
        report: is told (token passes done, token passes planned, text).
        planned: token passes the question is planned to take; 0 until it is known.
        watch: seconds spent, those of pieces that were done before included.
    """

    base: Base
    view: FitView
    test: tuple[Row, ...]
    data_check: Mapping[str, Any]
    subjects: Mapping[str, tuple[Subject, ...]]
    refit: Refit
    serving: Serving
    fit_budget: int
    seeds: tuple[int, ...]
    ledger: Ledger
    pieces: Pieces
    report: Callable[[int, int | None, str], None]
    planned: int = 0
    watch: Watch = field(default_factory=Watch)

    @property
    def spec(self) -> TaskSpec:
        """What is asked of the adaptations."""
        return self.view.spec

    def chosen(self) -> dict[str, Subject]:
        """Of every entry the seed that the comparison keeps."""
        return {name: fits[0] for name, fits in self.subjects.items()}

    def once(self, key: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A piece of work that is done once, even if the run is killed and goes on.

        Args:
            key: names the piece within this question and its settings.
            make: does the work and returns JSON values; not called where they are stored.

        Returns:
            What was made, now or before, with its work booked on the ledger.
        """
        stored = self.pieces.read(key)
        if stored is None:
            before, began = self.ledger.work(), time.perf_counter()
            content = dict(make())
            after = self.ledger.work()
            work = {
                "forward": after.forward_tokens - before.forward_tokens,
                "backward": after.backward_tokens - before.backward_tokens,
            }
            seconds = time.perf_counter() - began
            self.pieces.write(key, {"content": content, "work": work, "seconds": seconds})
        else:
            content = dict(stored["content"])
            self.ledger.charge(**stored["work"])
            self.watch.before += float(stored.get("seconds", 0.0))
        self.report(self.ledger.spent, self.planned, key)
        return content

    @contextmanager
    def predictor(self, adaptation: Adaptation) -> Iterator[Predictor]:
        """Answers with an adaptation while the context lasts, booked on the ledger.

        What stands before the rows is computed once, however many texts are answered.
        """
        with predictor_for(self.base, adaptation, self.ledger) as predictor:
            yield predictor

    def answered(
        self,
        predictor: Predictor,
        adaptation: Adaptation,
        rows: Sequence[Row],
        text: str = "",
    ) -> Measured:
        """Answer and score rows, JSON under its grammar only.

        Args:
            predictor: from `predictor`.
            adaptation: gives the readout.
            rows: at least one.
            text: what is going on, for the progress.
        """

        def told(done: int, total: int) -> None:
            self.report(self.ledger.spent, self.planned, text)

        spec, decoding = adaptation.spec, adaptation.decoding
        return measure_rows(predictor, rows, spec, decoding, told, free_too=False)


@runtime_checkable
class Question(Protocol):
    """The contract itself.

    Attributes:
        name: also the file's name.
        title: a heading of a few words.
        asks: what it asks, as one sentence that ends with a question mark.
        Settings: its settings class.
    """

    name: str
    title: str
    asks: str
    Settings: type[QuestionSettings]

    def inapplicable(self, context: QuestionContext) -> str:
        """Why it cannot be asked of this task and these adaptations; "" where it can."""
        ...

    def cost(self, context: QuestionContext, settings: Any) -> int:
        """Token passes it will take; `_work` counts them for answering.

        Args:
            context: as for `measure`; nothing may be done with it but looking and counting.
            settings: an instance of `Settings`.
        """
        ...

    def measure(self, context: QuestionContext, settings: Any) -> Answered:
        """Find the answer.

        Args:
            context: base, rows, adaptations, ledger.
            settings: an instance of `Settings`.

        Raises:
            BudgetExceededError: it takes more than a quarter more than was planned.
        """
        ...
