"""How a claim comes out, and what regret and a method beside itself are, on planted runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.claim_list import CLAIMS, all_equal, better, equal, longer, smaller
from benchmarks.claims import Told, outcome, page
from benchmarks.families import Figure, Run, few_steps, minus, page_runs
from benchmarks.odds import from_page
from benchmarks.stored import Stored, read
from tests.compare.planted import CONTEXT, SPEC, plant

from benchmarks import aa, regret
from tunewise.compare.table import build_comparison
from tunewise.measure.files import write_record

TRUTH = {"majority": 0.33, "tfidf": 0.7, "zero_shot": 0.6, "few_shot": 0.75, "soft_prompt": 0.85}
TRUTH |= {"prefix": 0.85, "lora": 0.93, "full": 0.93}
PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def told(low: float, high: float, few: int | None = None) -> Told:
    return Told("a", "run", "base", 50, 1000, (low + high) / 2, low, high, 300, few)


AYE, NO, OPEN = told(0.01, 0.05), told(-0.05, -0.01), told(-0.02, 0.02)
UNTRAINED = told(-0.05, -0.01, 2)


@pytest.mark.parametrize(
    ("figures", "comes_out"),
    [
        ([], "not measured"),
        ([AYE], "open"),
        ([AYE, AYE], "open"),
        ([AYE] * 3, "holds"),
        ([AYE] * 3 + [OPEN], "holds"),
        ([AYE] * 2 + [OPEN] * 2, "open"),
        ([NO] * 3, "fails"),
        ([NO] * 3 + [OPEN], "fails"),
        ([AYE, NO], "depends"),
        ([AYE] * 30 + [NO], "depends"),
        ([OPEN] * 9, "open"),
        ([told(0.0, 0.0)] * 3, "open"),
        ([UNTRAINED], "not measured"),
        ([AYE] * 3 + [UNTRAINED] * 9, "holds"),
    ],
)
def test_the_rule(figures: list[Told], comes_out: str) -> None:
    assert outcome(figures) == comes_out


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A planted run on disk, as a real one lies there."""
    return store(tmp_path / "reviews3-50", TRUTH)


def store(folder: Path, truth: dict[str, float], seeds: int = 1) -> Stored:
    records, rows = plant(truth, 300, seeds=seeds)
    folder.mkdir()
    made = build_comparison(SPEC, records, [], CONTEXT, rows).as_dict()
    (folder / "comparison.json").write_text(json.dumps(made), encoding="utf-8")
    for record in records:
        write_record(folder / "records" / f"{record.method}-seed{record.seed}.json", record)
    found = read(folder)
    assert found is not None
    return found


def as_run(run: Stored, rows: int = 1536) -> Run:
    return Run("planted", "tiny", rows, 1000, run.told)


def test_figures_are_the_pairs(stored: Stored) -> None:
    run = as_run(stored)
    found = better("weights", "text")(run)
    assert found is not None
    best = run.best("weights")
    assert best is not None
    assert found.value == pytest.approx(0.93 - 0.75, abs=0.005)
    turned = better("text", "weights")(run)
    assert turned == found.negative()
    assert better("text", "weights", most=100)(run) is None
    assert better("text", "weights", most=100)(as_run(stored, 50)) == turned
    assert better("text", "json")(run) is None


def test_counted_figures(stored: Stored) -> None:
    run = as_run(stored)
    size = smaller("virtual_tokens", "low_rank", 100)(run)
    assert size is not None
    assert size.value == pytest.approx(np.log10(9_800_000 / 48_000 / 100))
    assert size.low == size.high == size.value
    tokens = longer("searched", "weights")(run)
    assert tokens == Figure(312 - 27, 312 - 27, 312 - 27, 1)


def test_equal_is_shown_not_supposed(stored: Stored) -> None:
    run = as_run(stored)
    same = equal("low_rank", "weights_alone")(run)
    assert same is not None
    # 300 rows and one seed cannot show two methods within two points of each other.
    assert same.low < 0 < same.high <= 0.02
    unlike = all_equal(run)
    assert unlike is not None
    assert unlike.high < 0  # 93 against 85


def test_minus_joins_intervals_of_unlike_rows() -> None:
    found = minus(Figure(0.5, 0.4, 0.6, 100), Figure(0.2, 0.1, 0.4, 80))
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - np.hypot(0.1, 0.2))
    assert found.high == pytest.approx(0.3 + np.hypot(0.1, 0.1))
    assert found.n == 80


def test_every_claim_has_a_section_and_absent_figures_say_so() -> None:
    assert len(CLAIMS) >= 16
    text = "\n".join(page([]))
    assert all(claim.text in text for claim in CLAIMS)
    assert text.count("Not measured: ") == len(CLAIMS)


def test_figures_of_another_base_stand_apart() -> None:
    claim = CLAIMS[0].text
    ours = [replace(AYE, claim=claim, base="smollm2-135m", run=f"set {n}") for n in range(3)]
    theirs = [replace(NO, claim=claim, base="other-1b", run="set 0")]
    text = "\n".join(page([*ours, *theirs]))
    assert f"| 1 | {claim} | **holds** | 3 | 0 | 0 |" in text
    section = text.split(f"## 1. {claim}")[1].split("## 2.")[0]
    assert section.index("| for |") < section.index("On other-1b: **open**.")
    assert section.count("| set | rows to fit |") == 2
    assert section.count("| against |") == 1


def test_the_committed_page_is_what_the_kept_figures_give() -> None:
    root = Path(__file__).parents[2]
    kept = json.loads((root / "benchmarks" / "claims.json").read_text(encoding="utf-8"))
    names = {claim.text for claim in CLAIMS}
    found = [Told(**each) for each in kept if each["claim"] in names]
    written = (root / "docs" / "claims.md").read_text(encoding="utf-8")
    assert written == "\n".join(page(found)) + "\n"


def test_runs_of_the_page_are_read_whole() -> None:
    runs = {run.name: run for run in page_runs(PAGE)}
    assert {"reviews3", "financial_phrasebank", "demo"} <= set(runs)
    demo = runs["demo"]
    assert (demo.train_rows, demo.budget) == (895, 60_000)
    soft, shots = demo.best("virtual_tokens"), demo.best("demonstrations")
    assert soft is not None
    assert shots is not None
    assert soft["bytes_on_disk"] == 54_000
    assert demo.difference(soft, shots) == Figure(0.232, 0.184, 0.277, 482)
    measured = {run.name: run for run in from_page(PAGE)}
    assert measured["reviews3"].seeds == 3
    assert measured["demo"].seeds == 1
    assert measured["demo"].family_values()["kv_prefix"] == 0.873


def test_a_clear_winner_has_no_regret(stored: Stored) -> None:
    found = list(regret.regrets(stored))
    assert {each.profile for each in found} == set(regret.PROFILES)
    one, many = sorted(found, key=lambda each: each.profile != "one task")
    assert one.chosen in ("lora", "full")
    assert one.same_rows <= regret.POINT
    assert not one.shown
    # 200 low-rank changes and the base take more than 2 GB; soft prompts and prefixes do not.
    assert many.chosen in ("soft_prompt", "prefix")
    assert many.same_rows <= regret.POINT
    assert asdict(one)["test_rows"] == 300


def test_a_wrong_recommendation_is_shown(stored: Stored) -> None:
    judged = stored.comparison()
    wrong = replace(judged.recommendation, method="zero_shot")
    advised = replace(judged, recommendation=wrong)
    best, lost, shown = regret._lost(advised, judged, regret.PROFILES["one task"])
    assert best in ("lora", "full")
    assert lost == pytest.approx(0.33, abs=0.01)
    assert shown


def test_a_method_beside_itself(tmp_path: Path) -> None:
    run = store(tmp_path / "a", {"zero_shot": 0.6, "soft_prompt": 0.85, "lora": 0.9}, seeds=2)
    found = list(aa.comparisons("planted", run))
    assert [each.method for each in found] == ["soft_prompt", "lora"]
    assert all(each.tie for each in found)
    assert all(each.first == pytest.approx(each.second, abs=0.01) for each in found)


def test_a_fit_that_hardly_began_to_train_is_told_by_its_steps(stored: Stored) -> None:
    run = Run("reviews3", "base", 50, 1000, stored.told)
    lora, shots = run.best("low_rank"), run.best("text")
    assert lora is not None
    assert shots is not None
    for steps, few in ((2, 2), (15, 15), (16, None), (None, None)):
        begun = {**lora, "notes": {"steps": steps}}
        found = run.difference(begun, shots)
        assert found is not None
        assert found.few_steps == few
        turned = run.difference(shots, begun)
        assert turned is not None
        assert turned.few_steps == few
    assert few_steps(shots, {**shots, "notes": {"steps": 1}}) is None  # a prompt takes none
