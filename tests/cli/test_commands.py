"""Every command once for real, on tiny rows and a tiny base."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from tests.cli.conftest import Finished
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import Done, tunewise

from tunewise.methods._registry import discover_methods
from tunewise.task.types import Kind

SCHEMA = Path("src/tunewise/compare/templates/schema.json")


def bytes_of(folder: Path) -> dict[str, str]:
    """Hashes of every file of a folder, by its path in it (files would make endless messages)."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def one_fit(tiny: Path, out: Path, data: Path, method: str, *flags: object) -> Done:
    """`fit` with the tiny base."""
    return tunewise("fit", method, data, "--base", tiny, "--out", out, "--json", *flags)


def test_compare_writes_what_is_documented(finished: Finished) -> None:
    told = finished.done.json
    assert told == json.loads((finished.out / "comparison.json").read_text(encoding="utf-8"))
    jsonschema.validate(told, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert told["schema"] == 1
    assert {"name", "fingerprint"} <= told["base"].keys()
    assert told["budget"] == {"unit": "token_passes", "per_method": 20_000}
    for entry in told["entries"]:
        assert entry["parts"]
        assert (finished.out / entry["adaptation"] / "adaptation.json").is_file()
        assert {"metric", "value", "low", "high", "n", "n_failed"} <= entry["test"].keys()
        assert {"value", "low", "high"} <= entry["validation"].keys()
        work = {"seconds", "forward_tokens", "backward_tokens", "flops", "peak_bytes"}
        assert work | {"trainable_parameters"} <= entry["fit"].keys()
        assert {"settings", "bytes_on_disk", "prompt_tokens_per_request"} <= entry.keys()
        assert entry["milliseconds_per_row"] >= 0
        spent = entry["fit"]["forward_tokens"] + entry["fit"]["backward_tokens"]
        assert spent <= 20_000
    for pair in told["pairs"]:
        assert {"a", "b", "difference", "low", "high", "p_value"} <= pair.keys()
    advice = told["recommendation"]
    assert {"method", "tied_with", "reasons", "would_change"} <= advice.keys()
    assert advice["method"] in {entry["method"] for entry in told["entries"]}
    for name in ("report.html", "report.md"):
        assert (finished.out / name).stat().st_size > 1000


def test_compare_runs_every_method_for_this_kind_of_task(finished: Finished) -> None:
    told = finished.done.json
    ran = {entry["method"] for entry in told["entries"]}
    kind = Kind.CLASSIFICATION
    assert ran == {name for name, one in discover_methods().items() if kind in one.needs.kinds}
    assert told["skipped"] == []
    by_name = {entry["method"]: entry for entry in told["entries"]}
    assert by_name["lora"]["seeds"] == [0, 1]
    assert by_name["majority"]["seeds"] == [0]  # another seed could not change it


def test_progress_goes_to_the_error_stream(finished: Finished) -> None:
    assert "fitting lora, seed 1" in finished.done.err
    assert "fitting lora" not in finished.done.out


def test_the_same_command_again_reads_what_is_there(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(finished.out / "adaptations")
    monkeypatch.setattr("tunewise.jobs.fit", lambda *a, **k: pytest.fail("fitted again"))
    monkeypatch.setattr("tunewise.jobs.measure", lambda *a, **k: pytest.fail("measured again"))
    again = tunewise("compare", finished.data, "--out", finished.out, *finished.flags, "--json")
    assert again.code == 0, again.err
    assert "going on with the run" in again.err
    assert bytes_of(finished.out / "adaptations") == before
    assert again.json == finished.done.json


def test_compare_shows_table_advice_and_where_the_report_lies(
    finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "my run"
    shutil.copytree(finished.out, out)
    shown = tunewise("compare", finished.data, "--out", out, *finished.flags)
    assert shown.code == 0, shown.err
    assert str(out / "report.html") in shown.out
    assert f"try it: tunewise predict '{out}/adaptations/" in shown.out
    for entry in finished.done.json["entries"]:
        assert f" {entry['method']} " in shown.out
    assert "would change:" in shown.out
    assert max(map(len, shown.out.split("\nreport:")[0].splitlines())) <= 80


@pytest.mark.parametrize("method", sorted(set(discover_methods()) - {"lead"}))
def test_fit_tells_its_steps(
    method: str, tmp_path: Path, tiny_folder: Path, finished: Finished
) -> None:
    trained = discover_methods()[method].needs.gradients
    flags = ("--steps", 3, "--batch-size", 4) if trained else ()
    out = tmp_path / method
    done = one_fit(tiny_folder, out, finished.data, method, "--dtype", "float32", *flags)
    assert done.code == 0, done.err
    told = done.json
    assert told["adaptation"] == str(out)
    assert told["method"] == method
    assert told["dtype"] == "float32"
    assert {"parts", "settings", "seed", "fit", "validation", "bytes_on_disk"} <= told.keys()
    steps = 3 if trained else 0
    for name in ("step_seconds", "step_tokens", "losses"):
        assert len(told[name]) == steps
    assert told["budget"]["per_method"] is None if trained else told["budget"]["per_method"] > 0
    assert not list(tmp_path.glob("*.partial"))
    if trained:
        assert told["settings"]["batch_size"] == 4
        again = tmp_path / "again"
        one_fit(tiny_folder, again, finished.data, method, "--dtype", "float32", *flags)
        assert bytes_of(again) == bytes_of(out)


def test_settings_are_flags_and_fits_start_from_others(
    tmp_path: Path, tiny_folder: Path, finished: Finished
) -> None:
    soft, low = tmp_path / "soft", tmp_path / "low"
    flags = ("--steps", 2, "--virtual-tokens", 5, "--residual-width", 4, "--no-decay", "--seed", 7)
    done = one_fit(tiny_folder, soft, finished.data, "soft_prompt", *flags)
    assert done.code == 0, done.err
    settings = done.json["settings"]
    assert (settings["virtual_tokens"], settings["residual_width"]) == (5, 4)
    assert settings["decay"] is False
    assert done.json["seed"] == 7
    flags = ("--steps", 2, "--rank", 2, "--start", soft)
    started = one_fit(tiny_folder, low, finished.data, "lora", *flags)
    assert started.code == 0, started.err
    assert set(started.json["parts"]) == {"prompt_text", "virtual_tokens", "low_rank"}
    manifest = json.loads((low / "adaptation.json").read_text(encoding="utf-8"))
    held = json.loads((soft / "adaptation.json").read_text(encoding="utf-8"))
    assert manifest["provenance"]["start"] == held["fingerprint"]


def test_fit_without_json_says_one_line(
    tmp_path: Path, tiny_folder: Path, finished: Finished
) -> None:
    done = tunewise(
        "fit", "majority", finished.data, "--base", tiny_folder, "--out", tmp_path / "m"
    )
    assert done.code == 0, done.err
    assert done.out.startswith(f"majority in {tmp_path / 'm'}: shallow_model, ")


@pytest.mark.parametrize("method", ["tfidf", "zero_shot", "soft_prompt", "lora"])
def test_predict_answers_texts_lines_and_files(
    method: str, finished: Finished, tmp_path: Path
) -> None:
    ada = finished.adaptation(method)
    texts = ["Oslo: the bed was good", "Rome: the bed was awful"]
    plain = tunewise("predict", ada, *texts)
    assert plain.code == 0, plain.err
    answers = plain.out.splitlines()
    assert len(answers) == 2
    assert set(answers) <= {"negative", "positive"}
    piped = tunewise("predict", ada, "-", stdin="\n".join([*texts, "", ""]))
    assert piped.out == plain.out
    told = tunewise("predict", ada, *texts, "--json").json
    assert [each["input"] for each in told] == texts
    assert [each["answer"] for each in told] == answers
    data = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    from_file = tunewise("predict", ada, "--file", data, "--input", "text")
    assert from_file.out == plain.out, from_file.err


def test_an_empty_text_keeps_its_line(finished: Finished, tmp_path: Path) -> None:
    ada = finished.adaptation("tfidf")
    texts = ["the bed was good", " ", "the bed was awful"]
    alone = tunewise("predict", ada, texts[0], texts[2]).out.splitlines()
    data = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    from_file = tunewise("predict", ada, "--file", data, "--input", "text")
    assert from_file.out.splitlines() == [alone[0], "", alone[1]]
    assert from_file.err == "no answer to texts.jsonl line 2: the text is empty\n"
    piped = tunewise("predict", ada, "-", stdin="\n".join([*texts, ""]))
    assert piped.out == from_file.out
    assert piped.err == "no answer to text 2: the text is empty\n"
    told = tunewise("predict", ada, *texts, "--json").json
    assert [each["input"] for each in told] == texts
    assert told[1]["answer"] is None
    assert told[1]["failure"] == "the text is empty"


def test_a_text_too_long_leaves_its_line_empty(finished: Finished) -> None:
    done = tunewise("predict", finished.adaptation("zero_shot"), "x" * 900, "the bed was good")
    assert done.code == 0
    assert done.out.splitlines()[0] == ""
    assert done.out.splitlines()[1] in {"negative", "positive"}
    assert "no answer" in done.err
    alone = tunewise("predict", finished.adaptation("zero_shot"), "x" * 900, "--json")
    assert alone.code == 2
    assert alone.json["what"] == "no text could be answered"


def test_measure_agrees_with_counting_predictions(finished: Finished, tmp_path: Path) -> None:
    rows = two_labels(140)[100:]
    data = write_rows(tmp_path / "test.jsonl", rows)
    for method in ("tfidf", "few_shot"):
        ada = finished.adaptation(method)
        told = tunewise("measure", ada, data, "--json").json
        answers = [
            each["answer"]
            for each in tunewise("predict", ada, *[r["text"] for r in rows], "--json").json
        ]
        right = sum(a == row["label"] for a, row in zip(answers, rows, strict=True))
        assert told["value"] == pytest.approx(right / len(rows))
        assert told["n"] == len(rows)
        assert told["low"] <= told["value"] <= told["high"]
    shown = tunewise("measure", finished.adaptation("tfidf"), data)
    assert "metric: accuracy" in shown.out


def test_data_check_tells_rows_and_tokens(finished: Finished, tiny_folder: Path) -> None:
    done = tunewise("data", "check", finished.data, "--base", tiny_folder, "--json")
    assert done.code == 0, done.err
    assert sum(done.json["rows_after"].values()) == 60
    assert len(done.json["tokens"]["rendered"]) == 3
    shown = tunewise("data", "check", finished.data, "--base", tiny_folder)
    assert "⟦" in shown.out
    assert shown.code == 0


def test_methods_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewise.cli import show

    told = tunewise("methods", "--json").json
    assert [each["name"] for each in told] == list(discover_methods())
    for each in told:
        for field in each["settings"].values():
            assert field["description"]
    for width in (80, 140):
        monkeypatch.setattr(show.OUT, "width", width)
        shown = tunewise("methods").out
        assert max(map(len, shown.splitlines())) <= width
        assert "--virtual-tokens" in shown


def test_models_tells_name_path_fingerprint_and_size() -> None:
    told = tunewise("models", "--json").json
    assert "smollm2-135m" in {each["name"] for each in told}
    for each in told:
        assert {"name", "path", "fingerprint", "bytes"} <= each.keys()
    assert "smollm2-135m" in tunewise("models").out


def test_help_and_version_need_no_torch() -> None:
    script = (
        "import sys; sys.argv = ['tunewise', 'compare', '--help']\n"
        "from tunewise.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--near-duplicate-similarity" in done.stdout


def test_rows_without_an_answer_are_told_by_every_command(
    tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [dict(row) for row in two_labels(60)]
    rows[6]["label"] = None
    data, out = write_rows(tmp_path / "gaps.jsonl", rows), tmp_path / "run"
    told = "1 row has no answer and is left out: gaps.jsonl line 7"
    flags = ("--base", tiny_folder, "--dtype", "float32")
    for done in (
        tunewise("data", "check", data, *flags),
        tunewise("advise", data, *flags, "--methods", "tfidf", "--budget", "3k"),
        tunewise("compare", data, *flags, "--plan", "--methods", "tfidf", "--budget", "3k"),
    ):
        assert done.code == 0, done.err
        assert told in " ".join(done.out.split())
    run = ("compare", data, *flags, "--methods", "tfidf", "--questions", "none", "--out", out)
    done = tunewise(*run)
    assert done.code == 0, done.err
    assert f"mind: {told}" in " ".join(done.err.split())
    held = json.loads((out / "data_check.json").read_text(encoding="utf-8"))
    assert held["unanswered"] == {"count": 1, "examples": ["gaps.jsonl line 7"]}
    assert "gaps.jsonl line 7" in (out / "report.html").read_text(encoding="utf-8")
    fitted = tunewise("fit", "tfidf", data, *flags, "--out", tmp_path / "ada")
    assert told in " ".join(fitted.err.split())
    measured = tunewise("measure", tmp_path / "ada", data, "--json")
    assert (measured.code, measured.json["n"]) == (0, 59)
    assert told in measured.err
    # To refuse them is to be asked for, and asking makes no other run of the same rows.
    assert tunewise(*run, "--require-answers").code == 2
    write_rows(data, [row for row in rows if row["label"]])
    begun = tunewise(*run[:-1], tmp_path / "whole")
    again = tunewise(*run[:-1], tmp_path / "whole", "--require-answers")
    assert (begun.code, again.code) == (0, 0)
    assert "going on with the run" in again.err
