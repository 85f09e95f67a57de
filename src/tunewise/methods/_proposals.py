"""Instructions for `prompt_search` that a model proposes from failures on training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import Part
from tunewise.adaptation.readout import Readout, default_decoding
from tunewise.errors import BudgetExceededError
from tunewise.methods._settings.prompt_search import PromptSearchSettings
from tunewise.model.ledger import Ledger
from tunewise.propose._asking import asker_for
from tunewise.propose._contract import Brief, Outcome
from tunewise.propose._registry import find_proposer
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.score import score_row
from tunewise.task.types import Row

# Of the fit's budget, what finding failures and asking the base itself may take at most.
PROPOSALS_SHARE = 0.15
_ROWS = 24


def proposals(
    context: FitContext,
    settings: PromptSearchSettings,
    prompt: PromptText,
    others: Sequence[Part],
) -> tuple[list[str], dict[str, Any]]:
    """Instructions to try, and notes for the record.

    The proposer is given training rows only. What it costs of the base's own work is booked with
    the fit's ledger, an empty answer's too; an endpoint's tokens are recorded, since they are not
    the base's.

    Args:
        context: the fit.
        settings: of the search.
        prompt: the start; its instruction is what is to be improved.
        others: parts it stands with; those inside the model are attached.

    Raises:
        InputError: the model or the proposer is not known.
        UnavailableError: the model cannot be reached, or a package is missing.
    """
    if settings.proposer is None:
        return [], {}
    proposer = find_proposer(settings.propose_through)
    outer = context.ledger
    limit = None if outer.limit is None else int(PROPOSALS_SHARE * outer.limit)
    if limit is not None and outer.remaining is not None:
        limit = min(limit, outer.remaining)
    ledger = Ledger(outer.body_parameters, outer.head_parameters, limit)
    ask = asker_for(settings.proposer, context.base, ledger, context.seed)
    rows = _sample(context)

    def evaluate(instruction: str, asked: Sequence[Row]) -> list[Outcome]:
        tried = PromptText(instruction, slot=prompt.slot)
        return _outcomes(context, ledger, tried, others, asked)

    found: list[str] = []
    notes: dict[str, Any] = {"through": proposer.name}
    try:
        brief = Brief(
            context.view.spec, prompt.instruction, tuple(evaluate(prompt.instruction, rows))
        )
        notes |= {"training_rows": len(rows), "failures": len(brief.failures)}
        found = proposer.propose(brief, ask, evaluate, count=settings.proposals, seed=context.seed)
    except BudgetExceededError:
        notes["ended"] = "its share of the budget is used up"
    finally:
        outer.charge(
            forward=ledger.forward_tokens,
            backward=ledger.backward_tokens,
            head=ledger.head_passes,
        )
    notes |= ask.told() | {"token_passes": ledger.spent, "proposed": found}
    return found, {"proposer": notes}


def _sample(context: FitContext) -> tuple[Row, ...]:
    """Training rows that proposals are made from."""
    train = context.view.train
    order = np.random.default_rng(context.seed).permutation(len(train))[:_ROWS]
    return tuple(train[int(place)] for place in order)


def _outcomes(
    context: FitContext,
    ledger: Ledger,
    prompt: PromptText,
    others: Sequence[Part],
    rows: Sequence[Row],
) -> list[Outcome]:
    """How the base answers training rows behind a prompt.

    Raises:
        BudgetExceededError: the ledger does not cover it.
    """
    base, spec = context.base, context.view.spec
    renderer = Renderer(base.tokenizer, spec, prompt)
    ledger.charge(forward=computed_positions(renderer, others))
    readout = Readout(base, renderer, lower_parts(base, renderer, others), ledger)
    decoding = default_decoding(spec, renderer, context.view.train)
    answers = readout.answers([row.input for row in rows], decoding)
    return [
        Outcome(
            row,
            answer.text,
            0.0 if answer.text is None else score_row(spec.metric, answer.text, row, spec),
        )
        for row, answer in zip(rows, answers, strict=True)
    ]
