"""A climb held against fitting everything, on planted runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.climbs import held_against, table
from benchmarks.stored import Stored
from tests.benchmarks.test_claims import TRUTH, store

from tunewise.climb import TRIALS
from tunewise.measure.records import FitRecord

REACHED = {name: TRUTH[name] for name in ("zero_shot", "few_shot", "soft_prompt")}


@pytest.fixture
def everything(tmp_path: Path) -> Stored:
    return store(tmp_path / "all", TRUTH)


@pytest.fixture
def climbed(tmp_path: Path) -> Stored:
    """A climb of three seeds with its fits and trials, as they lie in its folder."""
    run = store(tmp_path / "climb", REACHED, seeds=3)
    for record in run.records:
        put(run.folder / "fits", record, record.flops)
    put(run.folder / TRIALS / "fits", run.records[0], 12.0e9)
    return run


def put(folder: Path, record: FitRecord, flops: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{record.method}-seed{record.seed}"
    (folder / f"{name}.json").write_text(json.dumps({"flops": flops}), encoding="utf-8")
    # What a base's fit scored on validation rows lies beside it.
    (folder / f"{name}.validation.json").write_text('{"scores": [1.0]}', encoding="utf-8")


def test_what_is_lost_and_what_it_took(climbed: Stored, everything: Stored) -> None:
    found = held_against("reviews3-300", climbed, everything)
    assert (found.best, found.chosen) == ("lora", "soft_prompt")
    assert found.best_score == pytest.approx(0.93, abs=0.004)
    assert found.chosen_score == pytest.approx(0.85, abs=0.004)
    assert found.loss == pytest.approx(found.best_score - found.chosen_score)
    assert found.low < found.loss < found.high
    assert set(found.left_out) == {"majority", "tfidf", "prefix", "lora", "full"}
    # Everything with three seeds where a method has seeds; the climb's own as it is.
    one = {record.method: record.flops for record in everything.records}
    alone = {"majority", "tfidf", "zero_shot"}
    whole = sum(flops * (1 if name in alone else 3) for name, flops in one.items())
    took = sum(record.flops for record in climbed.records) + 12.0e9
    assert found.share == pytest.approx(took / whole)
    rows = list(table([found, replace(found, loss=0.0, other_rows=0.0, share=0.1)]))
    assert "| reviews3-300 | lora 93" in rows[2]
    assert rows[-1].startswith("| mean | | | ")


def test_chains_beside_everything_count_for_nothing(climbed: Stored, everything: Stored) -> None:
    chain = "prompt_search>prefix"
    record = replace(everything.records[-1], method=chain, flops=1e15)
    best = tuple(replace(each, score=1.0) for each in record.test)
    told = {
        **everything.told,
        "entries": [
            *everything.told["entries"],
            {**everything.told["entries"][-1], "method": chain, "fit": {"flops": 1e15}},
        ],
    }
    records = (*everything.records, replace(record, test=best))
    more = replace(everything, told=told, records=records)
    assert held_against("x", climbed, more) == held_against("x", climbed, everything)


def test_the_best_of_many_is_judged_on_rows_that_did_not_choose_it(tmp_path: Path) -> None:
    """Nine equal entries: the highest of them is luck, which other rows do not repeat."""
    same, other = [], []
    for number in range(6):
        whole = store(tmp_path / f"all{number}", dict.fromkeys(TRUTH, 0.6))
        random = np.random.default_rng(number)
        records = tuple(
            replace(
                record,
                test=tuple(
                    replace(each, score=float(random.random() < 0.6)) for each in record.test
                ),
            )
            for record in whole.records
        )
        whole = replace(whole, records=records)
        climbed = replace(whole, records=records[:1])
        (whole.folder / "fits").mkdir()
        found = held_against("reviews3-300", climbed, whole)
        same.append(found.loss)
        other.append(found.other_rows)
    assert np.mean(same) > 0.02
    assert abs(np.mean(other)) < np.mean(same) / 2


def test_runs_on_other_rows_are_not_paired(climbed: Stored, everything: Stored) -> None:
    shifted = tuple(
        replace(record, test=tuple(replace(each, id=f"x{each.id}") for each in record.test))
        for record in everything.records
    )
    with pytest.raises(ValueError, match="other test rows"):
        held_against("reviews3-300", climbed, replace(everything, records=shifted))
