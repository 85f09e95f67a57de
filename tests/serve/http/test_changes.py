"""Publishing, promoting, retiring over HTTP; uploads that are no good; outcomes."""

from __future__ import annotations

import io
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serve.http.conftest import House, adaptation

from tunewise.adaptation.store import save
from tunewise.errors import AdaptationError
from tunewise.serve.http.archive import unpack
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.publish import Registration
from tunewise.task.recipe import read_recipe, recipe_bytes

Files = dict[str, bytes]


def files_of(folder: Path, instruction: str) -> Files:
    place = folder / instruction.replace(" ", "-")
    save(adaptation(instruction), place)
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*.*")}


def zipped(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def ask(house: House, model: str, tenant: str = "acme") -> tuple[int, str]:
    with house.client(tenant) as client:
        body = {"model": model, "prompt": "x"}
        answer = client.post("/v1/completions", json=body)
    content = answer.json()
    return answer.status_code, content["choices"][0]["text"] if answer.is_success else ""


def test_a_recipe_is_fitted_and_not_served(house: House, tmp_path: Path) -> None:
    (tmp_path / "how.toml").write_text("[methods.lora]\n")
    house.registry.add(tmp_path / "how.toml", Registration(Name("acme", "how"), "test"))
    house.registry.promote("acme/how@1", "test", Promotion(reason="the way we do it"))
    for model in ("acme/how", "acme/how@1"):
        assert ask(house, model) == (409, "")
    assert ask(house, "acme/tickets") == (200, "[acme one] x")
    with house.client() as client:
        upload = zipped({"recipe.json": recipe_bytes(read_recipe(tmp_path / "how.toml"))})
        assert client.post("/v1/adaptations/how", content=upload).status_code == 400
        served = [each["id"] for each in client.get("/v1/models").json()["data"]]
        kept = [each["name"] for each in client.get("/v1/adaptations").json()["data"]]
    assert "acme/how" not in served
    assert any(name.endswith("how") for name in kept)


def test_a_version_lives_from_upload_to_retirement(house: House, tmp_path: Path) -> None:
    with house.client() as client:
        body = zipped(files_of(tmp_path, "acme two"))
        made = client.post("/v1/adaptations/tickets?notes=second", content=body)
        assert made.status_code == 201
        assert made.json()["version"] == "acme/tickets@2"
        assert client.post("/v1/adaptations/tickets", content=body).json()["number"] == 2
        assert ask(house, "acme/tickets") == (200, "[acme one] x")
        assert ask(house, "acme/tickets@2") == (200, "[acme two] x")
        assert ask(house, f"acme/tickets@{made.json()['digest'][:10]}") == (200, "[acme two] x")
        path = "/v1/adaptations/tickets"
        refused = client.post(f"{path}/promote", json={"version": "2"})
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "gate_refused"
        done = client.post(f"{path}/promote", json={"version": "2", "reason": "we looked at it"})
        assert done.status_code == 200
        assert ask(house, "acme/tickets") == (200, "[acme two] x")
        assert client.post(f"{path}/rollback", json={}).status_code == 200
        assert ask(house, "acme/tickets") == (200, "[acme one] x")
        assert client.post(f"{path}/retire", json={"version": "2"}).status_code == 200
        assert ask(house, "acme/tickets@2")[0] == 409
        told = client.get(path).json()
        assert [each["state"] for each in told["versions"]] == ["ready", "retired"]
        assert told["versions"][1]["notes"] == "second"
    actors = {entry.actor for entry in house.registry.audit_trail("acme/tickets")}
    assert f"key {house.keys['acme'].split('_')[1]}" in actors


def test_the_same_name_published_anew_is_not_answered_from_memory(house: House) -> None:
    assert ask(house, "acme/tickets") == (200, "[acme one] x")
    for number in range(2, 8):
        house.publish("acme", "tickets", f"acme {number}")
        assert ask(house, "acme/tickets") == (200, f"[acme {number}] x")


def linked(files: Files) -> bytes:
    packed = io.BytesIO(zipped(files))
    with zipfile.ZipFile(packed, "a") as archive:
        entry = zipfile.ZipInfo("link.json")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return packed.getvalue()


def behind_a_password(files: Files) -> bytes:
    data = bytearray(zipped(files))
    # The flag in the central directory is what readers believe.
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    return bytes(data)


def lying(files: Files) -> bytes:
    data = bytearray(zipped({**files, "bomb.json": b"0" * 3_000_000}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    return bytes(data)


def changed(files: Files) -> bytes:
    return zipped({name: data.replace(b"new", b"old") for name, data in files.items()})


BAD: dict[str, Callable[[Files], bytes]] = {
    "nothing": lambda files: b"",
    "no zip": lambda files: b"hello",
    "half": lambda files: zipped(files)[:-30],
    "cut": lambda files: zipped(files)[:60] + zipped(files)[70:],
    "no files": lambda files: zipped({}),
    "another file": lambda files: zipped({"x.json": b"{}"}),
    "one more": lambda files: zipped({**files, "more.json": b"{}"}),
    "absolute": lambda files: zipped({**files, "/etc/x.json": b"{}"}),
    "upwards": lambda files: zipped({**files, "../x.json": b"{}"}),
    "upwards within": lambda files: zipped({**files, "a/../../x.json": b"{}"}),
    "backslash": lambda files: zipped({**files, "..\\x.json": b"{}"}),
    "drive": lambda files: zipped({**files, "c:/x.json": b"{}"}),
    "code": lambda files: zipped({**files, "x.py": b"import os"}),
    "pickle": lambda files: zipped({**files, "x.bin": b"\x80\x04."}),
    "many": lambda files: zipped({**files, **{f"{n}.json": b"{}" for n in range(70)}}),
    "twice in letters": lambda files: zipped({**files, "Adaptation.json": b"{}"}),
    "link": linked,
    "password": behind_a_password,
    "lying": lying,
    "changed": changed,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    house: House, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.serve.http.routes import adaptations

    place = tmp_path / "uploads"
    place.mkdir()
    monkeypatch.setattr(adaptations.tempfile, "tempdir", str(place))
    body = BAD[name](files_of(tmp_path / "made", "new one"))
    with house.client() as client:
        answer = client.post("/v1/adaptations/new", content=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] in {"adaptation_refused", "invalid_value"}
        # No folder of this machine is told.
        assert str(tmp_path) not in answer.text
        assert client.get("/v1/adaptations/new").status_code == 404
    assert not list(place.iterdir())
    assert not list(tmp_path.rglob("x.json"))


def test_an_upload_that_unpacks_to_too_much_is_refused(house: House, tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(zipped({"bomb.json": b"0" * 5_000_000}))
    assert archive.stat().st_size < 10_000
    with pytest.raises(AdaptationError, match="more bytes"):
        unpack(archive, tmp_path / "out", most_bytes=1_000_000)
    assert (tmp_path / "out" / "bomb.json").stat().st_size <= 1_000_000


@pytest.mark.parametrize("name", ["UPPER", "a b", "..", "%2e%2e", "a%2fb", "é", "-a", "a" * 65])
def test_a_name_that_cannot_be_is_refused(house: House, tmp_path: Path, name: str) -> None:
    body = zipped(files_of(tmp_path, "new one"))
    with house.client() as client:
        answer = client.post(f"/v1/adaptations/{name}", content=body)
    assert answer.status_code in (400, 404, 405)
    assert len(house.registry.names("acme")) == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("tickets/promote", {}, 400),
        ("tickets/promote", {"version": ""}, 400),
        ("tickets/promote", {"version": "99"}, 404),
        ("tickets/promote", {"version": "1", "alias": "../x"}, 400),
        ("tickets/promote", {"version": "1", "alias": ""}, 400),
        ("tickets/promote", {"version": 1}, 400),
        ("nothing/promote", {"version": "1"}, 404),
        ("tickets/rollback", {"alias": "nothing"}, 404),
        ("tickets/rollback", {}, 409),
        ("tickets/retire", {"version": "99"}, 404),
        ("tickets/retire", {"version": "beta/tickets@1"}, 400),
        ("tickets/nothing", {}, 404),
    ],
)
def test_a_change_that_cannot_be_is_told(
    house: House, path: str, body: dict[str, object], status: int
) -> None:
    with house.client() as client:
        answer = client.post(f"/v1/adaptations/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_outcomes_end_a_trial_of_a_worse_version(house: House) -> None:
    number = house.publish("acme", "tickets", "acme worse")
    house.registry.promote("acme/tickets@1", "test", Promotion(reason="back"))
    house.registry.promote(f"acme/tickets@{number}", "test", Promotion(share=0.5, reason="try it"))
    with house.client() as client:
        for each in range(200):
            body = {"model": "acme/tickets", "prompt": "x", "user": f"user {each}"}
            answer = client.post("/v1/completions", json=body).json()
            again = client.post("/v1/completions", json=body).json()
            assert again["model"] == answer["model"]  # the same key, the same version
            score = 0.0 if answer["model"].endswith(f"@{number}") else 1.0
            told = client.post("/v1/feedback", json={"id": answer["id"], "score": score})
            assert told.status_code == 200
            if house.registry.trials_of("acme/tickets")[0].verdict != "open":
                break
        assert house.registry.trials_of("acme/tickets")[0].verdict == "worse"
        assert ask(house, "acme/tickets") == (200, "[acme one] x")


def test_an_outcome_is_told_once_by_whom_it_belongs_to(house: House) -> None:
    with house.client() as client, house.client("beta") as other:
        body = {"model": "acme/tickets", "prompt": "x"}
        identity = client.post("/v1/completions", json=body).json()["id"]
        told = {"id": identity, "score": 1}
        assert other.post("/v1/feedback", json=told).status_code == 404
        assert client.post("/v1/feedback", json={**told, "score": 2}).status_code == 400
        assert client.post("/v1/feedback", json=told).status_code == 200
        assert client.post("/v1/feedback", json=told).status_code == 404
        assert client.post("/v1/feedback", json={"id": "nothing", "score": 1}).status_code == 404


def test_classes_come_with_their_probabilities(house: House) -> None:
    with house.client() as client:
        body = {"model": "acme/labels", "input": ["x", "y"]}
        answer = client.post("/v1/classify", json=body).json()
        assert [each["index"] for each in answer["data"]] == [0, 1]
        assert answer["data"][0]["labels"] == [
            {"label": "bad", "probability": 0.5},
            {"label": "good", "probability": 0.5},
        ]
        for model in ("tiny", "acme/tickets"):
            assert client.post("/v1/classify", json={**body, "model": model}).status_code == 400
        for wrong in ([], ["x"] * 300, 5, [5]):
            wrongly = {**body, "input": wrong}
            assert client.post("/v1/classify", json=wrongly).status_code == 400


def test_damaged_archives_are_refused_whatever_the_damage(tmp_path: Path) -> None:
    files = files_of(tmp_path, "new one")
    whole, draw = zipped(files), random.Random(0)
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        at = draw.randrange(len(data))
        change = draw.choice(("flip", "cut", "put"))
        if change == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif change == "cut":
            del data[at : at + draw.randint(1, 20)]
        else:
            data[at:at] = draw.randbytes(draw.randint(1, 9))
        archive.write_bytes(data)
        shutil.rmtree(out, ignore_errors=True)
        try:
            unpack(archive, out, most_bytes=1_000_000)
        except AdaptationError:
            refused += 1
    assert refused > 200
