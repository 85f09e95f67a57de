"""Collecting, leases, verifying, comparing: files go when nobody needs them, and not before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from tests.serve.registry.samples import (
    OVERRIDDEN,
    Clock,
    adaptation,
    constant,
    registered,
    stored,
    text,
)

from tunewise.adaptation.parts import PromptTextPart, VirtualTokensPart
from tunewise.adaptation.store import load
from tunewise.errors import NotRegisteredError, RegistryError, UnavailableError
from tunewise.serve.registry import tables
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.collect import Ages
from tunewise.serve.registry.diff import difference
from tunewise.serve.registry.files import Held
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import REMOVING, Registration
from tunewise.serve.registry.registry import Registry
from tunewise.task.prompt import Demonstration, PromptText

DAY = 86_400.0


def orphan(registry: Registry, folder: Path, clock: Clock, age: float = 2 * DAY) -> Held:
    """Files that were written for a version that never came to be."""
    version = registered(registry, folder, "acme/orphan", "lost")
    with registry.database.write() as connection:
        for table in (tables.probes, tables.versions, tables.names):
            connection.execute(delete(table))
        connection.execute(update(tables.contents).values(state="writing", at=clock.now - age))
    place = registry.folder(version)
    os.utime(place, (clock.now - age, clock.now - age))
    return Held("acme", version.digest, clock.now - age)


def collect(registry: Registry, **ages: float) -> tuple[int, int]:
    found = registry.collect(Ages(**ages), "ann")
    return len(found.removed), len(found.in_use)


def test_orphans_go_when_they_are_old(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    held = orphan(registry, tmp_path, clock, age=DAY / 2)
    assert collect(registry) == (0, 0)
    clock.now += DAY
    would = registry.collect(Ages(), "ann", dry_run=True)
    assert would.removed == (f"acme/{held.digest}",)
    assert would.bytes > 0
    assert registry.files.held()
    assert collect(registry) == (1, 0)
    assert registry.files.held() == []
    assert collect(registry) == (0, 0)
    assert registry.audit_trail()[-1].action == "gc"
    # What was collected can come again.
    assert registered(registry, tmp_path, "acme/x", "lost").number == 1


def test_what_no_table_knows_goes(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    registered(registry, tmp_path, "acme/x")
    stray = registry.files.folder("acme", "e" * 64)
    stray.mkdir(parents=True)
    (stray / "adaptation.json").write_text("{}")
    os.utime(stray, (clock.now - 2 * DAY, clock.now - 2 * DAY))
    assert collect(registry) == (1, 0)
    assert len(registry.files.held()) == 1


def test_what_is_in_use_stays(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    version = registered(registry, tmp_path, "acme/x")
    with registry.in_use(version, "server 1", 60.0) as lease:
        registry.retire("acme/x@1", "ann")
        clock.now += 50
        assert collect(registry, retired_seconds=0) == (0, 1)
        assert registry.renew(lease, 60.0)
        clock.now += 50
        assert collect(registry, retired_seconds=0) == (0, 1)
        assert load(registry.folder(version)) == constant("good")
        clock.now += 50  # nobody renewed it
        assert collect(registry, retired_seconds=0) == (1, 0)
        assert not registry.renew(lease)
    assert not registry.folder(version).exists()
    with pytest.raises(NotRegisteredError, match="collected"):
        registry.lease(version, "server 2")
    assert registry.version("acme/x@1").state == "retired"


def test_retired_files_stay_unless_asked(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    version = registered(registry, tmp_path, "acme/x")
    registry.retire("acme/x@1", "ann")
    clock.now += 100 * DAY
    assert collect(registry) == (0, 0)
    assert collect(registry, retired_seconds=101 * DAY) == (0, 0)
    assert registry.folder(version).exists()
    assert collect(registry, retired_seconds=99 * DAY) == (1, 0)
    assert registry.verify().faults == ()


def test_files_that_another_name_needs_stay(
    registry: Registry, tmp_path: Path, clock: Clock
) -> None:
    source = stored(tmp_path / "a", constant("good"))
    for name in ("acme/x", "acme/y"):
        registry.add(source, Registration(parse_name(name), "ann"))
    registry.retire("acme/x@1", "ann")
    clock.now += 100 * DAY
    assert collect(registry, retired_seconds=0) == (0, 0)
    assert load(registry.folder(registry.version("acme/y@1"))) == constant("good")


def test_an_interrupted_removal_is_ended(
    registry: Registry, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = orphan(registry, tmp_path, clock)
    with registry.database.write() as connection:
        connection.execute(update(tables.contents).values(state=REMOVING))
    with pytest.raises(UnavailableError, match="being collected"):
        registered(registry, tmp_path, "acme/x", "lost")
    shutil.rmtree(registry.files.folder("acme", held.digest))
    assert collect(registry) == (1, 0)
    assert registered(registry, tmp_path, "acme/x", "lost").number == 1


def test_what_is_registered_while_it_is_collected_is_not_lost(
    registry: Registry, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that no table knows are about to go when somebody registers that very content."""
    version = registered(registry, tmp_path, "acme/x")
    source = tmp_path / "acme-x-good"
    stray = registry.files.folder("zeta", version.digest)
    shutil.copytree(source, stray)
    os.utime(stray, (clock.now - 2 * DAY, clock.now - 2 * DAY))
    remove = type(registry.files).remove

    def slowly(self: object, tenant: str, digest: str) -> None:
        with pytest.raises(UnavailableError, match="being collected"):
            registry.add(source, Registration(parse_name("zeta/x"), "ann"))
        remove(registry.files, tenant, digest)  # type: ignore[arg-type]  # it is of this type

    monkeypatch.setattr(type(registry.files), "remove", slowly)
    assert collect(registry) == (1, 0)
    assert registry.add(source, Registration(parse_name("zeta/x"), "ann")).number == 1
    assert registry.verify().faults == ()


def test_registering_that_takes_too_long_is_told(
    registry: Registry, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = type(registry.files).publish

    def slowly(self: object, tenant: str, digest: str, folder: Path) -> None:
        publish(registry.files, tenant, digest, folder)  # type: ignore[arg-type]  # as above
        os.utime(registry.files.folder(tenant, digest), (clock.now, clock.now))
        clock.now += 2 * DAY
        registry.collect(Ages(), "ann")

    monkeypatch.setattr(type(registry.files), "publish", slowly)
    with pytest.raises(UnavailableError, match="were collected"):
        registered(registry, tmp_path, "acme/x")
    assert registry.names(None) == []
    monkeypatch.undo()
    assert registered(registry, tmp_path, "acme/x").number == 1
    assert registry.verify().faults == ()


def test_two_publish_the_same_at_once(registry: Registry, tmp_path: Path) -> None:
    source = stored(tmp_path / "a", constant("good"))
    replace_path = Path.replace
    with registry.files.incoming() as private:
        shutil.copytree(source, private)
        place = registry.files.folder("acme", "a" * 64)

        def late(self: Path, target: Path) -> Path:
            if target == place and not place.exists():
                shutil.copytree(source, place)
            return replace_path(self, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", late)
            registry.files.publish("acme", "a" * 64, private)
    assert load(place) == constant("good")


def test_abandoned_work_is_swept(registry: Registry, tmp_path: Path) -> None:
    with registry.files.incoming() as private:
        left = private.parent / "left"
    left.mkdir(parents=True)
    os.utime(left, (1.0, 1.0))
    assert registry.collect(Ages(), "ann").abandoned == 1
    assert not left.exists()


def test_verify_reads_every_byte(registry: Registry, tmp_path: Path) -> None:
    first = registered(registry, tmp_path, "acme/x")
    second = registered(registry, tmp_path, "acme/y", "bad")
    registry.promote("acme/x@1", "ann")
    checked = registry.verify()
    assert (checked.versions, checked.aliases, checked.faults) == (2, 1, ())
    assert checked.audit_entries == 3
    file = registry.folder(first) / "shallow_model.json"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    shutil.rmtree(registry.folder(second))
    faults = registry.verify().faults
    assert len(faults) == 2
    assert "acme/x@1" in faults[0]
    assert "acme/y@1" in faults[1]
    assert len(registry.verify("acme/y").faults) == 1


def test_verify_sees_another_content_under_a_hash(registry: Registry, tmp_path: Path) -> None:
    version = registered(registry, tmp_path, "acme/x")
    shutil.rmtree(registry.folder(version))
    shutil.copytree(stored(tmp_path / "b", constant("bad")), registry.folder(version))
    assert "of another" in registry.verify().faults[0]


@pytest.mark.parametrize("change", ["actor", "detail", "gone", "first"])
def test_a_changed_audit_trail_shows(change: str, registry: Registry, tmp_path: Path) -> None:
    for number in range(4):
        registered(registry, tmp_path, f"acme/x{number}")
    table = tables.audit
    with registry.database.write() as connection:
        if change == "gone":
            connection.execute(delete(table).where(table.c.id == 2))
        elif change == "first":
            connection.execute(delete(table).where(table.c.id == 1))
        elif change == "actor":
            connection.execute(update(table).where(table.c.id == 3).values(actor="eve"))
        else:
            connection.execute(update(table).where(table.c.id == 4).values(detail={"number": 9}))
    assert any("audit trail" in fault for fault in registry.verify().faults)


def test_verify_sees_an_alias_that_leads_nowhere(registry: Registry, tmp_path: Path) -> None:
    registered(registry, tmp_path, "acme/x")
    registry.promote("acme/x@1", "ann")
    with registry.database.write() as connection:
        connection.execute(update(tables.versions).values(state="retired", retired_at=1.0))
    assert "leads to version 1" in registry.verify().faults[0]


def test_a_difference_is_what_differs() -> None:
    import torch

    demonstrations = (Demonstration("a", "b"),)
    old = adaptation((PromptTextPart(PromptText("Say it.\nNow.")),), seed=1)
    new = adaptation(
        (
            PromptTextPart(PromptText("Say it.\nLater.", demonstrations)),
            VirtualTokensPart(torch.ones(2, 3)),
        ),
        seed=2,
    )
    found = difference(old, new)
    assert found["parts"] == {"only_new": ["virtual_tokens"]}
    assert found["made"] == {"seed": {"old": 1, "new": 2}}
    assert "-Now." in found["prompt"]
    assert "+Later." in found["prompt"]
    assert "+shown: a -> b" in found["prompt"]
    assert "tensors" not in found
    assert difference(new, new) == {}
    moved = adaptation((*new.parts[:1], VirtualTokensPart(torch.full((2, 3), 3.0))), seed=2)
    tensors = difference(new, moved)["tensors"]["virtual_tokens"]
    assert tensors["changed"] == 1
    assert tensors["most"]["embeddings"] == {"largest": 2.0, "relative": pytest.approx(2.0)}
    wider = adaptation((*new.parts[:1], VirtualTokensPart(torch.ones(2, 4))), seed=2)
    shapes = difference(new, wider)["tensors"]["virtual_tokens"]["most"]["embeddings"]
    assert shapes == {"old": "[2, 3] float32", "new": "[2, 4] float32"}


def test_nothing_is_lost_when_a_promotion_fails(registry: Registry, tmp_path: Path) -> None:
    registered(registry, tmp_path, "acme/x")
    registered(registry, tmp_path, "acme/x", "bad")
    registry.promote("acme/x@1", "ann")
    before = registry.history("acme/x", "production"), registry.audit_trail()
    with pytest.raises(RegistryError):
        registry.promote("acme/x@2", "ann", Promotion(share=0.5))
    assert (registry.history("acme/x", "production"), registry.audit_trail()) == before
    registry.promote("acme/x@2", "ann", OVERRIDDEN)


def test_files_of_text_adaptations_are_as_they_were(registry: Registry, tmp_path: Path) -> None:
    made = text("Ja oder nein?\n«日本»")
    source = stored(tmp_path / "a", made)
    version = registry.add(source, Registration(parse_name("acme/x"), "ann"))
    held = {path.name: path.read_bytes() for path in registry.folder(version).iterdir()}
    assert held == {path.name: path.read_bytes() for path in source.iterdir()}
