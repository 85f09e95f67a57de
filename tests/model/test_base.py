"""Loading and freezing a base, its counts, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from tests.conftest import ARCHITECTURES, build_model, build_tokenizer
from transformers import BloomConfig, BloomForCausalLM

from tunewise.errors import ConfigError, RunError
from tunewise.model import attention, cache, resolve
from tunewise.model import base as base_module
from tunewise.model.base import Base, default_threads, load_base, native_dtype
from tunewise.model.fingerprint import (
    folder_fingerprint,
    model_fingerprint,
    tokenizer_hash,
    weights_hash,
)
from tunewise.model.quiet import quiet_transformers


def save(folder: Path, model: Any, tokenizer: Any, **options: Any) -> Path:
    """Save both as a Hugging Face folder."""
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


# --- loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chat", [True, False])
def test_any_causal_model_loads_frozen_and_unchanged(
    architecture: str, chat: bool, tmp_path: Path
) -> None:
    model, tokenizer = build_model(architecture), build_tokenizer(chat=chat)
    loaded = load_base(str(save(tmp_path, model, tokenizer)), dtype="float32")
    rows = torch.arange(20).reshape(2, 10) * 11 % 256
    with torch.no_grad():
        found, given = loaded.model(rows).logits, model(rows).logits
    # Our attention sums in another order than the fused kernel; the weights are the same bits.
    torch.testing.assert_close(found, given, rtol=1e-5, atol=1e-6)
    stored = model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == attention.NAME
    assert loaded.context_length == 512
    assert (loaded.tokenizer.chat_template is not None) == chat
    assert loaded.path == str(tmp_path)


@pytest.mark.parametrize(
    ("asked", "used"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_dtype_asked_is_the_dtype_used(
    asked: str, used: torch.dtype, tiny_folder: Path
) -> None:
    loaded = load_base(str(tiny_folder), dtype=asked)
    assert loaded.dtype == used
    assert loaded.dtype_name == asked
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {used}


def test_auto_is_what_the_processor_computes(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module.sys, "platform", "linux")
    for vendor, features, dtype in (
        ("AuthenticAMD", {"avx512_bf16", "sse"}, torch.bfloat16),
        ("GenuineIntel", {"avx512_bf16", "sse"}, torch.float32),
        ("GenuineIntel", {"avx512_bf16", "amx_bf16"}, torch.bfloat16),
        ("GenuineIntel", {"amx_bf16"}, torch.bfloat16),
        ("AuthenticAMD", {"avx512f", "avx2"}, torch.float32),
        ("", set(), torch.float32),
    ):
        monkeypatch.setattr(base_module, "_processor_features", lambda found=features: found)
        monkeypatch.setattr(base_module, "_processor_vendor", lambda found=vendor: found)
        assert native_dtype(torch.device("cpu")) == dtype
        if not torch.cuda.is_available():
            assert load_base(str(tiny_folder)).dtype == dtype
    monkeypatch.setattr(base_module, "_processor_features", lambda: {"amx_bf16"})
    monkeypatch.setattr(base_module.sys, "platform", "darwin")
    assert native_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "bf16", "", "Float32", "int8"])
def test_an_unknown_dtype_is_refused_before_anything_is_loaded(dtype: str) -> None:
    with pytest.raises(ConfigError, match="bfloat16, float32"):
        load_base("not even a model", dtype=dtype)


def test_a_cast_leaves_computed_buffers_as_loading_does(tiny_folder: Path) -> None:
    cast = Base.from_model(build_model(), build_tokenizer(), dtype=torch.bfloat16)
    loaded = load_base(str(tiny_folder), dtype="bfloat16")
    rows = torch.arange(200)[None] % 256
    with torch.no_grad():
        assert torch.equal(cast.model(rows).logits, loaded.model(rows).logits)
    assert cast.model.model.rotary_emb.inv_freq.dtype == torch.float32
    # A tied head is still the same memory after the cast.
    assert cast.model.lm_head.weight is cast.model.model.embed_tokens.weight


def test_a_folder_without_an_output_head_is_refused(tmp_path: Path) -> None:
    model = build_model("qwen3")
    save(tmp_path, model, build_tokenizer())
    model.model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks weights.*\n.*lm_head"):
        load_base(str(tmp_path))


def test_a_weights_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    save(tmp_path, build_model(), build_tokenizer())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="does not load"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "{}",
        '{"model_type": "no-such-architecture"}',
        '{"model_type": "llama", "hidden_size": "wide"}',
        '{"model_type": "llama", "num_attention_heads": 0}',
        '{"model_type": "t5"}',
    ],
)
def test_a_config_that_nobody_can_read_is_refused(config: str, tmp_path: Path) -> None:
    save(tmp_path, build_model(), build_tokenizer())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="does not load"):
        load_base(str(tmp_path))


def test_code_inside_a_model_folder_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    save(tmp_path, build_model(), build_tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "foreign"
    config["auto_map"] = {
        "AutoConfig": "foreign.Config",
        "AutoModelForCausalLM": "foreign.Model",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ConfigError, match="without code of its own"):
        load_base(str(tmp_path))
    assert not (tmp_path / "ran").exists()


# --- counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_counts_agree_with_the_formula(architecture: str) -> None:
    made = Base.from_model(build_model(architecture), build_tokenizer())
    width, inner, key_value, vocabulary = 32, 64, 2 * 8, 261
    layer = 2 * width * width + 2 * width * key_value + 3 * width * inner + 2 * width
    layer += 2 * 8 if architecture == "qwen3" else 0
    tables = 1 if architecture == "llama" else 2
    assert made.body_parameters == 2 * layer + width
    assert made.head_parameters == vocabulary * width
    assert made.parameters == made.body_parameters + tables * vocabulary * width
    assert (made.width, made.layers, made.vocabulary) == (width, 2, vocabulary)


def test_learned_positions_are_not_part_of_the_body() -> None:
    made = Base.from_model(build_model("gpt2"), build_tokenizer())
    width = 32
    layer = 12 * width * width + 13 * width
    assert made.body_parameters == 2 * layer + 2 * width
    assert made.parameters == made.body_parameters + (261 + 512) * width


def test_the_context_length_is_found_under_any_name() -> None:
    model = build_model("gpt2")
    assert Base.from_model(model, build_tokenizer()).context_length == model.config.n_positions
    # ALiBi has no largest position: what the tokenizer states counts, else a cautious number.
    config = BloomConfig(vocab_size=261, hidden_size=32, n_layer=2, n_head=4)
    bloom = BloomForCausalLM(config)
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 77
    assert Base.from_model(bloom, tokenizer).context_length == 77
    tokenizer.model_max_length = 10**30
    assert Base.from_model(bloom, tokenizer).context_length == 2048
    assert Base.from_model(bloom, tokenizer).layers == 2


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 4), (0.5, 1), (1.0, 1), (1.9, 1), (3.0, 3), (16.0, 4)]
)
def test_threads_are_those_that_may_be_used(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "_cgroup_cores", lambda: quota)
    monkeypatch.setattr(
        base_module.os, "sched_getaffinity", lambda _process: {0, 2, 4, 6}, raising=False
    )
    assert default_threads() == cores


def test_remarks_are_silent_inside_and_as_before_outside() -> None:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with quiet_transformers():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        with pytest.raises(KeyError), quiet_transformers():
            raise KeyError
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(level)
        if not bars:
            logging.disable_progress_bar()


# --- fingerprint -------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("shard", ["1GB", "40KB"])
def test_memory_and_folder_have_one_fingerprint(
    architecture: str, chat: bool, shard: str, tmp_path: Path
) -> None:
    model, tokenizer = build_model(architecture), build_tokenizer(chat=chat)
    save(tmp_path, model, tokenizer, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "40KB")
    in_memory = model_fingerprint(model, tokenizer)
    assert folder_fingerprint(tmp_path, tokenizer) == in_memory
    # Neither the dtype to compute in nor padding changes what the model is.
    assert load_base(str(tmp_path), dtype="bfloat16").fingerprint == in_memory
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert Base.from_model(model, tokenizer, dtype=torch.bfloat16).fingerprint == in_memory


def test_bfloat16_weights_have_one_fingerprint_too(tmp_path: Path) -> None:
    model = build_model().to(torch.bfloat16)
    save(tmp_path, model, build_tokenizer())
    assert load_base(str(tmp_path)).fingerprint == model_fingerprint(model, build_tokenizer())
    assert model_fingerprint(model, build_tokenizer()) != model_fingerprint(
        build_model(), build_tokenizer()
    )


def test_the_hash_of_weights_is_what_it_says(tmp_path: Path) -> None:
    model = build_model("gpt2")
    model.save_pretrained(tmp_path)
    lines = []
    for name, array in sorted(load_file(tmp_path / "model.safetensors").items()):
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        lines.append(f"{name} {array.dtype} {array.shape} {digest}")
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    named = dict(model.named_parameters())
    assert weights_hash(reversed(list(named.items()))) == expected


@pytest.mark.parametrize("change", ["weight", "template", "token", "eos", "name"])
def test_any_change_changes_the_fingerprint(change: str) -> None:
    model, tokenizer = build_model(), build_tokenizer()
    before = model_fingerprint(model, tokenizer)
    if change == "weight":
        with torch.no_grad():
            model.model.norm.weight[3] += 1e-6
    elif change == "template":
        tokenizer.chat_template += " "
    elif change == "token":
        tokenizer.add_tokens(["new"])
    elif change == "eos":
        tokenizer.eos_token = "<|pad|>"
    else:
        model.model.renamed = model.model.norm
        del model.model.norm
    assert model_fingerprint(model, tokenizer) != before


def test_a_tokenizer_without_a_fast_backend_is_hashed_by_its_words() -> None:
    class Slow:
        bos_token, eos_token, chat_template = None, "</s>", None

        def __init__(self, *words: str) -> None:
            self.words = words

        def get_vocab(self) -> dict[str, int]:
            return {word: index for index, word in enumerate(self.words)}

    assert tokenizer_hash(Slow("a", "b")) == tokenizer_hash(Slow("a", "b"))
    assert tokenizer_hash(Slow("a", "b")) != tokenizer_hash(Slow("b", "a"))


def test_a_folder_is_hashed_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, build_model(), build_tokenizer())
    first = load_base(str(tmp_path)).fingerprint
    hashed: list[Path] = []

    def count(folder: Path, tokenizer: Any) -> str:
        hashed.append(folder)
        return folder_fingerprint(folder, tokenizer)

    monkeypatch.setattr(resolve, "folder_fingerprint", count)
    assert load_base(str(tmp_path)).fingerprint == first
    assert hashed == []
    tokenizer = build_tokenizer()
    assert resolve.stored_fingerprint(tmp_path, tokenizer, verify=True) == first
    assert len(hashed) == 1
    save(tmp_path, build_model(seed=1), tokenizer)
    assert load_base(str(tmp_path)).fingerprint != first
    assert len(hashed) == 2
    # A memory that cannot be read is no memory.
    for memory in (cache.home() / "fingerprints").iterdir():
        memory.write_text("{")
    load_base(str(tmp_path))
    assert len(hashed) == 3


def test_verifying_a_cached_model_reads_its_bytes() -> None:
    tokenizer = build_tokenizer()
    with cache.new_model("m") as folder:
        save(folder, build_model(), tokenizer)
        known = folder_fingerprint(folder, tokenizer)
        cache.write_record(
            folder, name="m", source="test", licence="", fingerprint=known, versions={}
        )
    folder = cache.model_folder("m")
    assert load_base("m").fingerprint == known
    assert resolve.stored_fingerprint(folder, tokenizer, verify=True) == known
    config = folder / "config.json"
    config.write_text(config.read_text().replace("512", "513"))
    with pytest.raises(RunError, match=r"config\.json"):
        resolve.stored_fingerprint(folder, tokenizer, verify=True)


# --- the real default model --------------------------------------------------------------------


@pytest.mark.real
def test_the_default_model_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEWISE_HOME")
    if "smollm2-135m" not in cache.cached_names():
        pytest.skip("smollm2-135m is not in the cache: run `make setup`")
    loaded = load_base("smollm2-135m")
    assert (loaded.parameters, loaded.layers, loaded.width) == (134_515_008, 30, 576)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = loaded.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = loaded.model.generate(**tokens, max_new_tokens=12, do_sample=False)[0]
    assert "Paris" in loaded.tokenizer.decode(answer[tokens["input_ids"].shape[1] :])
