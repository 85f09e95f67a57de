"""Settings of methods and chains as a task file declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.methods._contract import full_names, parse_settings
from tunewise.methods._registry import find_method


@pytest.mark.parametrize(
    ("name", "given", "full"),
    [
        ("lora", {"rank": 4}, {"rank": 4}),
        ("prompt_search>lora", {"rank": 4}, {"lora_rank": 4}),
        ("prompt_search>lora", {"lora_rank": 4, "edits": 0}, {"lora_rank": 4}),
        ("prompt_search>lora>prompt_search", {"edits": 0}, {"prompt_search_edits": 0}),
        ("soft_prompt+lora", {"rank": 2, "steps": 3}, {"lora_rank": 2, "steps": 3}),
        ("zero_shot>soft_prompt+lora", {"rank": 2}, {"soft_prompt_and_lora_lora_rank": 2}),
    ],
)
def test_a_name_that_one_member_has_may_stand_alone(
    name: str, given: dict[str, Any], full: dict[str, Any]
) -> None:
    method = find_method(name)
    assert full.items() <= full_names(method, given).items()
    settings = parse_settings(method, given)
    assert all(getattr(settings, key) == value for key, value in full.items())


@pytest.mark.parametrize(
    ("name", "given", "error", "words"),
    [
        ("lora", {"rnk": 4}, UnknownNameError, "rank"),
        ("soft_prompt", {"tokens": 4}, UnknownNameError, "unknown setting"),
        ("prompt_search>lora", {"tokens": 4}, UnknownNameError, "unknown setting"),
        ("lora>soft_prompt", {"steps": 4}, ConfigError, "lora_steps or soft_prompt_steps"),
        ("lora>soft_prompt", {"rank": 4, "lora_rank": 4}, ConfigError, "twice"),
        ("prompt_search>lora", {"rank": 0}, ConfigError, "--lora-rank 0"),
    ],
)
def test_a_name_that_is_not_clear_is_refused(
    name: str, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        parse_settings(find_method(name), given)


def test_a_declared_chain_is_fitted_with_its_settings(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    task = tmp_path / "task.toml"
    task.write_text(
        'data = "rows.jsonl"\n[methods."zero_shot>lora"]\nrank = 2\nlora_steps = 3\n'
        "[methods.majority]\n"
    )
    flags = ("--base", tiny_folder, "--task", task, "--seeds", "1", "--questions", "none", "--json")
    listed = tunewise("compare", *flags, "--out", tmp_path / "run", "--plan")
    assert listed.code == 0, listed.err
    planned = {job["method"] for job in listed.json["jobs"]}
    assert {"zero_shot>lora", "lora", "majority", "few_shot"} <= planned
    some = ("--methods", "majority,zero_shot>lora", "--budget", "20k")
    done = tunewise("compare", *flags, "--out", tmp_path / "run", *some)
    assert done.code == 0, done.err
    entries = {entry["method"]: entry for entry in done.json["entries"]}
    assert set(entries) == {"majority", "zero_shot>lora"}
    assert entries["zero_shot>lora"]["settings"]["lora_rank"] == 2
    # `fit` reads the same table, and a flag lies over it.
    out = tmp_path / "ada"
    one = tunewise("fit", "zero_shot>lora", *flags[:4], "--out", out, "--lora-rank", "3", "--json")
    assert one.code == 0, one.err
    assert one.json["settings"]["lora_rank"] == 3
    assert one.json["settings"]["lora_steps"] == 3
    assert data.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[methods.lroa]\nrank = 2", ("lroa", "lora")),
        ("[methods.lora]\nrnk = 2", ("rnk", "rank")),
        ("[methods.lora]\nrank = 0", ("--rank 0",)),
        ('[methods.lora]\nrank = "many"', ("--rank many",)),
        ('[methods."tfidf>lora"]', ("nothing can start from tfidf",)),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    text: str, words: tuple[str, ...], tmp_path: Path, tiny_folder: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", two_labels(40))
    (tmp_path / "task.toml").write_text(f'data = "rows.jsonl"\n{text}\n')
    flags = ("--base", tiny_folder, "--task", tmp_path / "task.toml", "--json")
    # Even where the method is not among those that are named.
    done = tunewise("compare", *flags, "--methods", "majority", "--out", tmp_path / "run")
    assert done.code == 2
    assert all(word in str(done.json) for word in words)
    assert not (tmp_path / "run").exists()
