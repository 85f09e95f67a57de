"""Recipes: task files in the registry, and the recipe of every adaptation."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.conftest import Finished
from tests.cli.terminal import tunewise
from tests.cli.test_registry_exchange import done, registry

from tunewise.adaptation.store import fingerprint_of_folder, load, save

HOW = "acme/how"
TEXT = """instruction = "Good or bad?"

[methods.lora]
rank = 2

[methods."prompt_search>lora"]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "how.toml").write_text(TEXT)
    return tmp_path / "how.toml"


def test_a_recipe_has_versions_and_aliases(place: Path, file: Path, tmp_path: Path) -> None:
    first = done(place, "add", file, HOW)
    assert (first["number"], first["kinds"]) == (1, ["recipe"])
    assert first["method"] == "lora, prompt_search>lora"
    # The same recipe in other words of TOML is the same content.
    file.write_text("# now with a remark\n" + TEXT.replace("rank = 2", "rank   = 2"))
    assert done(place, "add", file, HOW)["number"] == 1
    file.write_text(TEXT.replace("rank = 2", "rank = 4"))
    assert done(place, "add", file, HOW)["number"] == 2
    changed = done(place, "diff", f"{HOW}@1", f"{HOW}@2")
    assert changed["methods"] == {"lora.rank": {"old": 2, "new": 4}}
    assert registry(place, "promote", f"{HOW}@2").code == 2
    done(place, "promote", f"{HOW}@2", "--reason", "rank 2 was too few")
    told = tunewise("registry", "recipe", HOW, "--registry", place)
    assert told.code == 0
    done(place, "recipe", HOW, "--out", tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_text() == told.out
    assert registry(place, "recipe", HOW, "--out", tmp_path / "again.toml").code == 2
    assert registry(place, "recipe", HOW, "--out", tmp_path / "none" / "x.toml").code == 3
    assert done(place, "add", tmp_path / "again.toml", HOW)["number"] == 2
    assert done(place, "verify")["faults"] == []


def test_a_changed_byte_of_a_recipe_is_found(place: Path, file: Path) -> None:
    folder = Path(done(place, "show", f"{done(place, 'add', file, HOW)['name']}@1")["folder"])
    stored = folder / "recipe.json"
    stored.write_text(stored.read_text().replace('"rank": 2', '"rank": 3'))
    assert registry(place, "verify").code != 0
    assert registry(place, "recipe", f"{HOW}@1").code == 2
    # Registering it again puts the bytes back.
    done(place, "add", file, HOW)
    assert done(place, "verify")["faults"] == []


def test_the_recipe_of_an_adaptation_finds_it_again(
    place: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    made = finished.adaptation("few_shot")
    done(place, "add", made, "acme/tickets", "--base", tiny_folder)
    told = tunewise("registry", "recipe", "acme/tickets@1", "--registry", place)
    assert told.code == 0
    assert "# tunewise fit few_shot DATA --task THIS_FILE --seed 0" in told.out
    (tmp_path / "how.toml").write_text(told.out)
    flags = ("--task", tmp_path / "how.toml", "--budget", "20k", "--base", tiny_folder)
    again = tunewise("fit", "few_shot", finished.data, "--out", tmp_path / "again", *flags)
    assert again.code == 0, again.err
    assert fingerprint_of_folder(tmp_path / "again") == fingerprint_of_folder(made)


def test_a_schema_keeps_its_order_and_its_nulls(place: Path, file: Path, tmp_path: Path) -> None:
    properties = {"z": {"enum": ["x", None]}, "a": {"type": "string"}}
    schema = {"type": "object", "properties": properties}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    file.write_text('schema = "s.json"\n[methods.lora]\n')
    done(place, "add", file, HOW)
    assert registry(place, "recipe", HOW + "@1").json["options"]["json_schema"] == schema
    plain = tunewise("registry", "recipe", HOW + "@1", "--registry", place)
    assert plain.code == 2
    assert "--out" in plain.err
    done(place, "recipe", HOW + "@1", "--out", tmp_path / "again.toml")
    assert list(json.loads((tmp_path / "again.toml.schema.json").read_text())["properties"]) == [
        "z",
        "a",
    ]
    assert done(place, "add", tmp_path / "again.toml", HOW)["number"] == 1
    (tmp_path / "s.json").write_text(
        json.dumps({**schema, "properties": dict(reversed(properties.items()))})
    )
    assert done(place, "add", file, HOW)["number"] == 2


def test_what_matters_is_part_of_a_recipe(place: Path, file: Path, tmp_path: Path) -> None:
    done(place, "add", file, HOW)
    file.write_text(TEXT + "[priorities]\ndomains = 20\n")
    assert done(place, "add", file, HOW)["number"] == 2
    done(place, "recipe", HOW + "@2", "--out", tmp_path / "again.toml")
    assert "domains = 20" in (tmp_path / "again.toml").read_text()


def test_a_name_is_of_recipes_or_of_adaptations(
    place: Path, file: Path, finished: Finished, tiny_folder: Path
) -> None:
    made = finished.adaptation("few_shot")
    done(place, "add", file, HOW)
    done(place, "add", made, "acme/tickets", "--base", tiny_folder)
    for source, name, more in ((file, "acme/tickets", ()), (made, HOW, ("--base", tiny_folder))):
        found = registry(place, "add", source, name, *more)
        assert found.code == 2
        assert "a name of its own" in found.json["fix"]
    for flag in (("--no-probes",), ("--base", tiny_folder)):
        assert registry(place, "add", file, HOW, *flag).code == 2


def test_a_file_beside_a_recipe_is_found(place: Path, file: Path) -> None:
    done(place, "add", file, HOW)
    folder = Path(done(place, "show", HOW + "@1")["folder"])
    (folder / "extra.py").write_text("print()")
    assert registry(place, "verify").code != 0


def test_other_peoples_words_stay_in_their_line(
    place: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    found = load(finished.adaptation("few_shot"))
    odd = replace(found.provenance, base_name="x\n[methods.full]", work={})
    save(replace(found, provenance=odd), tmp_path / "odd")
    done(place, "add", tmp_path / "odd", "acme/odd", "--no-probes")
    told = tunewise("registry", "recipe", "acme/odd@1", "--registry", place)
    assert told.code == 0
    assert list(tomllib.loads(told.out)["methods"]) == ["few_shot"]


BAD = {
    "no method": ('instruction = "x"', "no recipe"),
    "unknown method": ("[methods.lorra]", "lorra"),
    "unknown setting": ("[methods.lora]\nrnak = 2", "rnak"),
    "value": ('[methods.lora]\nrank = "two"', "rank"),
    "unknown question": ("[methods.lora]\n[questions.nonsense]", "nonsense"),
    "unknown priority": ("[methods.lora]\n[priorities]\ndomians = 2", "domians"),
    "a file": ('[methods.lora]\n[questions.out_of_domain]\nfile = "/x.csv"', "one machine"),
    "half a character": ('instruction = "\\ud800"\n[methods.lora]', "TOML"),
    "unknown key": ("instructoin = 'x'\n[methods.lora]", "instructoin"),
    "no toml": ("[methods.lora", "TOML"),
    "binary": ("\x00", "TOML"),
}


@pytest.mark.parametrize(("text", "word"), BAD.values(), ids=BAD)
def test_what_is_no_recipe_is_refused(text: str, word: str, place: Path, file: Path) -> None:
    file.write_text(text)
    found = registry(place, "add", file, HOW)
    assert found.code == 2
    assert word in str(found.json)
    assert done(place, "list") == []


def test_a_recipe_is_no_adaptation(
    place: Path, file: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    done(place, "add", file, HOW)
    done(place, "add", finished.adaptation("few_shot"), "acme/tickets", "--base", tiny_folder)
    for arguments in (
        ("measure", f"{HOW}@1", finished.data, "--base", tiny_folder),
        ("export", f"{HOW}@1", "--as", "text", "--out", tmp_path / "out"),
        ("diff", f"{HOW}@1", "acme/tickets@1"),
    ):
        found = registry(place, *arguments)
        assert found.code == 2, arguments
        assert "recipe" in str(found.json)
    assert not (tmp_path / "out").exists()
