"""Which rows are shown: each way to pick against what it promises, by plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.laws.fitting import base_of, context_of, planted_rows, planted_view

from tunewise.adaptation.demonstrations import (
    Sources,
    balanced_rows,
    choices,
    covering_rows,
    hard_rows,
    random_rows,
    showable_rows,
    shown,
)
from tunewise.task.render import Renderer
from tunewise.task.types import Row

ROWS = planted_rows(30, seed=0, prefix="t")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows_of(*pairs: tuple[str, str]) -> tuple[Row, ...]:
    return tuple(Row(f"r{i}", given, wanted, (wanted,)) for i, (given, wanted) in enumerate(pairs))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 30, 99])
def test_every_pick_gives_so_many_rows_each_once(count: int) -> None:
    losses = np.arange(30.0)
    for chosen in (
        random_rows(ROWS, count, generator()),
        balanced_rows(ROWS, count, generator()),
        covering_rows(ROWS, count, generator()),
        hard_rows(ROWS, losses, count, generator()),
    ):
        assert len(chosen) == min(count, 30)
        assert len({row.id for row in chosen}) == len(chosen)
        assert {row.id for row in chosen} <= {row.id for row in ROWS}


def test_the_same_seed_picks_the_same() -> None:
    for pick in (random_rows, balanced_rows, covering_rows):
        assert pick(ROWS, 5, generator(3)) == pick(ROWS, 5, generator(3))
    assert random_rows(ROWS, 5, generator(3)) != random_rows(ROWS, 5, generator(4))


def test_labels_come_in_turn_even_where_one_is_rare() -> None:
    rows = rows_of(*[(f"x{i}", "many") for i in range(20)], ("y", "rare"), ("z", "two"))
    for pick in (balanced_rows, covering_rows):
        counts = Counter(row.output for row in pick(rows, 5, generator()))
        assert counts == {"many": 3, "rare": 1, "two": 1}


def test_coverage_takes_one_of_every_cluster() -> None:
    texts = ["red apple tree", "blue sea wave", "old grey stone"]
    rows = rows_of(*[(f"{text} {i}", f"answer {i} {text}") for text in texts for i in range(5)])
    chosen = covering_rows(rows, 3, generator())
    assert {row.input.split()[0] for row in chosen} == {"red", "blue", "old"}
    assert len(covering_rows(rows_of(("", "a"), ("", "b"), (" ", "a")), 2, generator())) == 2


def test_hard_rows_come_from_the_hardest_third() -> None:
    losses = generator(1).normal(size=30)
    hardest = {ROWS[i].id for i in sorted(range(30), key=lambda i: -losses[i])[:10]}
    chosen = hard_rows(ROWS, losses, 4, generator())
    assert {row.id for row in chosen} <= hardest
    many = hard_rows(ROWS, losses, 20, generator())
    assert {row.id for row in many} == {
        ROWS[i].id for i in sorted(range(30), key=lambda i: -losses[i])[:20]
    }


def test_long_rows_are_not_shown_unless_all_are_long() -> None:
    context = context_of(base_of(), planted_view())
    train, prompt = context.view.train, context.starting_prompt()
    renderer = Renderer(context.base.tokenizer, context.view.spec, prompt)
    lengths = [len(renderer.row_tokens(row.input)) for row in train]
    middle = sorted(lengths)[len(lengths) // 2]
    wanted = [row for row, length in zip(train, lengths, strict=True) if length <= middle]
    assert len(wanted) < len(train)
    assert showable_rows(context, middle) == wanted
    assert showable_rows(context, max(lengths)) == list(train)
    assert showable_rows(context, 1) == list(train)
    assert [each.input for each in shown(wanted)] == [row.input for row in wanted]


@pytest.mark.parametrize("pick", [None, "balanced", "coverage", "hard", "random", "nearest"])
@pytest.mark.parametrize("count", [None, 2, 31])
def test_choices_are_named_and_have_no_instruction(pick: str | None, count: int | None) -> None:
    sources = Sources(ROWS, ROWS[:20], ROWS[:10], np.arange(10.0))
    found = list(choices(sources, generator(), count=count, pick=pick, balance=True))
    assert len({each.name for each in found}) == len(found)
    for each in found:
        prompt, (kind, number) = each.prompt, each.name.split()
        assert each.kind == kind
        assert pick in (None, kind)
        assert count in (None, int(number))
        assert prompt.instruction == ""
        assert int(number) == len(prompt.demonstrations) + prompt.nearest
        assert len(prompt.pool) == (20 if kind == "nearest" else 0)
    assert bool(found) == (count != 31)
    if pick is None and count is None:
        # Ten scored rows cannot give sixteen hard ones.
        assert len(found) == 5 * 4 - 1


def test_without_labels_and_losses_nothing_is_balanced_or_hard() -> None:
    found = choices(Sources(ROWS, ROWS), generator(), count=2, pick=None, balance=False)
    assert [each.name for each in found] == ["coverage 2", "nearest 2", "random 2"]
