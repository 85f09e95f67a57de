"""Where a trained method begins: at a searched prompt, or at the task's plain instruction.

A better prompt is not always the better start (docs/log.md): a plain instruction that names the
labels leaves more to learn. So both are judged before anything is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Verdict, sample_rows
from tunewise.adaptation.plan import BATCH_SIZES
from tunewise.errors import BudgetTooSmallError
from tunewise.methods._contract import Method
from tunewise.methods._settings._training import TrainingSettings
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.numerics.racing import paired_error
from tunewise.task.types import clusters_of

# Closer than so many standard errors, two starts cannot be told apart before they are trained.
_NOISE = 2.0
# A trial ends where the rise of the learning rate has; both together take a quarter of the budget.
_TRIAL_STEPS = 8
_TRIAL_SHARE = 0.125
# Of the budget, what judging both starts may take before fewer rows are judged, and rows below
# which they tell too little: on a small budget they would take what is there for steps.
_JUDGING_SHARE = 0.1
_FEWEST_JUDGED = 32
# Fewer steps hardly train, as the climb has it; of so many rows where the size is not given. A step
# that is dearer by less than so much makes no difference.
_FEW_STEPS, _STEP_ROWS, _DEARER = 16, 8, 1.25


class EitherStart:
    """A trained method that is given a searched prompt and may begin at the plain instruction.

    Step 0 of both is judged on the validation rows of a judgement, fewer on a small budget, and the
    lower loss is taken; what is then trained is judged on no more. Where they are within the
    noise of each other a few steps from each decide, if an eighth of the budget pays for either.
    Behind examples that make steps so dear that few are left nothing would be learned: then it
    begins at the instruction, whatever both lose. It never ends below the given start: where
    training from the instruction does not come up to it, the given start itself is what was found.

    Args:
        method: one that trains, with the settings of a training.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.name, self.summary = method.name, method.summary
        self.produces, self.needs, self.Settings = method.produces, method.needs, method.Settings

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        """See `Method.fit`."""
        given = context.start
        if given is None or given.kinds != ("prompt_text",):
            return self.method.fit(context, settings)
        plain = replace(context, start=None)
        if context.starting_prompt() == plain.starting_prompt():
            return self.method.fit(context, settings)  # a search came home with the instruction
        judged = _judged(context, plain, settings)
        if judged is None:
            return self.method.fit(context, settings)
        searched, instruction = judged
        settings = settings.model_copy(update={"validation_rows": len(searched.rows)})
        ahead = searched.losses() - instruction.losses()
        error = paired_error(ahead, clusters_of(searched.rows))
        within = abs(float(ahead.mean())) <= _NOISE * error
        told: dict[str, Any] = {
            "given": float(searched.losses().mean()),
            "instruction": float(instruction.losses().mean()),
        }
        dear = _too_dear(searched, instruction, context.ledger.remaining, settings)
        trials = self._trials(context, plain, settings) if within and not dear else None
        if trials is None:
            takes_plain = dear or float(ahead.mean()) > 0
        else:
            told["trials"] = {"given": trials[0], "instruction": trials[1]}
            takes_plain = trials[1] < trials[0]
        told["taken"] = "instruction" if takes_plain else "given"
        if dear:
            told["taken"] = "instruction, as few steps are paid for behind the given prompt"
        found = self.method.fit(plain if takes_plain else context, settings)
        if takes_plain and _below(found, searched.verdict()):
            told["taken"] = "given, which training from the instruction did not come up to"
            decoding = searched.verdict().decoding
            found = context.finish(self.name, settings, context.starting_parts(), decoding)
        notes = dict(found.provenance.notes) | {"starts": told}
        return replace(found, provenance=replace(found.provenance, notes=notes))

    def _trials(
        self, context: FitContext, plain: FitContext, settings: TrainingSettings
    ) -> tuple[float, float] | None:
        """Validation losses a few steps from either start; None where they are too dear."""
        ledger = context.ledger
        share = None if ledger.remaining is None else int(_TRIAL_SHARE * ledger.remaining)
        short = {"steps": _TRIAL_STEPS, "judgements": 1}
        rows = max(_FEWEST_JUDGED, settings.validation_rows // 2)
        asked = settings.batch_size is not None or settings.steps is not None
        for batch_size in (settings.batch_size,) if asked else BATCH_SIZES:
            update = short | {"validation_rows": rows, "batch_size": batch_size}
            losses = self._tried(context, plain, settings.model_copy(update=update), share)
            if losses is not None:
                return losses
        return None

    def _tried(
        self, context: FitContext, plain: FitContext, trial: TrainingSettings, share: int | None
    ) -> tuple[float, float] | None:
        """The same, with steps of one size, for so many of the ledger's token passes each."""
        ledger = context.ledger
        losses: list[float] = []
        for start in (context, plain):
            own = Ledger(ledger.body_parameters, ledger.head_parameters, share)
            log = FitLog(report=context.log.report)
            # A trial begins anew where a fit goes on: it is short, and ends with the same numbers.
            inner = replace(start, ledger=own, log=log, checkpoint_folder=None)
            try:
                notes = self.method.fit(inner, trial).provenance.notes
            except BudgetTooSmallError:
                notes = None
            ledger.charge(
                forward=own.forward_tokens, backward=own.backward_tokens, head=own.head_passes
            )
            if notes is None:
                return None
            losses.append(notes["validation"][-1]["loss"])
        return losses[0], losses[1]


def _judged(
    context: FitContext, plain: FitContext, settings: TrainingSettings
) -> tuple[Contestant, Contestant] | None:
    """Both starts on the rows that the training will be judged on; None where that is too dear."""
    both = _both(context, plain, settings.validation_rows)
    count, ledger = len(both[0].rows), context.ledger
    wanted, remaining = sum(one.cost(count) for one in both), ledger.remaining
    if remaining is not None and wanted > _JUDGING_SHARE * remaining:
        fewer = max(_FEWEST_JUDGED, int(count * _JUDGING_SHARE * remaining / wanted))
        both = _both(context, plain, min(count, fewer))
        count = len(both[0].rows)
    if not all(one.fits for one in both):
        return None
    if not ledger.covers(sum(one.cost(count) for one in both)):
        return None
    for one in both:
        one.extend(count)
        one.release()
    return both


def _both(context: FitContext, plain: FitContext, most: int) -> tuple[Contestant, Contestant]:
    rows = sample_rows(context.view.validation, most, seed=context.seed)
    return (
        Contestant(context, "given", context.starting_prompt(), (), rows),
        Contestant(plain, "instruction", plain.starting_prompt(), (), rows),
    )


def _too_dear(
    given: Contestant, instruction: Contestant, remaining: int | None, settings: TrainingSettings
) -> bool:
    """Whether steps behind the given prompt are few, and dearer than behind the instruction."""
    size = _STEP_ROWS if settings.batch_size is None else settings.batch_size
    behind, plain = (one.standing + size * one.row_cost for one in (given, instruction))
    # There and back.
    few = remaining is not None and remaining < _FEW_STEPS * 2 * behind
    return few and settings.steps is None and behind > _DEARER * plain


def _below(found: Adaptation, start: Verdict) -> bool:
    notes = found.provenance.notes
    best = next(each for each in notes["validation"] if each.get("step") == notes["best_step"])
    fewer = best["metric"] is not None and best["metric"] < start.metric
    return bool(fewer or not best["loss"] <= start.loss)
