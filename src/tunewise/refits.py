"""Fits again, on other rows, as questions ask for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import clear_state
from tunewise.adaptation.store import fingerprint_of
from tunewise.jobs import Jobs
from tunewise.measure.questions._contract import Refitted
from tunewise.methods._registry import find_method
from tunewise.model.ledger import Ledger
from tunewise.steps import fit
from tunewise.task.task import hash_view
from tunewise.task.types import FitView


@dataclass(frozen=True, slots=True)
class Refits:
    """Fits on other rows, on the ledger of a question; see `Refit`.

    Attributes:
        jobs: fits of the run.
        ledger: of the question.
        checkpoints: folder for those of fits under way.
        report: is told token passes done, of how many, and a text.
        planned: token passes of the question.
    """

    jobs: Jobs
    ledger: Ledger
    checkpoints: Path
    report: Callable[[int, int | None, str], None]
    planned: int

    def __call__(
        self,
        method: str,
        seed: int,
        view: FitView,
        *,
        budget: int | None = None,
        start: Adaptation | None = None,
    ) -> Refitted:
        """See `Refit`."""
        jobs = self.jobs
        spent = jobs.budget if budget is None else budget
        task = replace(jobs.ground.task, fit_view=view, data_hash=hash_view(view))
        began_at = None if start is None else fingerprint_of(start)
        key = repr((method, seed, task.data_hash, spent, began_at))
        checkpoint = self.checkpoints / hashlib.sha256(key.encode()).hexdigest()[:16]
        fitted = fit(
            replace(jobs.ground, task=task),
            find_method(method),
            jobs.settings[method],
            seed=seed,
            budget=spent,
            checkpoint=checkpoint,
            start=start,
            report=lambda done, _, text: self.report(self.ledger.spent + done, self.planned, text),
        )
        work = fitted.adaptation.provenance.work
        forward, backward = work["forward_tokens"], work["backward_tokens"]
        self.ledger.charge(forward=forward, backward=backward)
        clear_state(checkpoint)
        return Refitted(
            fitted.adaptation,
            fitted.seconds,
            forward + backward,
            work["flops"],
            fitted.peak_bytes,
        )
