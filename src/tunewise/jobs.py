"""The fits of one run: each is fitted, stored and measured once, in the run's folder.

    adaptations/NAME   what a fit found        fits/NAME.json      what it cost, written last
                                               records/NAME.json   its answers to all rows

A fit is there once its facts are; whoever asks for it again is given what is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import clear_state
from tunewise.adaptation.store import folder_bytes, load, save
from tunewise.errors import BudgetTooSmallError, RunError
from tunewise.measure.accuracy import Measured
from tunewise.measure.files import (
    read_json,
    read_record,
    read_results,
    write_json,
    write_record,
    write_results,
)
from tunewise.measure.records import FitRecord
from tunewise.methods._contract import Method
from tunewise.methods._settings._composed import ARROW, PLUS
from tunewise.numerics.intervals import Floats
from tunewise.steps import Ground, Reporter, fit, fit_facts, measure
from tunewise.task.types import Row, clusters_of

Job: TypeAlias = tuple[Method, int]
_FITS, _RECORDS, _CHECKPOINTS = "fits", "records", "checkpoints"
_JUDGED = ".validation.json"
# The facts of a fit that its record repeats.
_REPEATED = (
    "seconds",
    "forward_tokens",
    "backward_tokens",
    "flops",
    "peak_bytes",
    "trainable_parameters",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one fit is kept."""

    folder: Path
    facts: Path
    checkpoint: Path

    @property
    def scores(self) -> Path:
        """Where its answers to the validation rows are kept, once a climb asked for them."""
        return self.facts.with_suffix(_JUDGED)

    def told(self) -> dict[str, Any]:
        """Its facts.

        Raises:
            RunError: they are gone.
        """
        facts = read_json(self.facts)
        if facts is None:
            raise RunError("the facts of a fit are gone", found=str(self.facts), fix="run again")
        return facts

    @property
    def is_there(self) -> bool:
        """Whether the fit is done: the facts are written last."""
        return self.folder.exists() and read_json(self.facts) is not None


@dataclass(frozen=True, slots=True)
class Jobs:
    """Fits and measures one method with one seed at a time.

    Attributes:
        ground: base and task.
        settings: instances of the methods' `Settings`, by method.
        budget: token passes per fit.
        out: folder of the run.
        reporter: is told how far the run is.
    """

    ground: Ground
    settings: Mapping[str, Any]
    budget: int
    out: Path
    reporter: Reporter

    def is_fitted(self, method: Method, seed: int) -> bool:
        """Whether the fit is there."""
        return self._place(method, seed).is_there

    def fit(self, method: Method, seed: int, *, start: Adaptation | None = None) -> None:
        """Fit with the whole budget, and store.

        Args:
            method, seed: what to fit.
            start: adaptation to start from, or None.

        Raises:
            BudgetTooSmallError: the budget does not pay for it.
        """
        place = self._place(method, seed)
        if place.is_there:
            return
        try:
            fitted = fit(
                self.ground,
                method,
                self.settings[method.name],
                seed=seed,
                budget=self.budget,
                checkpoint=place.checkpoint,
                start=start,
                report=self.reporter.work,
            )
        except BudgetTooSmallError:
            clear_state(place.checkpoint)
            raise
        save(fitted.adaptation, place.folder)
        # A fit that is given a start may have found a better one in the plain instruction.
        taken = start if fitted.adaptation.provenance.start is not None else None
        began_at = None if taken is None else taken.provenance.method
        write_json(place.facts, fit_facts(fitted) | {"began_at": began_at})
        clear_state(place.checkpoint)

    def found(self, method: Method, seed: int) -> Adaptation:
        """What the fit found."""
        return self._load(self._place(method, seed))

    def steps(self, method: Method, seed: int) -> int | None:
        """Optimizer steps of a fit, or None where it has none."""
        return self.found(method, seed).provenance.notes.get("steps")

    def validated(self, method: Method, seed: int, counted: tuple[int, int]) -> Floats:
        """Scores on all validation rows of what a fit found; stored.

        Args:
            method, seed: which fit.
            counted: for the reporter: the number of this piece of work, and of how many.

        Returns:
            (n,), 0 to 1.
        """
        place = self._place(method, seed)
        results = read_results(place.scores)
        if results is None:
            self.reporter.begin(f"judging {method.name}, seed {seed}", *counted, unit="rows")
            judged = self._judge(self._load(place))
            seconds = judged.milliseconds_per_row * len(judged.results) / 1000
            results = judged.results
            write_results(place.scores, results, seconds)
        return np.array([result.score for result in results], dtype=np.float64)

    def clusters(self) -> list[str] | None:
        """(n,) group of each of the rows that `validated` scores, see `clusters_of`."""
        return clusters_of(self.ground.task.fit_view.validation)

    def is_validated(self, method: Method, seed: int) -> bool:
        """Whether `validated` has its scores already, and needs what was found no more."""
        return read_results(self._place(method, seed).scores) is not None

    def drop(self, method: Method, seed: int) -> None:
        """Remove what a fit found, where it was only tried: it may be as large as the base."""
        shutil.rmtree(self._place(method, seed).folder, ignore_errors=True)

    def all_fitted(self) -> None:
        """Every fit clears its own checkpoint; the folder that held them goes once it is empty."""
        with suppress(OSError):
            (self.out / _CHECKPOINTS).rmdir()

    def seconds(self) -> float:
        """That all fits and answers took which are stored, whatever process made them."""
        told = [read_json(path) for path in (self.out / _FITS).glob("*.json")]
        found = sum(float(each.get("seconds", 0.0)) for each in told if each is not None)
        for path in (self.out / _RECORDS).glob("*.json"):
            record = read_record(path)
            if record is not None:
                # What a climb judged is counted with its answers.
                judged = (self.out / _FITS / f"{path.stem}{_JUDGED}").exists()
                answered = len(record.test) + (0 if judged else len(record.validation))
                found += record.milliseconds_per_row * answered / 1000
        return found

    def record(self, method: Method, seed: int) -> FitRecord | None:
        """The record of a fit that is measured, or None."""
        return read_record(self._record(method, seed))

    def measure(self, method: Method, seed: int, rows: Sequence[Row]) -> FitRecord:
        """Answer the test rows and the validation rows, and store the record.

        Args:
            method, seed: which fit.
            rows: the test rows.
        """
        ground, place = self.ground, self._place(method, seed)
        adaptation = self._load(place)
        test = measure(ground.base, adaptation, rows, self.reporter)
        judged = read_results(place.scores)
        facts = place.told()
        record = FitRecord(
            method=method.name,
            seed=seed,
            parts=adaptation.kinds,
            adaptation=place.folder.relative_to(self.out).as_posix(),
            settings=dict(adaptation.provenance.settings),
            notes=dict(adaptation.provenance.notes) | {"began_at": facts["began_at"]},
            test=test.results,
            validation=self._judge(adaptation).results if judged is None else judged,
            bytes_on_disk=folder_bytes(place.folder),
            prompt_tokens_per_request=test.prompt_tokens_per_request,
            milliseconds_per_row=test.milliseconds_per_row,
            curve=tuple(facts["curve"]),
            **{name: facts[name] for name in _REPEATED},
        )
        write_record(self._record(method, seed), record)
        return record

    def _judge(self, adaptation: Adaptation) -> Measured:
        """Answers to the validation rows; nothing is asked of them without a grammar."""
        rows = self.ground.task.fit_view.validation
        return measure(self.ground.base, adaptation, rows, self.reporter, free_too=False)

    def _place(self, method: Method, seed: int) -> _Place:
        name = _name(method, seed)
        return _Place(
            self.out / "adaptations" / name,
            self.out / _FITS / f"{name}.json",
            self.out / _CHECKPOINTS / name,
        )

    def _record(self, method: Method, seed: int) -> Path:
        return self.out / _RECORDS / f"{_name(method, seed)}.json"

    def _load(self, place: _Place) -> Adaptation:
        return load(place.folder, base_fingerprint=self.ground.base.fingerprint)


def _name(method: Method, seed: int) -> str:
    """Arrow and plus are no letters of a file's name or an address everywhere."""
    name = method.name.replace(ARROW, "-then-").replace(PLUS, "-and-")
    return f"{name}-seed{seed}"
