"""From a GGUF file to a folder of safetensors that loads in half a second."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunewise.errors import ConfigError
from tunewise.model.fingerprint import folder_fingerprint
from tunewise.model.quiet import quiet_transformers

_MAGIC = b"GGUF"
_CONVERTERS = ("transformers", "gguf", "tokenizers", "torch")


def convert_gguf(file: Path, folder: Path) -> str:
    """Write the model in a GGUF file as a Hugging Face folder in float32.

    Quantized blocks are scales and small integers: float32 holds their products exactly, so
    nothing is lost beyond what the quantization lost.

    Args:
        file: the GGUF file.
        folder: an existing empty folder.

    Returns:
        The fingerprint of the result.

    Raises:
        ConfigError: the file is not GGUF, is cut short, or holds an architecture that
            transformers cannot read.
    """
    template = check_gguf(file)
    with quiet_transformers():
        model, tokenizer = _read(file)
        if template is not None and tokenizer.chat_template != template:
            tokenizer.chat_template = template
        # save_pretrained refuses as long as the model is marked as quantized.
        model.hf_quantizer = None
        for owner, mark in ((model.config, "quantization_config"), (model, "is_quantized")):
            if hasattr(owner, mark):
                delattr(owner, mark)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        stored = _tokenizer(folder)
    if stored.chat_template != template:
        raise ConfigError(
            "the chat template did not survive the conversion",
            found=str(file),
            fix="use the original model folder instead of the GGUF file",
        )
    return folder_fingerprint(folder, stored)


def converter_versions() -> dict[str, str]:
    """The versions of the libraries that convert."""
    return {name: version(name) for name in _CONVERTERS}


def check_gguf(file: Path) -> str | None:
    """Check that a GGUF file is whole.

    Returns:
        Its chat template, or None where it has none.

    Raises:
        ConfigError: it is not GGUF, or is cut short.
    """
    with file.open("rb") as stream:
        head = stream.read(len(_MAGIC))
    if head != _MAGIC:
        raise ConfigError(
            "this is not a GGUF file",
            found=f"{file} begins with {head!r}",
            expected=f"a file that begins with {_MAGIC!r}",
        )
    from gguf import GGUFReader

    try:
        field = GGUFReader(str(file)).get_field("tokenizer.chat_template")
        return None if field is None else str(field.contents())
    except MemoryError:
        raise
    except Exception as error:
        # The reader trusts its input: damage shows as any error of indexing, decoding or reshaping.
        raise ConfigError(
            "this GGUF file is damaged or cut short",
            found=f"{file}, {file.stat().st_size} bytes: {_first_line(error)}",
            fix="download or copy it again and compare its hash with the publisher's",
        ) from error


def refuse_missing(missing: Iterable[str], where: str) -> None:
    """Refuse a model that transformers would complete with random numbers.

    Args:
        missing: the tensors that were not found.
        where: the file or name, for the message.

    Raises:
        ConfigError: there are any.
    """
    names = sorted(missing)
    if names:
        raise ConfigError(
            f"{where!r} lacks weights of its own architecture",
            found=f"{len(names)} missing, among them {', '.join(names[:3])}",
            expected="every tensor of a causal language model, its output head included",
            fix="download or copy it again, or use another model",
        )


def _read(file: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = _tokenizer(file.parent, gguf_file=file.name)
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a strange file makes the readers raise, it says that the file is not usable.
        raise ConfigError(
            "this GGUF file cannot be converted",
            found=f"{file}: {_first_line(error)}",
            expected="a causal language model of an architecture that transformers reads",
            fix="use the original model folder, in safetensors, instead",
        ) from error
    refuse_missing(info["missing_keys"], str(file))
    return model, tokenizer


def _tokenizer(folder: Path, **source: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **source)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
