"""A teacher for free: the base itself, with demonstrations in its prompt that its student lacks.

What it expects at the answers of training rows is computed once, its prompt once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts, standing_positions
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.demonstrations import balanced_rows, random_rows, showable_rows, shown
from tunewise.adaptation.judge import example, sample_rows
from tunewise.adaptation.parts import Part, text_replaced
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError
from tunewise.model.answers import Example, expectations, judged_positions
from tunewise.task.render import Renderer
from tunewise.task.types import Row

# Of what the budget leaves the teacher has so much at most; a row is learned from several times.
_SHARE = 0.25
# At the positions of an answer the base seldom gives all others together a hundredth.
_LIKELIEST = 64
_LONGEST_DEMONSTRATION = 192


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a teacher will be asked, before anything is computed.

    Attributes:
        teacher: the renderer with the demonstrations in its prompt.
        rows: training rows that are asked about, in their order.
        asked: the same rows as the teacher reads them.
        first: positions of the teacher's prompt, computed once.
        positions: of the rows.
    """

    teacher: Renderer
    rows: tuple[Row, ...]
    asked: tuple[Example, ...]
    first: int
    positions: int

    @property
    def head(self) -> int:
        """Positions through the output head."""
        return sum(len(each.answer) for each in self.asked)

    def examples(self, renderer: Renderer) -> tuple[Example, ...]:
        """The rows as the student reads them, nothing taught yet.

        Args:
            renderer: the student's.
        """
        return tuple(example(renderer, row) for row in self.rows)


def lesson(
    context: FitContext, renderer: Renderer, parts: Sequence[Part], demonstrations: int
) -> Lesson:
    """Which rows a teacher is asked about; nothing is run.

    The rows that the teacher is shown are left out: there it only repeats what it reads.

    Args:
        context: the fit; a share of what its ledger has left pays for the teacher.
        renderer: the student's.
        parts: of the start.
        demonstrations: that the teacher is shown, labels in turn where there are some.

    Raises:
        ConfigError: the teacher would not read them, or they do not fit the context.
        DataError: there are not so many rows to show.
        BudgetTooSmallError: a share of the budget does not pay for the teacher.
    """
    base, view = context.base, context.view
    told, rows = _rows(context, parts, demonstrations)
    prompt = replace(renderer.prompt, demonstrations=shown(told), pool=(), nearest=0)
    teacher = Renderer(base.tokenizer, view.spec, prompt)
    room = base.context_length - standing_positions(teacher, parts)
    asked = [example(teacher, row) for row in rows]
    fitting = [number for number, each in enumerate(asked) if len(each.inputs) < room]
    if not fitting:
        raise ConfigError(
            "the teacher's demonstrations do not fit the context",
            found=f"{demonstrations} demonstrations of {len(teacher.shared_tokens)} tokens",
            expected=f"fewer than {base.context_length} with a row",
            fix="fewer with --distill",
        )
    rows, asked = [rows[number] for number in fitting], [asked[number] for number in fitting]
    first = computed_positions(teacher, parts)
    count = _payable(context, first, asked)
    positions = judged_positions(base, asked[:count])
    return Lesson(teacher, tuple(rows[:count]), tuple(asked[:count]), first, positions)


def taught_examples(
    context: FitContext, renderer: Renderer, parts: Sequence[Part], demonstrations: int
) -> tuple[tuple[Example, ...], dict[str, Any]]:
    """Training rows as the student reads them, with what the teacher expects as their answers.

    Args:
        context: the fit; its ledger pays for the teacher.
        renderer: the student's.
        parts: of the start; those inside the model are attached.
        demonstrations: that the teacher is shown, labels in turn where there are some.

    Returns:
        The examples, and notes for the record.

    Raises:
        InputError: see `lesson`.
    """
    base, ledger, before = context.base, context.ledger, context.ledger.spent
    given = lesson(context, renderer, parts, demonstrations)
    ledger.charge(forward=given.first)
    prefix = lower_parts(base, given.teacher, parts)
    taught = expectations(base, prefix, given.asked, ledger, most=_LIKELIEST)
    examples = tuple(
        replace(each, taught=expected)
        for each, expected in zip(given.examples(renderer), taught, strict=True)
    )
    spent = ledger.spent - before
    notes = {"demonstrations": demonstrations, "rows": len(given.rows), "token_passes": spent}
    return examples, {"teacher": notes}


def _rows(
    context: FitContext, parts: Sequence[Part], demonstrations: int
) -> tuple[list[Row], list[Row]]:
    """The rows that are shown to the teacher, and those that it is asked about."""
    if text_replaced(parts):
        raise ConfigError(
            "a teacher's demonstrations would not be read",
            found="a start whose trained part stands in place of the prompt",
            expected="a start whose text is still read",
            fix="leave --distill out, or start from another",
        )
    train = context.view.train
    showable = showable_rows(context, _LONGEST_DEMONSTRATION)
    if demonstrations > len(showable) or demonstrations >= len(train):
        raise DataError(
            "a teacher needs more training rows",
            found=f"{len(showable)} that can be shown, of {len(train)}",
            expected=f"{demonstrations} to be shown and others to ask about",
            fix="fewer with --distill",
        )
    random = np.random.default_rng(context.seed)
    pick = balanced_rows if context.view.spec.labels else random_rows
    told = pick(showable, demonstrations, random)
    names = {row.id for row in told}
    left = [row for row in train if row.id not in names]
    return told, list(sample_rows(left, len(left), seed=context.seed, shuffled=True))


def _payable(context: FitContext, first: int, asked: Sequence[Example]) -> int:
    """How many rows the teacher's share of the budget pays for, its prompt counted.

    Raises:
        BudgetTooSmallError: not one.
    """
    remaining = context.ledger.remaining
    if remaining is None:
        return len(asked)
    room = int(_SHARE * remaining) - first
    count = len(asked)
    while count and judged_positions(context.base, asked[:count]) > room:
        count = count * 9 // 10
    if not count:
        raise BudgetTooSmallError(
            "a quarter of the budget does not pay for the teacher",
            found=f"{remaining} token passes left",
            expected=f"more than {4 * (first + judged_positions(context.base, asked[:1]))}",
            fix="raise --budget, or fewer demonstrations with --distill",
        )
    return count
