"""The registry's commands, on a finished run's adaptations and its tiny base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Finished
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import Done, tunewise

from tunewise.model.cache import home
from tunewise.serve.engine.prefix_names import owner

NAME = "acme/tickets"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def registry(place: Path, *arguments: object) -> Done:
    return tunewise("registry", *arguments, "--registry", place, "--actor", "ann", "--json")


def done(place: Path, *arguments: object) -> Done:
    found = registry(place, *arguments)
    assert found.code == 0, found.err
    return found


def test_from_a_run_to_production_and_back(
    finished: Finished, place: Path, tiny_folder: Path
) -> None:
    added = [
        done(place, "add", finished.adaptation(method), NAME, "--base", tiny_folder).json
        for method in ("zero_shot", "tfidf", "majority")
    ]
    assert [each["number"] for each in added] == [1, 2, 3]
    assert added[0]["kinds"] == ["prompt_text"]
    assert added[0]["run"] == str(finished.out.absolute())
    again = done(place, "add", finished.adaptation("tfidf"), NAME)
    assert again.json == added[1]

    shown = done(place, "show", f"{NAME}@1").json
    assert shown["measured"][0]["n"] > 5
    assert shown["probes"]["changes"][0]["distance"] > 0
    assert Path(shown["folder"]).is_dir()

    first = done(place, "promote", f"{NAME}@1").json
    assert first["gate"]["passed"]
    assert done(place, "promote", f"{NAME}@2").json["gate"]["difference"] > 0
    refused = registry(place, "promote", f"{NAME}@3")
    assert refused.code == 2
    assert refused.json["error"] == "GateRefusedError"
    assert "points" in refused.json["found"]
    third = done(place, "promote", f"{NAME}@3", "--reason", "it needs no model at all").json
    assert third["targets"] == [{"number": 3, "share": 1.0}]
    assert done(place, "rollback", NAME).json["targets"] == [{"number": 2, "share": 1.0}]
    split = done(place, "promote", f"{NAME}@3", "--share", "0.1", "--reason", "try it").json
    assert [each["number"] for each in split["targets"]] == [2, 3]
    assert done(place, "rollback", NAME).json["targets"] == [{"number": 2, "share": 1.0}]
    assert done(place, "rollback", NAME).json["targets"] == [{"number": 1, "share": 1.0}]
    assert done(place, "retire", f"{NAME}@3", "--reason", "it knows one word").json["state"] == (
        "retired"
    )

    listed = done(place, "list").json
    assert [each["name"] for each in listed] == [NAME]
    assert listed[0]["aliases"][0]["targets"] == [{"number": 1, "share": 1.0}]
    whole = done(place, "show", NAME).json
    actions = [each["action"] for each in whole["audit"]]
    assert actions.count("add") == 3
    assert {"promote", "try", "rollback", "retire", "measure"} <= set(actions)
    assert {each["actor"] for each in whole["audit"]} == {"ann"}
    verified = done(place, "verify").json
    assert (verified["versions"], verified["faults"]) == (2, [])
    assert done(place, "gc", "--days", "0").json["removed"] == []
    kept = home() / "prefixes"
    kept.mkdir(parents=True)
    (unused,) = done(place, "gc", "--days", "0", "--retired-days", "0", "--dry-run").json["removed"]
    computed = kept / f"{owner(*unused.split('/'))}-of-some-base.prefix"
    for path in (computed, kept / "another-of-some-base.prefix"):
        path.write_bytes(b"")
    done(place, "gc", "--days", "0", "--retired-days", "0", "--dry-run")
    assert computed.exists()
    gone = done(place, "gc", "--days", "0", "--retired-days", "0").json
    assert gone["removed"] == [unused]
    assert [path.name for path in kept.iterdir()] == ["another-of-some-base.prefix"]
    assert done(place, "verify").json["faults"] == []


def test_two_versions_side_by_side(finished: Finished, place: Path, tiny_folder: Path) -> None:
    for method in ("zero_shot", "few_shot"):
        done(place, "add", finished.adaptation(method), NAME, "--base", tiny_folder)
    found = done(place, "diff", f"{NAME}@1", f"{NAME}@2").json
    assert any(line.startswith(("+shown:", "+pool:")) for line in found["prompt"])
    assert found["made"]["method"] == {"old": "zero_shot", "new": "few_shot"}
    assert found["scores"]["n"] > 5
    same = done(place, "diff", f"{NAME}@1", f"{NAME}@1").json
    assert "byte by byte" in same["same"]


def test_scores_are_measured_and_stored(
    finished: Finished, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for method in ("tfidf", "majority"):
        done(place, "add", finished.adaptation(method), NAME)
    rows = write_rows(tmp_path / "more.jsonl", two_labels(80))
    flags = ("--input", "text", "--output", "label")
    good = done(place, "measure", f"{NAME}@1", rows, *flags).json
    poor = done(place, "measure", f"{NAME}@2", rows, *flags).json
    assert (good["n"], poor["n"]) == (80, 80)
    assert good["value"] > poor["value"]
    assert done(place, "promote", f"{NAME}@2").json["gate"]["passed"]
    assert done(place, "promote", f"{NAME}@1").json["gate"]["n"] == 80
    worse = registry(place, "promote", f"{NAME}@2")
    assert worse.code == 2
    assert "it is worse" in worse.json["found"]


def test_rows_that_belong_together_stay_together_up_to_the_gate(
    place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    reviews = [each | {"group": f"review {n // 4}"} for n, each in enumerate(two_labels(80))]
    data, out = write_rows(tmp_path / "rows.jsonl", reviews), tmp_path / "run"
    flags = ("--base", tiny_folder, "--methods", "majority,tfidf", "--seeds", "1", "--budget", "5k")
    ran = tunewise("compare", data, "--out", out, *flags)
    assert ran.code == 0, ran.err
    record = json.loads((out / "records" / "tfidf-seed0.json").read_text(encoding="utf-8"))
    names = [each["group"] for each in record["test"]]
    assert len(names) > len(set(names)) > 1
    for method in ("majority", "tfidf"):
        done(place, "add", out / "adaptations" / f"{method}-seed0", NAME, "--base", tiny_folder)
    done(place, "promote", f"{NAME}@1")
    told = done(place, "promote", f"{NAME}@2", "--reason", "a test").json["gate"]
    assert told["reason"].endswith(f"on {len(names)} rows of {len(set(names))} groups")
    # The newest scores on more rows, which only one of the two measurements knows the groups of.
    more = write_rows(tmp_path / "more.jsonl", reviews)
    plain = write_rows(tmp_path / "plain.jsonl", two_labels(80))
    columns = ("--input", "text", "--output", "label")
    done(place, "measure", f"{NAME}@1", more, *columns)
    done(place, "measure", f"{NAME}@2", plain, *columns)
    told = done(place, "promote", f"{NAME}@1", "--reason", "a test").json["gate"]
    assert told["reason"].endswith("on 80 rows of 20 groups")


def test_people_read_lines(finished: Finished, place: Path) -> None:
    flags = ("--registry", place)
    done(place, "add", finished.adaptation("tfidf"), NAME, "--notes", "the small one")
    again = tunewise("registry", "add", finished.adaptation("tfidf"), NAME, *flags)
    assert f"tunewise registry promote {NAME}@1" in again.err
    done(place, "promote", f"{NAME}@1")
    listed = tunewise("registry", "list", *flags)
    assert NAME in listed.out
    assert "production = 1" in listed.out
    shown = tunewise("registry", "show", f"{NAME}@1", *flags)
    assert "the small one" in shown.out
    assert "UTC" in shown.out
    assert tunewise("registry", "verify", *flags).out.startswith("1 versions, 1 aliases")
    assert "nothing is registered" in tunewise("registry", "list", "zeta", *flags).err


def test_an_adaptation_that_does_nothing_is_refused(
    finished: Finished, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from tunewise.adaptation.store import load, save

    save(replace(load(finished.adaptation("zero_shot")), parts=()), tmp_path / "idle")
    refused = registry(place, "add", tmp_path / "idle", NAME, "--base", tiny_folder)
    assert refused.code == 2
    assert "as its base does" in refused.json["what"]
    assert done(place, "list").json == []


@pytest.mark.parametrize("more", [(), ("--no-probes",)])
def test_another_base_is_refused(
    finished: Finished, place: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    from tests.conftest import build_model, build_tokenizer

    build_model("llama", seed=9).save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    made = finished.adaptation("zero_shot")
    refused = registry(place, "add", made, NAME, "--base", tmp_path / "other", *more)
    assert refused.code == 2
    assert refused.json["error"] == "WrongBaseError"


BAD: list[tuple[list[str], tuple[str, ...]]] = [
    (["add", "ADA", "Tickets"], ("tenant/name",)),
    (["add", "ADA", "acme"], ("tenant/name",)),
    (["add", "ADA", "acme/x@3"], ("tenant/name",)),
    (["add", "nowhere", "acme/x"], ("nowhere",)),
    (["add", "acme/x", "ADA"], ("first", "registry add")),
    (["add", "ADA"], ("NAME",)),
    (["add", "ADA", "acme/x", "--probes", "nowhere.txt"], ("nowhere.txt",)),
    (["add", "ADA", "acme/x", "--probes", "EMPTY"], ("no line with text",)),
    (["add", "ADA", "acme/x", "--probes", "EMPTY", "--no-probes"], ("--no-probes",)),
    (["show", "acme/none"], ("acme/none",)),
    (["show", "acme/x@99"], ("acme/x@99",)),
    (["show", "acme/x@canary"], ("canary",)),
    (["show", "acme"], ("tenant/name",)),
    (["diff", "acme/x@1"], ("NEW",)),
    (["diff", "acme/x@1", "acme/x@7"], ("acme/x@7",)),
    (["promote", "acme/x@9"], ("acme/x@9",)),
    (["promote", "acme/x"], ("production",)),
    (["promote", "acme/x@1", "--alias", "3"], ("alias",)),
    (["promote", "acme/x@1", "--share", "0"], ("share",)),
    (["promote", "acme/x@1", "--share", "1.5"], ("share",)),
    (["promote", "acme/x@1", "--share", "0.5"], ("nothing to try it beside",)),
    (["promote", "acme/x@1", "--share", "half"], ("half",)),
    (["promote", "acme/x@1", "--margin", "-1"], ("margin",)),
    (["promote", "acme/x@1", "--alpha", "0"], ("error rate",)),
    (["promote", "acme/x@1", "--raeson", "x"], ("--raeson", "--reason")),
    (["rollback", "acme/x"], ("production",)),
    (["rollback", "acme/x@1"], ("tenant/name",)),
    (["rollback", "acme/none"], ("acme/none",)),
    (["retire", "acme/x"], ("alias",)),
    (["retire", "acme/x@production"], ("alias",)),
    (["retire", "acme/x@9"], ("acme/x@9",)),
    (["retire", "acme/x@1", "--alias-only"], ("--alias-only",)),
    (["retire", "acme/x", "--alias-only"], ("--alias-only",)),
    (["retire", "acme/x@canary", "--alias-only"], ("canary",)),
    (["verify", "acme"], ("tenant/name",)),
    (["gc", "--days", "-1"], ("-1",)),
    (["gc", "--days", "soon"], ("soon",)),
    (["list", "ACME"], ("tenant/name",)),
    (["list", "--limit", "0"], ("0",)),
    (["list", "--after", "x"], ("tenant/name",)),
    (["measure", "acme/x@1"], ("no data",)),
    (["measure", "acme/x@1", "nowhere.csv"], ("nowhere.csv",)),
    (["measure", "acme/x@5", "nowhere.csv"], ("acme/x@5",)),
    (["lsit"], ("list",)),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=" ".join)
def test_what_cannot_be_done_is_said(
    arguments: list[str],
    words: tuple[str, ...],
    finished: Finished,
    place: Path,
    tmp_path: Path,
) -> None:
    done(place, "add", finished.adaptation("tfidf"), "acme/x")
    (tmp_path / "empty.txt").write_text("\n  \n")
    known = {"ADA": str(finished.adaptation("tfidf")), "EMPTY": str(tmp_path / "empty.txt")}
    before = done(place, "show", "acme/x").json
    found = registry(place, *(known.get(each, each) for each in arguments))
    assert found.code == 2, found.out + found.err
    told = json.dumps(found.json, ensure_ascii=False)
    for word in words:
        assert word in told
    assert found.json["expected"] or found.json["fix"]
    assert "Traceback" not in found.err
    assert done(place, "show", "acme/x").json == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--registry", ""], "empty"),
        (["--registry", "mysql://x/y"], "mysql"),
        (["--registry", "sqlite://"], "memory"),
        (["--registry", "postgresql://u:secret@127.0.0.1:1/x"], "files"),
        (["--registry", "sqlite:////nowhere/at/all.db", "--files", "F"], "nowhere"),
        (["--registry", "R", "--files", "nothing://x"], "nothing"),
        (["--registry", "R", "--files", ""], "empty"),
        (["--registry", "R", "--actor", " ", "add", "ADA", "acme/x"], "actor"),
        (["--registry", "FILE"], "folder"),
        (["--registry", "OTHER"], "something else"),
        (["--registry", "NOISE"], "something else"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else each,
)
def test_places_that_are_none(
    flags: list[str], word: str, finished: Finished, tmp_path: Path
) -> None:
    import sqlite3

    (tmp_path / "file").write_text("x")
    for name in ("other", "noise"):
        (tmp_path / name).mkdir()
    with sqlite3.connect(tmp_path / "other" / "registry.db") as other:
        other.execute("CREATE TABLE versions (x)")
    (tmp_path / "noise" / "registry.db").write_bytes(b"no database at all" * 100)
    known = {
        "R": tmp_path / "r",
        "F": tmp_path / "f",
        "FILE": tmp_path / "file",
        "OTHER": tmp_path / "other",
        "NOISE": tmp_path / "noise",
        "ADA": finished.adaptation("tfidf"),
    }
    words = [known.get(each, each) for each in flags]
    verb = [] if "add" in flags else ["list"]
    if "add" in flags:
        index = words.index("add")
        words = [*words[index:], *words[:index]]
    found = tunewise("registry", *verb, *words, "--json")
    assert found.code in (2, 3), found.out + found.err
    assert word in json.dumps(found.json)
    assert "secret" not in found.err + found.out
    assert "Traceback" not in found.err
