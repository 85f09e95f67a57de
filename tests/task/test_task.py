"""Loading a task as a whole: rows in their one form, the check's record, tokens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import build_tokenizer
from tests.task.samples import phrase, records, write_jsonl

from tunewise.errors import DataError
from tunewise.task.check import Finding, with_tokens
from tunewise.task.options import TaskOptions
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.rows import left_out
from tunewise.task.task import hash_view, load_task, rows_from
from tunewise.task.types import Kind


def _load(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    return load_task(str(write_jsonl(folder / "toy.jsonl", rows)), TaskOptions(**options))


def test_a_task_from_one_file(tmp_path: Path) -> None:
    task = _load(tmp_path, records(40))
    assert (task.spec.name, task.spec.kind) == ("toy", Kind.CLASSIFICATION)
    assert (task.spec.labels, task.spec.metric) == (("bad", "good"), "accuracy")
    assert task.test.times_opened == 0
    ids = [each.id for each in (*task.fit_view.train, *task.fit_view.validation)]
    ids += [each.id for each in task.test.open()]
    assert sorted(ids) == sorted(f"row-{n}" for n in range(1, 41))


@pytest.mark.parametrize("blank", [None, "", "  ", float("nan")])
def test_rows_without_an_answer_are_left_out_and_named(tmp_path: Path, blank: Any) -> None:
    rows = records(40)
    for index in (4, 10, 11):
        rows[index] = {**rows[index], "label": blank}
    rows += [{"text": phrase(60)}]
    task = _load(tmp_path, rows)
    check = task.check
    assert (check.unanswered.count, check.empty.count) == (4, 0)
    (told,) = [each for each in check.warnings if "no answer" in each]
    assert told.startswith("4 rows have no answer and are left out: toy.jsonl line 5, ")
    assert "line 41" in told
    assert task.spec.labels == ("bad", "good")
    assert task.spec.kind is Kind.CLASSIFICATION
    assert sum(check.rows_before.values()) == 41
    used = [*task.fit_view.train, *task.fit_view.validation, *task.test.open()]
    # The rest has the ids and the split that it would have without them.
    without = _load(tmp_path, [row for row in rows if row.get("label") in ("good", "bad")])
    assert sorted(row.input for row in used) == sorted(
        row.input for row in (*without.fit_view.train, *without.fit_view.validation,
                              *without.test.open())
    )  # fmt: skip
    assert "row-5" not in {row.id for row in used}
    assert "row-40" in {row.id for row in used}


@pytest.mark.parametrize(
    ("labels", "hinted"),
    [
        (("0", "1"), True),
        ((0, 1), True),
        ((-1, 0.5), True),
        (("A", "B", "C"), True),
        (("label_0", "label_1"), True),
        (("class 1", "class 22"), True),
        (("class act", "class war"), False),
        (("好", "坏"), False),
        (("good", "bad"), False),
        (("0", "bad"), False),
        (("1 star", "2 stars"), False),
        (("is", "to"), False),
    ],
)
def test_labels_that_say_nothing_are_hinted_at(
    tmp_path: Path, labels: tuple[Any, ...], hinted: bool
) -> None:
    told = [
        each for each in _load(tmp_path, records(40, labels)).check.warnings if "say noth" in each
    ]
    assert len(told) == hinted
    if hinted:
        named = sorted(map(str, labels))
        assert (
            f"the labels {', '.join(map(repr, named))} say nothing to a language model" in told[0]
        )
        assert (
            f"rows['label'].astype(str).map({{{named[0]!r}: 'WORD', {named[1]!r}: 'WORD'" in told[0]
        )
        assert f'--instruction "Answer {named[0]} for' in told[0]


def test_an_instruction_may_say_what_labels_mean(tmp_path: Path) -> None:
    def hints(**options: Any) -> int:
        check = _load(tmp_path, records(40, ("0", "1")), **options).check
        return sum("say nothing" in each for each in check.warnings)

    assert hints(instruction="Answer 1 if the text is good, else 0.") == 0
    assert hints(instruction="Answer 10 if the text is good, else 0.") == 1
    assert hints(instruction="Is it good?") == 1
    several = [{"text": phrase(n), "label": [0, 1, 2][n % 2 : 2 + n % 2]} for n in range(40)]
    (told,) = [each for each in _load(tmp_path, several).check.warnings if "say nothing" in each]
    assert "--instruction" in told
    assert ".map(" not in told


@pytest.mark.parametrize(
    ("form", "hinted"),
    [
        ("2024-{:02}-{:02}", True),
        ("2024-{:02}-{:02}T10:30:00.5Z", True),
        ("2024-{:02}-{:02} 10:30:00+00:00", True),
        ("{}/{}/24 9:05 pm", True),
        ("{1}.{0}.2024", True),
        ("Wed, {1} Jan 2024", True),
        ("March {1}, 2024", True),
        ("7.{}.{}", False),
        ("{:02}-{:02}", False),
        ("room {}-{}", False),
    ],
)
@pytest.mark.parametrize("distinct", [True, False])
def test_answers_that_are_dates_are_hinted_at(
    tmp_path: Path, form: str, hinted: bool, distinct: bool
) -> None:
    days = [(1 + n % 12, 1 + n % 28) if distinct else (1, 1 + n % 2) for n in range(60)]
    answers = [form.format(*each) for each in days]
    rows = [{"text": phrase(n), "when": answer} for n, answer in enumerate(answers)]
    named = {"input": "text", "output": "when"}
    told = [each for each in _load(tmp_path, rows, **named).check.warnings if "dates" in each]
    assert len(told) == hinted
    if hinted:
        assert repr(answers[0]) in told[0]
        assert "if 'when' is not the column you mean, name another with --output" in told[0]
    # Dates that are to be found in the text, or are asked for, are no mistake.
    asked = _load(tmp_path, rows, **named, instruction="Answer with the date of arrival.")
    assert not [each for each in asked.check.warnings if "dates" in each]
    inside = [{**row, "text": f"{row['text']}, due {row['when']}"} for row in rows]
    check = _load(tmp_path, inside, **named).check
    assert not [each for each in check.warnings if "dates" in each]


def test_few_are_told_of_many_rows_without_an_answer() -> None:
    assert left_out(Finding()) == ""
    assert left_out(Finding(1, ("a row 1",))).startswith("1 row has no answer and is left out: a r")
    assert "a row 1, a row 2 and 1,498 more" in left_out(Finding(1500, ("a row 1", "a row 2")))


def test_official_splits_give_ids_by_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", records(20))
    test = [{"text": phrase(i + 100), "label": "good" if i % 2 else "bad"} for i in range(5)]
    write_jsonl(tmp_path / "test.jsonl", test)
    task = load_task(str(tmp_path), TaskOptions())
    assert [each.id for each in task.test.open()] == [f"test-{n}" for n in range(1, 6)]
    assert all(each.id.startswith("train-") for each in task.fit_view.train)
    assert task.spec.name == tmp_path.name


def test_multi_label_answers_have_one_form(tmp_path: Path) -> None:
    outputs = [["b", "a"], ["a"], ["c", "b"], ["b", "a", "c"]]
    rows = [{"text": phrase(i), "tags": outputs[i % 4]} for i in range(24)]
    task = _load(tmp_path, rows)
    assert (task.spec.kind, task.spec.labels) == (Kind.MULTI_LABEL, ("a", "b", "c"))
    assert {r.output for r in task.fit_view.train} <= {"a, b", "a", "b, c", "a, b, c"}


def test_json_answers_have_one_form(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": phrase(i), "output": f'{{"z":"é",  "a":[{i},2]}}'} for i in range(10)
    ]
    rows.append({"text": "object", "output": {"z": "é", "a": [99, 2]}})
    task = _load(tmp_path, rows, json_schema={"type": "object", "required": ["z"]})
    outputs = {r.output for r in (*task.fit_view.train, *task.fit_view.validation)}
    assert outputs <= {f'{{"z": "é", "a": [{n}, 2]}}' for n in (*range(10), 99)}
    assert task.spec.schema == {"type": "object", "required": ["z"]}


def test_references(tmp_path: Path) -> None:
    rows = [
        {
            "text": phrase(i),
            "output": f"{phrase(i)} told at length",
            "references": ["x y", f"n {i}"],
        }
        for i in range(12)
    ]
    task = _load(tmp_path, rows)
    first = task.fit_view.train[0]
    assert first.references[0] == first.output
    assert first.references[1] == "x y"
    assert len(first.references) == 3


def test_numbers_and_truth_values_become_text(tmp_path: Path) -> None:
    rows = [{"text": 1000 + i * 37, "label": bool(i % 2)} for i in range(12)]
    task = _load(tmp_path, rows)
    assert task.spec.labels == ("false", "true")
    assert task.fit_view.train[0].input.isdigit()


def test_the_hash_is_of_the_fit_views_content(tmp_path: Path) -> None:
    task = _load(tmp_path, records(40))
    view = task.fit_view
    assert task.data_hash == hash_view(view)
    assert len(task.data_hash) == 64
    changed = [
        dataclasses.replace(view, train=view.train[1:]),
        dataclasses.replace(view, train=view.validation, validation=view.train),
        dataclasses.replace(view, spec=dataclasses.replace(view.spec, instruction="Other.")),
        dataclasses.replace(
            view, train=(dataclasses.replace(view.train[0], output="other"), *view.train[1:])
        ),
    ]
    assert len({hash_view(each) for each in changed} | {task.data_hash}) == 5
    renamed = dataclasses.replace(view, spec=dataclasses.replace(view.spec, name="other"))
    assert hash_view(renamed) == task.data_hash


def test_the_check_is_json(tmp_path: Path) -> None:
    rows = records(40, ["good"] * 9 + ["bad"])
    check = _load(tmp_path, rows).check
    values = json.loads(json.dumps(check.as_dict()))
    assert values["kind"] == "classification"
    assert values["class_balance"]["train"]["good"] > 15
    assert values["majority_share"] == pytest.approx(0.9, abs=0.06)
    assert values["tokens"] is None
    text = " ".join(values["warnings"])
    assert all(each in text for each in ("heavy imbalance", "fewer than 5", "12 test rows"))


def test_tokens_against_plain_counting(tmp_path: Path) -> None:
    task = _load(tmp_path, records(40))
    renderer = Renderer(build_tokenizer(), task.spec, PromptText(task.spec.instruction))
    test_rows = task.test.open()
    check = with_tokens(task.check, renderer, task.fit_view, test_rows, 512)
    tokens = check.tokens
    assert tokens is not None
    rows = [*task.fit_view.train, *task.fit_view.validation, *test_rows]
    # A byte is a token here; the template adds <|end|><|assistant|> to a row.
    inputs = [len(each.input.encode()) + 2 for each in rows]
    answers = [len(each.output.encode()) + 1 for each in rows]
    shared = len(task.spec.instruction.encode()) + 3
    assert tokens.shared_prompt_tokens == shared
    assert tokens.input_tokens.largest == max(inputs)
    assert tokens.input_tokens.median == np.median(inputs)
    assert tokens.answer_tokens.smallest == min(answers)
    longest = max(a + b for a, b in zip(inputs, answers, strict=True))
    assert tokens.longest_row_tokens == shared + longest
    assert len(tokens.rendered) == 3
    assert {"⟦good<|end|>⟧", "⟦bad<|end|>⟧"} <= {
        each[each.index("⟦") :] for each in tokens.rendered
    }
    assert json.dumps(check.as_dict())


def test_a_row_longer_than_the_context(tmp_path: Path) -> None:
    rows = records(40)
    rows[7]["text"] = "word " * 60
    task = _load(tmp_path, rows)
    renderer = Renderer(build_tokenizer(), task.spec, PromptText(""))
    test_rows = task.test.open()
    total = 1 + 5 * 60 - 1 + 2 + len(rows[7]["label"]) + 1
    with_tokens(task.check, renderer, task.fit_view, test_rows, total)
    with pytest.raises(DataError, match=r"toy\.jsonl line 8 is longer") as caught:
        with_tokens(task.check, renderer, task.fit_view, test_rows, total - 1)
    assert f"{total} tokens" in caught.value.found
    assert str(total - 1) in caught.value.expected


def test_rows_for_an_adaptation_that_exists(tmp_path: Path) -> None:
    task = _load(tmp_path, records(40))
    path = write_jsonl(tmp_path / "more.jsonl", records(5))
    rows = rows_from(str(path), TaskOptions(), task.spec)
    assert [(each.id, each.output) for each in rows][:2] == [("row-1", "good"), ("row-2", "bad")]
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"text": "one"}, {"text": ""}, {"text": "two"}])
    rows = rows_from(str(bare), TaskOptions(), task.spec, need_output=False)
    assert [(each.input, each.output) for each in rows] == [("one", ""), ("", ""), ("two", "")]
    with pytest.raises(DataError):
        rows_from(str(bare), TaskOptions(), task.spec)
    some = write_jsonl(tmp_path / "some.jsonl", [*records(3), {"text": "x", "label": None}])
    told: list[str] = []
    assert len(rows_from(str(some), TaskOptions(), task.spec, say=told.append)) == 3
    assert told[0].startswith("1 row has no answer and is left out: some.jsonl line 4")
    with pytest.raises(DataError, match=r"output missing in some\.jsonl line 4"):
        rows_from(str(some), TaskOptions(require_answers=True), task.spec)
    folder = tmp_path / "splits"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", records(9))
    write_jsonl(folder / "test.jsonl", records(3))
    assert len(rows_from(str(folder), TaskOptions(), task.spec)) == 3


def test_loading_a_task_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = write_jsonl(tmp_path / "toy.jsonl", records(20))
    code = (
        "import sys\nfrom tunewise.task.task import load_task\n"
        "from tunewise.task.options import TaskOptions\n"
        f"load_task({str(path)!r}, TaskOptions())\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
