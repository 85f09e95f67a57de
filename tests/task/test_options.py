"""Task files: every key works, and all faults are told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunewise.errors import ConfigError
from tunewise.task.options import TaskOptions, merge, read_task_file
from tunewise.task.types import Kind


def _file(folder: Path, text: str) -> Path:
    path = folder / "task.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_has_a_line_of_help() -> None:
    for name, field in TaskOptions.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description


def test_a_whole_task_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x")
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object"}))
    held = read_task_file(
        _file(
            tmp_path,
            'data = "rows.csv"\nschema = "schema.json"\nkind = "json"\ninput = "text"\n'
            'output = "answer"\ninstruction = """Two\nlines"""\nsplit_seed = 0\n'
            "test_fraction = 0.5\n",
        )
    )
    data, options = held.data, held.options
    assert held.methods == {}
    assert data == str(tmp_path / "rows.csv")
    assert options.json_schema == {"type": "object"}
    assert (options.kind, options.input, options.split_seed) == (Kind.JSON, "text", 0)
    assert options.instruction == "Two\nlines"
    assert options.validation_fraction == 0.15


def test_inline_schema_and_data_that_is_no_file(tmp_path: Path) -> None:
    held = read_task_file(_file(tmp_path, 'data = "owner/name"\n[schema]\ntype = "array"\n'))
    assert held.data == "owner/name"
    assert held.options.json_schema == {"type": "array"}
    assert read_task_file(_file(tmp_path, "")).data is None


def test_methods_with_their_settings(tmp_path: Path) -> None:
    text = '[methods."prompt_search > lora"]\nrank = 8\n[methods.lora]\nlearning_rate = 1e-3\n'
    methods = read_task_file(_file(tmp_path, text)).methods
    assert methods == {"prompt_search>lora": {"rank": 8}, "lora": {"learning_rate": 1e-3}}
    assert list(methods) == ["prompt_search>lora", "lora"]


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        'inpt = "text"\nkind = "classify"\ntest_fraction = 2\nschema = "none.json"\ndata = 3\n'
        'zzz = 1\nsplit_seed = "x"\n',
    )
    with pytest.raises(ConfigError) as caught:
        read_task_file(path)
    message = str(caught.value)
    assert "7 faults" in message
    needles = (
        "did you mean input",
        "'classify'",
        "test_fraction",
        "none.json",
        "data: found 3",
        "zzz",
    )
    assert all(needle in message for needle in needles)


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("input = ", "not valid TOML"),
        ("schema = 3", "schema"),
        ('schema = "list.json"', "no JSON object"),
        ('schema = "broken.json"', "not JSON"),
        ('[schema]\ntype = "strange"', "no JSON schema"),
        ('[schema]\ntype = "object"\n[json_schema]\ntype = "object"', "both"),
        ('label_separator = ""', "label_separator"),
        ("near_duplicate_similarity = 0", "near_duplicate_similarity"),
        ("split_seed = -1", "split_seed"),
        ("methods = 3", "methods: found 3"),
        ('methods = ["lora"]', "methods: found"),
        ("[methods]\nlora = 8", r"methods\.lora: found 8"),
        ('[methods."a>b"]\n[methods."a > b"]', "twice"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, needle: str) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=needle) as caught:
        read_task_file(_file(tmp_path, text))
    assert caught.value.fix


def test_missing_task_file(tmp_path: Path) -> None:
    _file(tmp_path, "")
    with pytest.raises(ConfigError, match=r"task\.toml"):
        read_task_file(tmp_path / "tsk.toml")


def test_flags_lie_over_the_file() -> None:
    options = TaskOptions(input="text", split_seed=5, json_schema={"type": "object"})
    merged = merge(options, output="label", split_seed=0, name=None)
    assert (merged.input, merged.output, merged.split_seed) == ("text", "label", 0)
    assert merged.json_schema == {"type": "object"}
    assert merge(options) == options
    with pytest.raises(ConfigError, match="outptu"):
        merge(options, outptu="x", test_fraction=7)
