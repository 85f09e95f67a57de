"""The one base model: loaded once, frozen, in a stated dtype on a stated device."""

from __future__ import annotations

import math
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunewise.errors import ConfigError
from tunewise.model.attention import register
from tunewise.model.convert import refuse_missing
from tunewise.model.dtypes import check_dtype
from tunewise.model.fingerprint import model_fingerprint
from tunewise.model.quiet import quiet_transformers
from tunewise.model.resolve import resolve, stored_fingerprint

# The names under which architectures keep their largest position.
_CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
# For architectures that state no limit at all (state-space models, ALiBi without a length).
_CONTEXT_UNSTATED = 2048


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen causal language model with its tokenizer.

    Attributes:
        model: a transformers causal LM in eval mode, no parameter requires a gradient.
        tokenizer: its tokenizer.
        name: short name or path, as asked.
        path: folder it was loaded from, "" for a model made in memory.
        fingerprint: SHA-256 over weights, tokenizer and chat template.
        dtype: dtype the frozen weights compute in.
        device: where they are.
        context_length: the most positions a row may take, in tokens.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    path: str
    fingerprint: str
    dtype: torch.dtype
    device: torch.device
    context_length: int

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "in-memory",
        path: str = "",
        dtype: torch.dtype = torch.float32,
        fingerprint: str | None = None,
    ) -> Base:
        """Freeze a model in place and describe it.

        Args:
            model: a transformers causal LM; it is cast to `dtype`, frozen and set to eval mode.
            tokenizer: its tokenizer.
            name: how to call it.
            path: the folder it came from.
            dtype: dtype to compute in.
            fingerprint: where it is already known; else it is taken before the cast.
        """
        known = model_fingerprint(model, tokenizer) if fingerprint is None else fingerprint
        if getattr(model, "_supports_attention_backend", False):
            model.set_attn_implementation(register())
        _cast(model, dtype)
        model.eval()
        model.requires_grad_(False)
        return cls(
            model=model,
            tokenizer=tokenizer,
            name=name,
            path=path,
            fingerprint=known,
            dtype=dtype,
            device=model.get_input_embeddings().weight.device,
            context_length=_context_length(model, tokenizer),
        )

    @property
    def width(self) -> int:
        """D: the width of one token's embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def layers(self) -> int:
        """The number of layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def vocabulary(self) -> int:
        """V: the number of columns of the output head."""
        head = self.model.get_output_embeddings() or self.model.get_input_embeddings()
        return int(head.weight.shape[0])

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def head_parameters(self) -> int:
        """Parameters of the output head (V x D), used once per token whose logits are asked."""
        return self.vocabulary * self.width

    @property
    def body_parameters(self) -> int:
        """Parameters every token passes through: all but embeddings and output head."""
        tables = {
            id(module.weight): module.weight.numel()
            for module in self.model.modules()
            if isinstance(module, nn.Embedding)
        }
        head = self.model.get_output_embeddings()
        if head is not None:
            tables[id(head.weight)] = head.weight.numel()
        return self.parameters - sum(tables.values())

    @property
    def dtype_name(self) -> str:
        """The dtype as a word, for example "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")


def load_base(name: str, *, dtype: str = "auto") -> Base:
    """Find, load and freeze a base model.

    Args:
        name: short name, hub id, local folder or GGUF file (`tunewise.model.resolve`).
        dtype: "auto", "bfloat16" or "float32"; "auto" is bfloat16 where the processor computes
            it natively, else float32.

    Raises:
        ConfigError: unknown dtype, or the folder holds no causal language model.
        UnknownNameError: unknown name.
        UnavailableError: it must be fetched and cannot be.
    """
    check_dtype(dtype)
    resolved = resolve(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = native_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    with quiet_transformers():
        model, tokenizer = _load(Path(resolved.path), name, chosen)
    fingerprint = stored_fingerprint(Path(resolved.path), tokenizer)
    return Base.from_model(
        model.to(device),
        tokenizer,
        name=name,
        path=resolved.path,
        dtype=chosen,
        fingerprint=fingerprint,
    )


def load_tokenizer(name: str) -> tuple[Any, str]:
    """The tokenizer of a base model alone, where nothing is computed.

    Args:
        name: as for `load_base`.

    Returns:
        The tokenizer, and the fingerprint of the base it belongs to.

    Raises:
        ConfigError: the folder holds no tokenizer.
        UnknownNameError: unknown name.
        UnavailableError: it must be fetched and cannot be.
    """
    folder = Path(resolve(name).path)
    with quiet_transformers():
        tokenizer = _loaded_tokenizer(folder, name)
    return tokenizer, stored_fingerprint(folder, tokenizer)


def _loaded_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # as in `_load`: whatever the folder makes transformers raise
        raise ConfigError(
            f"the tokenizer of {name!r} does not load",
            found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            expected="a folder that transformers loads without code of its own",
        ) from error


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where this device multiplies it faster than float32, else float32.

    Told by what the device is and not by timing it, so that one machine always takes the same.
    Intel's processors have their fast products in AMX; with the older instructions alone theirs ran
    at half the rate of float32, and AMD's at more than twice (docs/log.md).
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = _processor_features()
        vector = "avx512_bf16" in features and _processor_vendor() != "GenuineIntel"
        native = sys.platform == "linux" and ("amx_bf16" in features or vector)
    return torch.bfloat16 if native else torch.float32


def default_threads() -> int:
    """The processor cores this process may really use: affinity, capped by the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        counted = os.cpu_count()
        allowed = 1 if counted is None else counted
    quota = _cgroup_cores()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def processor_name() -> str:
    """The processor's own name, or that of its architecture."""
    return _processor_line("model name") or platform.processor() or platform.machine()


def _cast(model: Any, dtype: torch.dtype) -> None:
    # Not `model.to(dtype)`: that would also round what is computed rather than stored, such as the
    # rotary frequencies, which loading in `dtype` leaves in float32.
    stored = model.state_dict(keep_vars=True)
    for tensor in stored.values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _load(folder: Path, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Said out loud: left unset, transformers would ask on the terminal whether to run foreign code.
    shared: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **shared,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **shared)
    except MemoryError:
        raise
    except Exception as error:
        # The folder is the user's: whatever a configuration or a file in it makes transformers
        # raise, of some ten classes with no common base, it says that the folder is not usable.
        raise ConfigError(
            f"{name!r} does not load as a causal language model",
            found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            expected="a folder that transformers loads without code of its own",
        ) from error
    refuse_missing(info["missing_keys"], name)
    return model, tokenizer


def _context_length(model: Any, tokenizer: Any) -> int:
    config = model.config.get_text_config()
    for name in _CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 10**9 else _CONTEXT_UNSTATED


def _processor_features() -> set[str]:
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return set()
    return set(_processor_line("flags").split())


def _processor_vendor() -> str:
    return _processor_line("vendor_id")


def _processor_line(name: str) -> str:
    """What /proc/cpuinfo says of the first core under this name, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(name)), "").partition(":")[2].strip()


def _cgroup_cores() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
