"""What a plan says: plain records, free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tunewise.measure.records import SkippedMethod
from tunewise.model.ledger import UNIT


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What one fit will cost.

    Attributes:
        method: the method's name.
        seed: of the fit.
        forward_tokens, backward_tokens: as the ledger counts them.
        flops: floating-point operations of the fit.
        at_most: whether the work is a ceiling: a search stops where it stops.
        fit_seconds: in the base; what never calls it counts words for a second or two.
        measure_seconds: in the base, for answering test and validation rows.
        peak_bytes: highest resident memory of the process during the fit.
        trial: whether it is a climb's trial, which answers validation rows only.
    """

    method: str
    seed: int
    forward_tokens: int
    backward_tokens: int
    flops: int
    at_most: bool
    fit_seconds: float
    measure_seconds: float
    peak_bytes: int
    trial: bool = False

    @property
    def token_passes(self) -> int:
        """The unit of the budget."""
        return self.forward_tokens + self.backward_tokens

    @property
    def seconds(self) -> float:
        """Of the fit and of answering."""
        return self.fit_seconds + self.measure_seconds


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will cost.

    Attributes:
        jobs: one per fit, in the order they run.
        skipped: methods that would be left out, and why.
        budget: token passes per fit.
        calibration_seconds: how long timing this machine took.
        questions_passes: token passes that the questions behind the comparison take at most.
        questions_seconds: what so many passes take.
        questions_cut: whether some of the questions would take the run past its time, and so are
            not counted: they are left out.
        guessed: whether these two are no limit but a guess, by the shares that questions have:
            those that are named count their work once the fits are there.
        climbs: whether the jobs are the most that a climb makes, and not what it will make.
        data_warnings: what the data check warns of, in sentences.
    """

    jobs: tuple[JobPlan, ...]
    skipped: tuple[SkippedMethod, ...]
    budget: int
    calibration_seconds: float
    questions_passes: int = 0
    questions_seconds: float = 0.0
    guessed: bool = False
    questions_cut: bool = False
    climbs: bool = False
    data_warnings: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, float]:
        """Token passes, operations and seconds of all jobs, and the highest memory of any."""
        return {
            "token_passes": sum(job.token_passes for job in self.jobs),
            "flops": sum(job.flops for job in self.jobs),
            "fit_seconds": sum(job.fit_seconds for job in self.jobs),
            "measure_seconds": sum(job.measure_seconds for job in self.jobs),
            "peak_bytes": max((job.peak_bytes for job in self.jobs), default=0),
        }

    @property
    def seconds(self) -> float:
        """What all of it takes."""
        totals = self.totals
        return totals["fit_seconds"] + totals["measure_seconds"] + self.questions_seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "budget": {"unit": UNIT, "per_method": self.budget},
            "calibration_seconds": self.calibration_seconds,
            "jobs": [{**asdict(job), "token_passes": job.token_passes} for job in self.jobs],
            "skipped": [asdict(one) for one in self.skipped],
            "totals": self.totals,
            "at_most": self.climbs,
            "data_warnings": list(self.data_warnings),
            "questions": {
                "at_most_token_passes": self.questions_passes,
                "seconds": self.questions_seconds,
                "guessed": self.guessed,
                "cut": self.questions_cut,
            },
        }
