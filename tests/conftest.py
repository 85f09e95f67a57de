"""Tiny models and a byte tokenizer built in code: no network, no downloads, milliseconds.

Three architectures stand for "any causal LM": Llama (grouped-query attention, tied head), Qwen3
(query/key norms) and GPT-2 (learned absolute positions, fused projections).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ARCHITECTURES = ("llama", "qwen3", "gpt2")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def build_tokenizer(*, chat: bool = True) -> Any:
    """A byte-level tokenizer (256 bytes + 5 specials); with or without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIALS[0], eos_token=SPECIALS[1]
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIALS[2:]})
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(architecture: str = "llama", *, seed: int = 0, vocabulary: int = 261) -> Any:
    """A randomly initialised 2-layer, 32-wide causal model in float32."""
    import torch
    import transformers as hf

    common = {
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 257,
    }
    wide = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "head_dim": 8,
    }
    configs = {
        "llama": lambda: hf.LlamaConfig(**common, **wide, tie_word_embeddings=True),
        "qwen3": lambda: hf.Qwen3Config(**common, **wide, tie_word_embeddings=False),
        "gpt2": lambda: hf.GPT2Config(
            **common,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(configs[architecture]())
    return model.eval()


@pytest.fixture(autouse=True)
def _temporary_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the user's own cache (real-model tests opt out by name)."""
    monkeypatch.setenv("TUNEWISE_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama saved as a Hugging Face folder with its tokenizer, for `--base FOLDER`."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
