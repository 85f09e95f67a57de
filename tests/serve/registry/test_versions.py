"""Registering, finding, listing: what is there is what was given, whole, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serve.registry.samples import Clock, constant, registered, stored, text

from tunewise.adaptation.store import fingerprint_of, load
from tunewise.errors import (
    AdaptationError,
    CorruptAdaptationError,
    NotRegisteredError,
    RegistryError,
    WrongBaseError,
)
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry

NAME = parse_name("acme/tickets")
ANN = Registration(NAME, "ann")


def test_a_version_is_the_adaptation_that_was_given(registry: Registry, tmp_path: Path) -> None:
    made = constant("good", start="p" * 64, seed=3)
    version = registry.add(stored(tmp_path / "a", made), ANN)
    assert version.number == 1
    assert version.digest == fingerprint_of(made)
    assert (version.kinds, version.task, version.metric) == (
        ("shallow_model",),
        "tickets",
        "accuracy",
    )
    assert (version.parent, version.data_hash) == ("p" * 64, "d" * 64)
    assert load(registry.folder(version)) == made
    assert registry.version("acme/tickets@1") == version
    assert registry.version(f"acme/tickets@{version.digest[:8]}") == version


def test_the_same_content_is_one_version(registry: Registry, tmp_path: Path) -> None:
    source = stored(tmp_path / "a", constant("good"))
    first, again = registry.add(source, ANN), registry.add(source, ANN)
    other = registry.add(stored(tmp_path / "b", constant("bad")), ANN)
    assert first == again
    assert other.number == 2
    assert [each.number for each in registry.versions("acme/tickets")] == [1, 2]
    elsewhere = registry.add(source, Registration(parse_name("acme/other"), "ann"))
    assert elsewhere.digest == first.digest
    assert elsewhere.number == 1


def test_tenants_have_files_of_their_own(registry: Registry, tmp_path: Path) -> None:
    mine = registered(registry, tmp_path, "acme/x")
    theirs = registered(registry, tmp_path, "umbrella/x")
    assert mine.digest == theirs.digest
    assert registry.folder(mine) != registry.folder(theirs)


def test_registering_again_mends_damaged_files(registry: Registry, tmp_path: Path) -> None:
    source = stored(tmp_path / "a", constant("good"))
    version = registry.add(source, ANN)
    file = registry.folder(version) / "shallow_model.json"
    file.write_bytes(file.read_bytes().replace(b"good", b"bad!"))
    with pytest.raises(CorruptAdaptationError):
        load(registry.folder(version))
    assert registry.add(source, ANN) == version
    assert load(registry.folder(version)) == constant("good")


def _damage(folder: Path) -> None:
    file = folder / "prompt_text.json"
    file.write_bytes(file.read_bytes().replace(b"Say", b"Sau"))


def _pickle(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"\x80\x04N.")


def _hidden_pickle(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_bytes(b"\x80\x05N.")


def _torch_zip(folder: Path) -> None:
    (folder / "weights").write_bytes(b"PK\x03\x04rest")


def _listed_pickle(folder: Path) -> None:
    """A manifest that names a pickle as one of its files."""
    manifest = json.loads((folder / "adaptation.json").read_text())
    manifest["files"]["weights.pt"] = manifest["files"]["prompt_text.json"]
    (folder / "adaptation.json").write_text(json.dumps(manifest))
    (folder / "weights.pt").write_bytes(b"\x80\x04N.")


def _link(folder: Path) -> None:
    (folder / "extra.json").symlink_to("/etc/hostname")


def _extra(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")


def _extra_json(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def _missing(folder: Path) -> None:
    (folder / "prompt_text.json").unlink()


def _no_manifest(folder: Path) -> None:
    (folder / "adaptation.json").unlink()


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


def _file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def _not_json(folder: Path) -> None:
    (folder / "adaptation.json").write_text("{")


def _newer(folder: Path) -> None:
    manifest = json.loads((folder / "adaptation.json").read_text())
    (folder / "adaptation.json").write_text(json.dumps({**manifest, "format": 99}))


SPOILED = [
    _damage,
    _pickle,
    _hidden_pickle,
    _torch_zip,
    _listed_pickle,
    _link,
    _extra,
    _extra_json,
    _missing,
    _no_manifest,
    _empty,
    _gone,
    _file,
    _not_json,
    _newer,
]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda each: each.__name__.strip("_"))
def test_what_is_not_whole_is_refused_and_leaves_nothing(
    spoil: Callable[[Path], None], registry: Registry, tmp_path: Path
) -> None:
    source = stored(tmp_path / "a", text("Say good or bad."))
    spoil(source)
    with pytest.raises(AdaptationError):
        registry.add(source, ANN)
    assert registry.names(None) == []
    assert registry.files.held() == []
    assert registry.audit_trail() == []
    with registry.files.incoming() as private:
        assert not private.parent.exists() or list(private.parent.iterdir()) == []


def test_another_base_is_refused(registry: Registry, tmp_path: Path) -> None:
    source = stored(tmp_path / "a", text("Say good or bad."))
    with pytest.raises(WrongBaseError):
        registry.add(source, Registration(NAME, "ann", base_fingerprint="0" * 64))
    assert registry.files.held() == []


def test_a_check_that_refuses_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    def refuse(_: object) -> dict[str, object]:
        raise AdaptationError("it answers as the base does")

    source = stored(tmp_path / "a", text("Say good or bad."))
    with pytest.raises(AdaptationError, match="as the base"):
        registry.add(source, Registration(NAME, "ann", check=refuse))
    assert registry.files.held() == []
    assert registry.names(None) == []


def test_lists_come_in_pages(registry: Registry, tmp_path: Path) -> None:
    names = [f"{tenant}/n{number}" for tenant in ("acme", "zeta") for number in range(7)]
    for name in reversed(names):
        registered(registry, tmp_path, name)
    registered(registry, tmp_path, "acme/n3", "bad")
    seen: list[str] = []
    while page := registry.names(None, after=seen[-1] if seen else "", limit=4):
        assert len(page) <= 4
        seen += [str(each.name) for each in page]
    assert seen == names
    (third,) = [each for each in registry.names("acme") if each.name.name == "n3"]
    assert (third.versions, third.latest.number) == (2, 2)
    assert [str(each.name) for each in registry.names("zeta")] == names[7:]
    assert registry.names("nobody") == []


@pytest.mark.parametrize(
    "reference",
    ["acme/none", "acme/none@1", "none/x@1", "acme/x@2", "acme/x@production", "acme/x@ffffffff"],
)
def test_what_is_not_there_is_said_to_be(
    reference: str, registry: Registry, tmp_path: Path
) -> None:
    registered(registry, tmp_path, "acme/x")
    with pytest.raises(NotRegisteredError):
        registry.version(reference)
    with pytest.raises(NotRegisteredError):
        registry.resolve(reference)


def test_a_retired_version_is_history(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    version = registered(registry, tmp_path, "acme/x")
    clock.now += 5
    retired = registry.retire("acme/x@1", "bob", reason="of no use")
    assert (retired.state, retired.retired_at) == ("retired", clock.now)
    assert registry.retire("acme/x@1", "bob") == retired
    with pytest.raises(RegistryError, match="retired"):
        registry.resolve("acme/x@1")
    with pytest.raises(RegistryError, match="retired"):
        registry.promote("acme/x@1", "bob")
    with pytest.raises(RegistryError, match="retired"):
        registered(registry, tmp_path, "acme/x")
    assert registry.version("acme/x@1").digest == version.digest
    assert [entry.action for entry in registry.audit_trail("acme/x")] == ["add", "retire"]
