"""Adaptations come back bit by bit, from one folder with the same bytes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adaptation.samples import PARTS, PROMPT, VIRTUAL, adaptation_of, assert_same, contents

from tunewise.adaptation import store
from tunewise.adaptation.parts import Part


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store.save(adaptation_of(*PARTS["all"]), tmp_path / "ada")
    return tmp_path / "ada"


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_is_saved_is_loaded(parts: tuple[Part, ...], tmp_path: Path) -> None:
    adaptation = adaptation_of(*parts, start="abc")
    store.save(adaptation, tmp_path / "deep" / "ada")
    loaded = store.load(tmp_path / "deep" / "ada")
    assert_same(adaptation, loaded)
    assert store.fingerprint_of(adaptation) == store.fingerprint_of(loaded)
    assert store.fingerprint_of(loaded) == store.fingerprint_of_folder(tmp_path / "deep" / "ada")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ada"]


def test_the_same_adaptation_gives_the_same_bytes(tmp_path: Path, saved: Path) -> None:
    again = adaptation_of(*PARTS["all"])
    again = replace(
        again,
        provenance=replace(
            again.provenance, settings=dict(reversed(list(again.provenance.settings.items())))
        ),
    )
    store.save(again, tmp_path / "again")
    assert contents(saved) == contents(tmp_path / "again")
    before = {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
    store.save(again, saved)
    assert before == {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
    manifest = (saved / "adaptation.json").read_text(encoding="utf-8")
    assert manifest.endswith("}\n")
    assert "é" in manifest
    assert str(tmp_path) not in manifest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"notes": {"loss": 0.3}},
        {"start": "x"},
        {"base_fingerprint": "g"},
        {"settings": {}},
    ],
)
def test_another_adaptation_has_another_fingerprint(change: dict[str, Any]) -> None:
    first = store.fingerprint_of(adaptation_of(PROMPT))
    assert first != store.fingerprint_of(adaptation_of(PROMPT, **change))
    assert first != store.fingerprint_of(adaptation_of(VIRTUAL))


def test_a_schema_keeps_its_order_and_everything_else_is_sorted(tmp_path: Path) -> None:
    schema = {"properties": {"zeta": {"type": "string"}, "alpha": {}}, "a": 1}
    first = adaptation_of(PROMPT, notes={"z": 1, "a": {"z": 1, "a": 2}})
    first = replace(first, spec=replace(first.spec, schema=schema))
    store.save(first, tmp_path / "ada")
    assert json.dumps(store.load(tmp_path / "ada").spec.schema) == json.dumps(schema)
    notes = json.loads((tmp_path / "ada" / "adaptation.json").read_text())["provenance"]["notes"]
    assert json.dumps(notes) == '{"a": {"a": 2, "z": 1}, "z": 1}'
    turned = {"a": 1, "properties": {"alpha": {}, "zeta": {"type": "string"}}}
    second = replace(first, spec=replace(first.spec, schema=turned))
    assert store.fingerprint_of(first) != store.fingerprint_of(second)


def test_layout(saved: Path) -> None:
    assert set(contents(saved)) == {
        "adaptation.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "kv_prefix.safetensors",
        "prompt_text.json",
        "shallow_model.json",
        "shallow_model.safetensors",
        "virtual_tokens/adapter_config.json",
        "virtual_tokens/adapter_model.safetensors",
        "weights.safetensors",
    }
    assert json.loads((saved / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert store.folder_bytes(saved) == sum(len(data) for data in contents(saved).values())
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask


def test_installed_versions() -> None:
    versions = store.installed_versions()
    assert list(versions) == ["tunewise", "torch", "transformers", "peft"]
    assert (
        versions["torch"] == torch.__version__.split("+")[0]
        or versions["torch"] == torch.__version__
    )
