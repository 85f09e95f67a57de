"""Files in a folder, behind file:// and in memory:// lie where they should, and only whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.serve.registry.samples import Clock, constant, registered

from tunewise.adaptation.store import load
from tunewise.errors import ConfigError, CorruptAdaptationError, StorageError, UnavailableError
from tunewise.serve.registry.collect import Ages
from tunewise.serve.registry.files import LocalFiles, RemoteFiles, files_at
from tunewise.serve.registry.registry import Registry

DAY = 86_400.0


@pytest.fixture(params=["folder", "file", "remote file", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    cache = tmp_path / "cache"
    if request.param == "folder":
        return LocalFiles(tmp_path / "files")
    if request.param == "file":
        return files_at(f"file://{tmp_path / 'files'}", cache)
    if request.param == "remote file":
        return RemoteFiles(f"file://{tmp_path / 'files'}", cache)
    return files_at(f"memory://registry-{uuid.uuid4().hex}", cache)


@pytest.fixture
def registry(where: Any, tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    opened = Registry.open(str(tmp_path / "registry"))
    yield replace(opened, files=where, clock=clock)
    opened.close()


def test_what_goes_in_comes_out(registry: Registry, tmp_path: Path) -> None:
    version = registered(registry, tmp_path, "acme/x")
    assert load(registry.folder(version)) == constant("good")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # another machine
    assert load(registry.folder(version)) == constant("good")
    assert [each.digest for each in registry.files.held()] == [version.digest]
    assert registry.verify().faults == ()


def test_it_goes_when_nobody_needs_it(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    import time

    clock.now = time.time()
    version = registered(registry, tmp_path, "acme/x")
    keep = registered(registry, tmp_path, "acme/y", "bad")
    registry.retire("acme/x@1", "ann")
    clock.now += DAY
    found = registry.collect(Ages(retired_seconds=0.0), "ann")
    assert found.removed == (f"acme/{version.digest}",)
    assert [each.digest for each in registry.files.held()] == [keep.digest]
    assert not registry.folder(version).exists()
    assert load(registry.folder(keep)) == constant("bad")


def test_stray_files_go_with_age(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    import time

    clock.now = time.time()
    registered(registry, tmp_path, "acme/x")
    with registry.files.incoming() as private:
        shutil.copytree(tmp_path / "acme-x-good", private)
        registry.files.publish("acme", "e" * 64, private)
    assert registry.collect(Ages(), "ann").removed == ()
    clock.now += 2 * DAY
    assert registry.collect(Ages(), "ann").removed == (f"acme/{'e' * 64}",)
    assert len(registry.files.held()) == 1


def test_a_tenant_is_a_folder(where: Any, tmp_path: Path) -> None:
    for tenant in ("acme", "zeta"):
        with where.incoming() as private:
            private.mkdir(parents=True)
            (private / "adaptation.json").write_text(tenant)
            where.publish(tenant, "a" * 64, private)
    assert [(each.tenant, each.digest) for each in where.held()] == [
        ("acme", "a" * 64),
        ("zeta", "a" * 64),
    ]
    where.remove("acme", "a" * 64)
    where.remove("acme", "a" * 64)
    assert (where.folder("zeta", "a" * 64) / "adaptation.json").read_text() == "zeta"
    assert not where.folder("acme", "a" * 64).exists()


def remote(tmp_path: Path) -> tuple[Registry, str]:
    url = f"memory://registry-{uuid.uuid4().hex}"
    registry = Registry.open(str(tmp_path / "registry"), files=url, cache=tmp_path / "cache")
    return registry, url.removeprefix("memory:/")


def test_a_changed_byte_elsewhere_is_seen_and_mended(tmp_path: Path) -> None:
    registry, root = remote(tmp_path)
    version = registered(registry, tmp_path, "acme/x")
    memory = fsspec.filesystem("memory")
    name = f"{root}/objects/acme/{version.digest}/shallow_model.json"
    memory.pipe_file(name, memory.cat_file(name).replace(b"good", b"goot"))
    assert "acme/x@1" in registry.verify().faults[0]
    with pytest.raises(CorruptAdaptationError):
        load(registry.folder(version))
    assert registered(registry, tmp_path, "acme/x") == version
    assert registry.verify().faults == ()


def test_half_an_upload_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, root = remote(tmp_path)
    memory = type(fsspec.filesystem("memory"))
    whole = memory.pipe_file

    def broken(self: Any, path: str, value: bytes, **rest: Any) -> Any:
        if path.endswith("adaptation.json"):
            raise OSError("the line is dead")
        return whole(self, path, value, **rest)

    monkeypatch.setattr(memory, "pipe_file", broken)
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        registered(registry, tmp_path, "acme/x")
    assert "the line is dead" in caught.value.found
    assert registry.names(None) == []
    assert fsspec.filesystem("memory").find(root)
    monkeypatch.setattr(memory, "pipe_file", whole)
    assert registered(registry, tmp_path, "acme/x").number == 1
    assert registry.verify().faults == ()


def test_a_file_name_cannot_lead_out_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies elsewhere was perhaps written by somebody else."""
    registry, root = remote(tmp_path)
    version = registered(registry, tmp_path, "acme/x")
    shutil.rmtree(tmp_path / "cache")
    place = f"{root}/objects/acme/{version.digest}"
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(memory, "find", lambda *_, **__: [f"{place}/../../../../escaped"])
    monkeypatch.setattr(memory, "cat_file", lambda *_, **__: b"{}")
    with pytest.raises(CorruptAdaptationError, match="outside its folder"):
        registry.folder(version)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("url", ["nothing://x", "s3://", "::", "memory"])
def test_places_that_are_none(url: str, tmp_path: Path) -> None:
    if url in {"memory", "::"}:
        assert isinstance(files_at(url, tmp_path), LocalFiles)  # a folder may be called so
        return
    with pytest.raises(ConfigError):
        files_at(url, tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir(mode=0o500)
    registry = replace(Registry.open(str(tmp_path / "r")), files=LocalFiles(tmp_path / "files"))
    with pytest.raises(StorageError):
        registered(registry, tmp_path, "acme/x")


@pytest.mark.parametrize("place", ["", "  "])
def test_no_place_is_not_the_folder_one_is_in(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is empty"):
        Registry.open(place)
    assert list(tmp_path.iterdir()) == []
