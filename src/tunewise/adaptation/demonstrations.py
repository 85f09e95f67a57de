"""Which training rows are shown as demonstrations: ways to pick them, every one seeded.

Nothing here calls the base: the losses that tell hard rows are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from tunewise.adaptation.context import FitContext
from tunewise.numerics.calibration import Floats
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row

# Of the rows whose loss is known, the hardest third counts as hard. The very hardest alone would
# be the wrongly labelled ones.
_HARD_SHARE = 1 / 3
# Picking by coverage compares all pairs of so many rows.
_COVERED_ROWS = 400
# The first is what a kind of demonstrations is judged by. Those that all rows share are computed
# once, and more of them tell more; the nearest cost their length with every row.
COUNTS = (8, 16, 4, 2)
NEAREST_COUNTS = (4, 2, 8, 16)


@dataclass(frozen=True, slots=True)
class Choice:
    """Demonstrations that a prompt may show.

    Attributes:
        kind: how they were picked.
        name: kind and number.
        prompt: they, without an instruction.
    """

    kind: str
    name: str
    prompt: PromptText


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows that demonstrations are picked from.

    Attributes:
        rows: training rows that are short enough.
        pool: those of them among which the nearest are found, in random order.
        scored: the first rows of the pool, as far as their loss is known.
        losses: (n,) loss of each of these.
    """

    rows: Sequence[Row]
    pool: Sequence[Row]
    scored: Sequence[Row] = ()
    losses: Floats | None = None


def choices(
    sources: Sources,
    random: np.random.Generator,
    *,
    count: int | None,
    pick: str | None,
    balance: bool,
) -> Iterator[Choice]:
    """Choices of demonstrations: every kind in one number, then in the next.

    Args:
        sources: rows to pick from.
        random: draws.
        count: how many to show; None for several numbers.
        pick: one of "balanced", "coverage", "hard", "random", "nearest"; None for all.
        balance: whether the answers are labels that can be balanced.
    """
    rows, pool = sources.rows, sources.pool
    for number, near in zip(
        COUNTS if count is None else (count,),
        NEAREST_COUNTS if count is None else (count,),
        strict=True,
    ):
        picked: dict[str, list[Row]] = {}
        if balance:
            picked["balanced"] = balanced_rows(rows, number, random)
        picked["coverage"] = covering_rows(pool[:_COVERED_ROWS], number, random)
        if sources.losses is not None:
            picked["hard"] = hard_rows(sources.scored, sources.losses, number, random)
        picked["random"] = random_rows(rows, number, random)
        found = [
            Choice(name, f"{name} {number}", PromptText("", demonstrations=shown(chosen)))
            for name, chosen in picked.items()
            if pick in (None, name) and len(chosen) == number
        ]
        if pick in (None, "nearest") and len(rows) >= near:
            prompt = PromptText("", pool=shown(pool), nearest=near)
            # Early: with many labels, or long answers, nothing else comes near it.
            found.insert(1, Choice("nearest", f"nearest {near}", prompt))
        yield from found


def showable_rows(context: FitContext, longest_tokens: int) -> list[Row]:
    """The training rows that are short enough to be shown; all of them where none is.

    Args:
        context: the fit.
        longest_tokens: tokens of a row at most.
    """
    renderer = Renderer(context.base.tokenizer, context.view.spec, context.starting_prompt())
    short = [
        row for row in context.view.train if len(renderer.row_tokens(row.input)) <= longest_tokens
    ]
    return short if short else list(context.view.train)


def random_rows(rows: Sequence[Row], count: int, random: np.random.Generator) -> list[Row]:
    """At most `count` rows, each as likely as any other, in random order."""
    chosen = random.choice(len(rows), size=min(count, len(rows)), replace=False)
    return [rows[int(index)] for index in chosen]


def balanced_rows(rows: Sequence[Row], count: int, random: np.random.Generator) -> list[Row]:
    """Labels in turn, in random order, so that no label comes twice before all came once."""
    by_label: dict[str, list[Row]] = {}
    for row in random_rows(rows, len(rows), random):
        by_label.setdefault(row.output, []).append(row)
    queues = [by_label[label] for label in sorted(by_label)]
    queues = [queues[int(index)] for index in random.permutation(len(queues))]
    chosen: list[Row] = []
    while len(chosen) < min(count, len(rows)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return [chosen[int(index)] for index in random.permutation(len(chosen))]


def covering_rows(rows: Sequence[Row], count: int, random: np.random.Generator) -> list[Row]:
    """Rows that stand for all others: every row should have one like it among them.

    Greedy facility location (Nemhauser et al. 1978) on the cosine of TF-IDF vectors: the sum over
    all rows of the similarity to the nearest chosen one grows as fast as it can. Where answers
    repeat, no answer comes twice before all came once.

    Args:
        rows: to choose from; time and memory grow with the square of their number.
        count: rows at most.
        random: orders what was chosen.
    """
    count = min(count, len(rows))
    similarity = _similarity([row.input for row in rows])
    repeat = len({row.output for row in rows}) * 2 <= len(rows)
    covered = np.zeros(len(rows))
    chosen: list[int] = []
    while len(chosen) < count:
        gain = np.maximum(similarity - covered, 0.0).sum(axis=1)
        gain[chosen] = -np.inf
        if repeat:
            gain[_barred(rows, chosen)] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        covered = np.maximum(covered, similarity[best])
    return [rows[chosen[int(place)]] for place in random.permutation(len(chosen))]


def hard_rows(
    rows: Sequence[Row], losses: Floats, count: int, random: np.random.Generator
) -> list[Row]:
    """Rows whose loss is high, labels in turn.

    Args:
        rows: rows that were scored.
        losses: (n,) loss of each.
        count: rows at most.
        random: draws among the hardest third, and more of them where that is too few.
    """
    order = np.lexsort((np.arange(len(rows)), -losses))
    hard = max(min(count, len(rows)), round(_HARD_SHARE * len(rows)))
    return balanced_rows([rows[int(index)] for index in order[:hard]], count, random)


def shown(rows: Sequence[Row]) -> tuple[Demonstration, ...]:
    """Rows as they stand in a prompt."""
    return tuple(Demonstration(row.input, row.output) for row in rows)


def _similarity(texts: Sequence[str]) -> Floats:
    if not any(text.strip() for text in texts):
        return np.eye(len(texts))
    # Punctuation and symbols are terms too, so that texts without letters have a vector.
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    matrix = vectorizer.fit_transform(texts)
    return np.asarray((matrix @ matrix.T).todense())


def _barred(rows: Sequence[Row], chosen: Sequence[int]) -> list[int]:
    """Rows not chosen whose answer was shown more often than another that is still to be had."""
    often = Counter(rows[index].output for index in chosen)
    free = [index for index in range(len(rows)) if index not in set(chosen)]
    least = min(often[rows[index].output] for index in free)
    return [index for index in free if often[rows[index].output] > least]
