"""The contract of questions: found in the folder, asked once, on their budget, gone on with."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.architecture.source import SOURCE
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.questions.running import Run, Told, Toy, toys

from tunewise import discovery
from tunewise.adaptation import reader as reader_module
from tunewise.errors import ConfigError, DataError, RunError, UnknownNameError
from tunewise.measure.evidence import (
    Answered,
    Evidence,
    Measurement,
    Picture,
    Point,
    TextTable,
    absent,
    evidence_from,
)
from tunewise.measure.pieces import Pieces
from tunewise.measure.questions._contract import QuestionSettings
from tunewise.measure.questions._registry import QUESTIONS, question_settings
from tunewise.model.checksum import weights_checksum

FOLDER = SOURCE / "tunewise" / "measure" / "questions"


def test_every_file_is_a_question_of_its_own_name() -> None:
    files = {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert files
    assert files <= set(QUESTIONS.discover())


def test_every_question_says_what_it_is() -> None:
    for name, question in QUESTIONS.discover().items():
        assert question.name == name
        assert question.title
        assert question.asks.endswith("?")
        assert "\n" not in question.asks
        assert issubclass(question.Settings, QuestionSettings)
        assert question.Settings.model_config.get("frozen")
        for field, info in question.Settings.model_fields.items():
            assert info.description, f"{name}.{field}"
            assert "\n" not in info.description
            assert not info.is_required()


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(load=Toy, value="somewhere:QUESTION")
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point])
    assert QUESTIONS.find("toy").asks == "does it work?"
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point, point])
    with pytest.raises(ConfigError, match="share a name"):
        QUESTIONS.discover()


def test_what_is_no_question_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(load=object, value="somewhere:QUESTION")
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point])
    with pytest.raises(ConfigError, match="does not hold one"):
        QUESTIONS.discover()


def test_bad_names_and_settings() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cost_to_fit'"):
        QUESTIONS.find("cost_fit")
    question = QUESTIONS.find("cost_to_fit")
    with pytest.raises(UnknownNameError, match="did you mean 'price_per_hour'"):
        question_settings(question, {"price_hour": 1})
    with pytest.raises(ConfigError, match=r"(?s)price_per_hour = -1.*watts = 0"):
        question_settings(question, {"price_per_hour": -1, "watts": 0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Measurement("x", "", "score", value, 1, "counted")


def test_a_figure_has_a_value_or_a_reason() -> None:
    assert absent("x", "lora", "score", "no rows", n=3).absent == "no rows"
    with pytest.raises(ValueError, match="either"):
        Measurement("x", "", "score", None, 1, "counted")
    with pytest.raises(ValueError, match="either"):
        Measurement("x", "", "score", 0.0, 1, "counted", absent="none")


def test_evidence_comes_back_from_json_as_it_was() -> None:
    given = Evidence(
        "toy",
        "Toy",
        "does it?",
        Answered(
            (
                Measurement("x", "a", "score", 0.5, 3, "counted", 0.1, 0.9, True, 1, (0, 1), "b"),
                Measurement("x", "a", "score", 0.5, 3, "counted", part={"label": "no"}),
                absent("y", "a", "score", "none to be had"),
            ),
            ("it does",),
            (Picture("p", "dots", "x", "y", (Point("a", 1.0, None, 2.0, None, "g"),)),),
            (TextTable("t", ("one", "two"), (("1", "2"),)),),
        ),
        settings={"a": [1]},
        planned_passes=3,
        work={"flops": 1},
        seconds=0.5,
    )
    again = evidence_from(json.loads(json.dumps(asdict(given))))
    assert again == given
    assert again.find("x", "a", label="no") == given.answered.measurements[1]
    assert again.find("x", "b") is None


def test_an_answer_is_stored_and_not_asked_for_again(small_run: Run, tmp_path: Path) -> None:
    toy = Toy()
    asking = small_run.asking(tmp_path)
    (first,) = asking.ask(toys(toy), None)
    assert toy.made == ["first", "second"]
    assert first.work["forward_tokens"] == 100
    assert first.answered.findings == ("it works",)
    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == ["toy.json"]
    (second,) = asking.ask(toys(toy), None)
    assert toy.made == ["first", "second"]
    assert second == first


def test_a_killed_question_goes_on_behind_its_last_piece(small_run: Run, tmp_path: Path) -> None:
    toy = Toy()
    toy.fails = KeyboardInterrupt()  # type: ignore[assignment]  # what a killed process leaves
    with pytest.raises(KeyboardInterrupt):
        small_run.asking(tmp_path).ask(toys(toy), None)
    assert toy.made == ["first"]
    toy.fails = None
    (found,) = small_run.asking(tmp_path).ask(toys(toy), None)
    assert toy.made == ["first", "second"]
    assert found.work["forward_tokens"] == 100  # the piece of before is booked too
    assert not (tmp_path / "evidence" / "toy").exists()


def test_pieces_of_something_else_are_passed_over(tmp_path: Path) -> None:
    Pieces(tmp_path, "one").write("key", {"a": 1})
    assert Pieces(tmp_path, "one").read("key") == {"a": 1}
    assert Pieces(tmp_path, "two").read("key") is None
    assert Pieces(tmp_path, "one").read("other") is None
    assert Pieces(None).read("key") is None
    Pieces(None).write("key", {"a": 1})
    next(tmp_path.iterdir()).write_text("{half", encoding="utf-8")
    assert Pieces(tmp_path, "one").read("key") is None


def test_what_costs_more_than_is_allowed_is_left_out_and_says_so(
    small_run: Run, tmp_path: Path
) -> None:
    cheap, dear, late = Toy(10), Toy(1000), Toy(50)
    dear.name, late.name = "dear", "late"
    found = small_run.asking(tmp_path).ask(toys(dear, late, cheap), 60)
    assert [each.question for each in found] == ["toy", "late", "dear"]
    assert [bool(each.absent) for each in found] == [False, False, True]
    assert "1,000 token passes, and 0 are left" in found[2].absent
    assert "--questions dear" in found[2].absent


def test_in_a_time_is_asked_what_it_pays_for(small_run: Run, tmp_path: Path) -> None:
    cheap, dear, free = Toy(10), Toy(1000), Toy(0)
    dear.name, free.name = "dear", "free"
    asking = small_run.asking(tmp_path)
    pace = asking._pace()
    assert pace > 0
    asked = toys(dear, cheap, free)
    found = asking.ask(asked, None, most_seconds=500 * pace)
    assert [bool(each.absent) for each in found] == [False, False, True]
    assert "1,000 token passes, about " in found[2].absent
    assert "left of the run's time; `--questions dear` asks it" in found[2].absent
    # Going on leaves out the same; without time left only what is free, and no number below zero.
    assert asking.ask(asked, None, most_seconds=500 * pace) == found
    late = small_run.asking(tmp_path / "late").ask(toys(cheap, free), None, most_seconds=-5.0)
    assert [bool(each.absent) for each in late] == [False, True]
    assert "and 0.0 s are left" in late[1].absent
    assert not asking.ask(asked, None, most_seconds=1100 * pace)[2].absent


def test_a_question_cannot_overspend(small_run: Run, tmp_path: Path) -> None:
    toy = Toy(100)
    toy.cost = lambda context, settings: 60  # type: ignore[method-assign]  # too low a plan
    (found,) = small_run.asking(tmp_path).ask(toys(toy), None)
    assert "budget does not cover" in found.absent
    assert not found.answered.measurements
    assert not (tmp_path / "evidence" / "toy.json").exists()
    # What was done stays, and the same command has room for the rest.
    assert "the same command goes on from here" in found.absent
    assert toy.made == ["first", "second"]
    (again,) = small_run.asking(tmp_path).ask(toys(toy), None)
    assert again.absent == ""
    assert again.work["forward_tokens"] == 100
    assert toy.made[0] == "first"
    assert toy.made.count("first") == 1
    assert not (tmp_path / "evidence" / "toy").exists()


def test_what_cannot_be_asked_or_measured_says_why(small_run: Run, tmp_path: Path) -> None:
    (refused,) = small_run.asking(tmp_path).ask(toys(Toy(reason="no labels")), None)
    assert refused.absent == "no labels"
    toy = Toy()
    toy.fails = DataError("too few rows", found="2")
    (found,) = small_run.asking(tmp_path).ask(toys(toy), None)
    assert found.absent == "could not be measured: too few rows; 2"


def test_a_question_that_changes_the_base_is_found_out(small_run: Run, tmp_path: Path) -> None:
    toy, base = Toy(), small_run.jobs.ground.base
    weight = base.model.get_input_embeddings().weight
    before = weight.data.clone()

    def spoil(context: Any, settings: Any) -> Answered:
        weight.data[0, 0] += 1
        return Answered(())

    toy.measure = spoil  # type: ignore[method-assign]  # a vandal
    try:
        with pytest.raises(RunError, match="toy changed the base"):
            small_run.asking(tmp_path).ask(toys(toy), None)
    finally:
        weight.data.copy_(before)


def test_a_refit_is_the_run_s_own_fit_on_other_rows(small_run: Run, tmp_path: Path) -> None:
    asking = small_run.asking(tmp_path)
    checksum = weights_checksum(small_run.jobs.ground.base)
    context = asking._context(toys(Toy())[0], limit=10**9)
    again = context.refit("lora", 1, context.view)
    stored = {each.record.seed: each for each in context.subjects["lora"]}[1].load()
    tensors = dict(zip(stored.kinds, stored.parts, strict=True))
    for kind, part in zip(again.adaptation.kinds, again.adaptation.parts, strict=True):
        if kind == "low_rank":
            for name, tensor in part.tensors.items():  # type: ignore[union-attr]
                assert (tensor == tensors[kind].tensors[name]).all()  # type: ignore[union-attr]
    work = again.adaptation.provenance.work
    assert again.token_passes == work["forward_tokens"] + work["backward_tokens"]
    assert context.ledger.spent == again.token_passes
    assert weights_checksum(small_run.jobs.ground.base) == checksum


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ({"began_at": "prompt_search"}, True),
        ({"began_at": "prompt_search", "starts": {"taken": "given"}}, True),
        ({"began_at": "prompt_search", "starts": {"taken": "instruction"}}, False),
        ({"began_at": None}, False),
    ],
)
def test_fits_that_began_elsewhere_are_told(
    small_run: Run, tmp_path: Path, notes: dict[str, Any], told: bool
) -> None:
    """A fit again begins at the plain instruction, a climb's own where it found best."""
    records = tuple(
        replace(each, notes={**each.notes, **notes}) if each.method == "lora" else each
        for each in small_run.records
    )
    asked = {"entries": ("lora",), "shares": (0.1,)}
    evidence = replace(small_run, records=records).ask("wrong_labels", tmp_path, **asked)
    words = "In the run lora began at what prompt_search had found"
    assert any(each.startswith(words) for each in evidence.answered.findings) is told


def test_progress_counts_token_passes(small_run: Run, tmp_path: Path) -> None:
    asking = small_run.asking(tmp_path)
    asking.ask(toys(Toy()), None)
    told = asking.jobs.reporter
    assert isinstance(told, Told)
    assert told.begun == ["asking: Toy"]
    assert told.pieces == ["first", "second"]


def test_what_is_asked_and_what_is_left_is_told(small_run: Run, tmp_path: Path) -> None:
    asking = small_run.asking(tmp_path)
    cheap, dear = Toy(10), Toy(1000)
    dear.name = "dear"
    asking.ask(toys(dear, cheap), None)
    told = asking.jobs.reporter
    assert isinstance(told, Told)
    (said,) = told.said
    assert said.startswith("2 questions to ask: about 1,010 token passes, as many as 0.1 fits;")
    assert said.endswith("(most for dear 1,000, toy 10)")
    assert [(done, total) for done, total, _ in told.left] == [
        (5, 1010),
        (10, 1010),
        (510, 1010),
        (1010, 1010),
    ]
    assert told.left[0][2] > 0.0
    assert told.left[-1][2] == 0.0
    # What is answered is neither asked nor told again.
    again = small_run.asking(tmp_path)
    again.ask(toys(dear, cheap), None)
    assert isinstance(again.jobs.reporter, Told)
    assert again.jobs.reporter.said == []
    assert again.jobs.reporter.begun == []


def test_questions_that_cost_nothing_are_not_announced(small_run: Run, tmp_path: Path) -> None:
    asking = small_run.asking(tmp_path)
    asking.ask(toys(Toy(0)), None)
    assert isinstance(asking.jobs.reporter, Told)
    assert asking.jobs.reporter.said == []


def test_a_fit_within_a_question_moves_the_progress(small_run: Run, tmp_path: Path) -> None:
    asking = small_run.asking(tmp_path)
    toy = Toy(30_000)

    def fits(context: Any, settings: Any) -> Answered:
        context.refit("soft_prompt", 0, context.view)
        return Answered(())

    toy.measure = fits  # type: ignore[method-assign]  # one that fits
    (found,) = asking.ask(toys(toy), None)
    told = asking.jobs.reporter
    assert isinstance(told, Told)
    done = [each for each, _, _ in told.left]
    assert len(done) > 2
    assert done == sorted(done)
    spent = found.work["forward_tokens"] + found.work["backward_tokens"]
    assert 0 < done[-1] <= spent


def test_seconds_of_before_are_counted(small_run: Run, tmp_path: Path) -> None:
    toy = Toy()
    toy.fails = KeyboardInterrupt()  # type: ignore[assignment]  # what a killed process leaves
    with pytest.raises(KeyboardInterrupt):
        small_run.asking(tmp_path).ask(toys(toy), None)
    (piece,) = (tmp_path / "evidence" / "toy").glob("first-*.json")
    stored = json.loads(piece.read_text(encoding="utf-8"))
    stored["piece"]["seconds"] = 500.0
    piece.write_text(json.dumps(stored), encoding="utf-8")
    toy.fails = None
    (found,) = small_run.asking(tmp_path).ask(toys(toy), None)
    assert 500.0 <= found.seconds < 1000.0


def test_a_finished_run_can_be_asked_more(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ("--base", tiny_folder, "--methods", "tfidf,zero_shot", "--seeds", "1", "--json")
    arguments = ("compare", data, "--out", tmp_path / "run", "--budget", "20k", *flags)
    none = tunewise(*arguments, "--questions", "none")
    assert none.code == 0, none.err
    assert none.json["evidence"] == []
    some = tunewise(*arguments, "--questions", "cost_to_fit")
    assert some.code == 0, some.err
    (evidence,) = some.json["evidence"]
    assert evidence["question"] == "cost_to_fit"
    assert evidence["answered"]["measurements"]
    assert some.json["entries"] == none.json["entries"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--questions", "cost_fit"), "did you mean 'cost_to_fit'"),
        (("--questions", ","), "no question is named"),
        (("--questions", "all", "--evidence"), "said twice"),
    ],
)
def test_bad_flags(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    done = tunewise("compare", data, *flags)
    assert done.code == 2
    assert words in done.err


def test_questions_are_listed() -> None:
    listed = tunewise("questions", "--json")
    assert {each["name"] for each in listed.json} == set(QUESTIONS.discover())
    assert "cost_to_fit" in tunewise("questions").out


def test_settings_stand_in_the_task_file(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    task = tmp_path / "task.toml"
    head = f'data = "{data.name}"\n'
    task.write_text(f"{head}[questions.cost_to_fit]\nprice_per_hour = 7.2\n", encoding="utf-8")
    flags = ("--base", tiny_folder, "--methods", "tfidf", "--seeds", "1", "--budget", "20k")
    done = tunewise(
        "compare", "--task", task, "--out", tmp_path / "run", *flags, "--questions",
        "cost_to_fit", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (evidence,) = done.json["evidence"]
    assert evidence["settings"]["price_per_hour"] == 7.2
    assert "money" in {each["name"] for each in evidence["answered"]["measurements"]}
    for text, words in (
        ("[questions]\ncost_to_fit = 3\n", "expected a table such as [questions.cost_to_fit]"),
        ("[questions.cost_fit]\nwatts = 3\n", "did you mean 'cost_to_fit'"),
        ("[questions.cost_to_fit]\nwats = 3\n", "did you mean 'watts'"),
    ):
        task.write_text(f"{head}{text}", encoding="utf-8")
        wrong = tunewise("compare", "--task", task, "--out", tmp_path / "other", *flags)
        assert wrong.code == 2
        assert words in wrong.err


def test_adaptations_are_read_once_and_heavy_ones_let_go(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = reader_module.load

    def spy(folder: Path, **more: Any) -> Any:
        read.append(folder.name)
        return real(folder, **more)

    monkeypatch.setattr(reader_module, "load", spy)
    asking = small_run.asking(tmp_path)
    context = asking._context(toys(Toy())[0], limit=0)
    for _ in range(2):
        for fits in context.subjects.values():
            for subject in fits:
                subject.load()
    assert len(read) == len(set(read)) + 2  # both seeds of the one with whole weights
    assert read.count("lora-seed0") == 1
    assert read.count("full-seed0") == read.count("full-seed1") == 2
