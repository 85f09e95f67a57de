"""What was damaged is refused, and what cannot be saved leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adaptation.samples import (
    LINEAR,
    PARTS,
    PROMPT,
    adaptation_of,
    assert_same,
    contents,
    normal,
)

from tunewise.adaptation import folder as folder_module
from tunewise.adaptation import store
from tunewise.adaptation.files import MANIFEST_ROOT, json_bytes
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.errors import (
    AdaptationError,
    CorruptAdaptationError,
    OutputFolderError,
    StorageError,
    WrongBaseError,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store.save(adaptation_of(*PARTS["all"]), tmp_path / "ada")
    return tmp_path / "ada"


def test_every_flipped_byte_is_found(saved: Path) -> None:
    load = store.load
    for name, data in contents(saved).items():
        step = max(1, len(data) // 12)
        for place in [*range(0, len(data), step), len(data) - 1]:
            broken = bytearray(data)
            broken[place] ^= 1
            (saved / name).write_bytes(bytes(broken))
            with pytest.raises(AdaptationError) as caught:
                load(saved)
            assert name.split("/")[-1] in str(caught.value)
            if name != "adaptation.json":
                assert isinstance(caught.value, CorruptAdaptationError)
                assert str(caught.value).count("sha256") == 2
        (saved / name).write_bytes(data)
    load(saved)


@pytest.mark.parametrize("cut", ["half", "empty", "last"])
def test_a_truncated_file_is_found(saved: Path, cut: str) -> None:
    for name, data in contents(saved).items():
        keep = {"half": len(data) // 2, "empty": 0, "last": len(data) - 1}[cut]
        (saved / name).write_bytes(data[:keep])
        with pytest.raises(CorruptAdaptationError, match=name.split("/")[-1]):
            store.load(saved)
        (saved / name).write_bytes(data)


def test_a_missing_file_is_found(saved: Path) -> None:
    for name, data in contents(saved).items():
        (saved / name).unlink()
        with pytest.raises(AdaptationError, match=name):
            store.load(saved)
        (saved / name).write_bytes(data)


def test_an_added_file_is_found_and_a_hidden_one_is_not_read(saved: Path) -> None:
    (saved / ".DS_Store").write_text("x")
    store.load(saved)
    (saved / "virtual_tokens" / "more.safetensors").write_text("x")
    with pytest.raises(CorruptAdaptationError, match=r"not part of it: virtual_tokens/more"):
        store.load(saved)


def resign(folder: Path, **changes: Any) -> None:
    """Change the manifest and sign it again, as someone with bad intent could."""
    body = json.loads((folder / "adaptation.json").read_text())
    body.pop("fingerprint")
    for path, value in changes.items():
        *way, last = path.split("__")
        target = body
        for step in way:
            target = target[step]
        target[last] = value
    body["fingerprint"] = store._fingerprint(body)
    (folder / "adaptation.json").write_bytes(json_bytes(body, MANIFEST_ROOT))


@pytest.mark.parametrize("number", [2, 99])
def test_a_newer_format_says_upgrade(saved: Path, number: int) -> None:
    resign(saved, format=number, novelty={})
    with pytest.raises(AdaptationError, match=f"format {number}(.|\n)*upgrade") as caught:
        store.load(saved)
    assert not isinstance(caught.value, CorruptAdaptationError)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "..",
        "a\\b",
        "C:/x",
        "./prompt_text.json",
        "a//b",
        "",
    ],
)
def test_a_path_that_leads_out_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    files = json.loads((saved / "adaptation.json").read_text())["files"]
    resign(saved, files={**files, name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(CorruptAdaptationError, match="outside its folder"):
        store.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0},
        {"format": "1"},
        {"novelty": 1},
        {"decoding__novelty": 1},
        {"decoding__mode": "guess"},
        {"decoding__max_new_tokens": "64"},
        {"spec__kind": "poem"},
        {"spec__labels": "ab"},
        {"provenance__seed": 1.5},
        {"provenance__novelty": 1},
        {"parts": [{"kind": "spell", "files": []}]},
        {"parts": [{"kind": "prompt_text", "files": []}]},
        {"parts": [{"kind": "prompt_text", "files": ["elsewhere.json"]}]},
        {"parts": [{"kind": "prompt_text", "files": ["kv_prefix.safetensors"]}]},
        {"parts": [{"kind": "weights", "files": ["prompt_text.json"]}]},
        {
            "parts": [
                {"kind": "virtual_tokens", "files": ["adapter_config.json", "weights.safetensors"]}
            ]
        },
        {"parts": [{"kind": "kv_prefix", "files": ["kv_prefix.safetensors"]}]},
        {
            "parts": [
                {
                    "kind": "kv_prefix",
                    "files": ["weights.safetensors"],
                    "replaces_shared_text": True,
                }
            ]
        },
        {"parts": [{"kind": "shallow_model", "files": ["shallow_model.json"]}]},
        {"parts": [{"kind": "low_rank", "files": ["adapter_config.json"]}]},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    resign(saved, **changes)
    with pytest.raises(CorruptAdaptationError):
        store.load(saved)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "{", '{"format": NaN}', "\x00\xff", "[" * 9999]
)
def test_a_manifest_that_is_no_manifest(saved: Path, text: str) -> None:
    (saved / "adaptation.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(AdaptationError):
        store.load(saved)


def test_another_base(tmp_path: Path) -> None:
    saved = tmp_path / "hybrid"
    store.save(adaptation_of(*PARTS["hybrid"]), saved)
    store.load(saved, base_fingerprint="f" * 8)
    with pytest.raises(WrongBaseError) as caught:
        store.load(saved, base_fingerprint="0" * 8, base_name="other")
    for word in ("tiny", "ffffffff", "other", "00000000", "--base tiny"):
        assert word in str(caught.value)
    store.save(adaptation_of(LINEAR), tmp_path / "shallow")
    store.load(tmp_path / "shallow", base_fingerprint="0" * 8)


def test_no_adaptation_there(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "file.txt").write_text("x")
    cases = {"run": "holds nothing", "file.txt": "is a file", "adda": "does not exist"}
    for name, message in cases.items():
        with pytest.raises(AdaptationError, match=message) as caught:
            store.load(tmp_path / name)
        assert str(saved) in caught.value.fix
    (tmp_path / "run" / "notes.md").write_text("x")
    with pytest.raises(AdaptationError, match=r"holds notes\.md"):
        store.load(tmp_path / "run")
    with pytest.raises(AdaptationError, match="did you mean"):
        store.load(tmp_path)


def test_the_folder_of_a_run_or_the_manifest_itself_leads_to_the_adaptation(
    saved: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "elsewhere" / "run" / "adaptations" / saved.name
    shutil.copytree(saved, inside)
    for named in (inside.parent.parent, inside.parent, inside / "adaptation.json"):
        with pytest.raises(AdaptationError) as caught:
            store.load(named)
        assert caught.value.fix == f"did you mean {inside}?"


@pytest.mark.parametrize("content", ["notes.md", ".hidden", "another", "file"])
def test_a_folder_that_holds_something_else_is_kept(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "ada"
    if content == "file":
        folder.write_text("mine")
    elif content == "another":
        store.save(adaptation_of(PROMPT, seed=7), folder)
    else:
        folder.mkdir()
        (folder / content).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputFolderError, match="ada"):
        store.save(adaptation_of(PROMPT), folder)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ada")
    store.save(adaptation_of(PROMPT), tmp_path / "link")
    assert_same(store.load(tmp_path / "ada"), adaptation_of(PROMPT))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_refusing_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    written = 0

    def refuse(path: Path, data: bytes) -> None:
        nonlocal written
        if written == after:
            raise OSError(code, os.strerror(code))
        written += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(folder_module, "_write_file", refuse)
    with pytest.raises(StorageError, match=r"bytes to write, [\d,]+ bytes free"):
        store.save(adaptation_of(*PARTS["all"]), tmp_path / "new" / "ada")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(partial: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "_rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(adaptation_of(PROMPT), tmp_path / "ada")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".ada.999999999.partial").mkdir()
    (tmp_path / f".ada.{os.getppid()}.partial").mkdir()
    store.save(adaptation_of(PROMPT), tmp_path / "ada")
    assert {path.name for path in tmp_path.iterdir()} == {"ada", f".ada.{os.getppid()}.partial"}


def test_a_folder_filled_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = folder_module._sync_folder

    def fill(folder: Path) -> None:
        (tmp_path / "ada").mkdir(exist_ok=True)
        (tmp_path / "ada" / "theirs").write_text("x")
        sync(folder)

    monkeypatch.setattr(folder_module, "_sync_folder", fill)
    with pytest.raises(OutputFolderError, match="meanwhile"):
        store.save(adaptation_of(PROMPT), tmp_path / "ada")
    assert set(contents(tmp_path)) == {"ada/theirs"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="may not be written"):
        store.save(adaptation_of(PROMPT), tmp_path / "ada")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "notes",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": Path("a")},
        {"x": {1: 2}},
        {"x": torch.tensor(1.0)},
        {"x": {1, 2}},
        {"x": "\ud800"},
    ],
    ids=repr,
)
def test_what_json_cannot_hold_is_refused_by_name(tmp_path: Path, notes: dict[str, Any]) -> None:
    with pytest.raises(AdaptationError, match=r"notes\.x|UTF-8"):
        store.save(adaptation_of(PROMPT, notes=notes), tmp_path / "ada")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "part",
    [
        VirtualTokensPart(normal(3)),
        VirtualTokensPart(normal(3, 2).double()),
        VirtualTokensPart(normal(0, 2)),
        KVPrefixPart((), (), True),
        KVPrefixPart((normal(2, 3, 4),), (), True),
        KVPrefixPart((normal(2, 3, 4),), (normal(2, 2, 4),), True),
        KVPrefixPart((normal(2, 3),), (normal(2, 3),), True),
        KVPrefixPart((normal(2, 3, 4).half(),), (normal(2, 3, 4),), True),
        KVPrefixPart((normal(2, 3, 4), normal(2, 5, 4)), (normal(2, 3, 4), normal(2, 5, 4)), True),
        LowRankPart({}, {}),
        LowRankPart({}, {"m.lora_A.weight": normal(2, 8)}),
        LowRankPart({}, {"m.lora_A.weight": normal(2, 8), "m.lora_B.weight": normal(8, 3)}),
        LowRankPart({}, {"m.lora_B.weight": normal(2, 8).half()}),
        WeightsPart({}),
        ShallowModelPart("constant", {}),
        ShallowModelPart("lead", {}),
        ShallowModelPart("linear", {"labels": ["a"], "terms": ["b"]}),
        replace(LINEAR, tensors={name: t.float() for name, t in LINEAR.tensors.items()}),
        replace(LINEAR, config={"labels": ["a"], "terms": ["b"]}),
    ],
    ids=repr,
)
def test_a_part_of_the_wrong_form_is_refused(part: Part, tmp_path: Path) -> None:
    with pytest.raises(AdaptationError):
        store.save(adaptation_of(part), tmp_path / "ada")
    assert list(tmp_path.iterdir()) == []
