"""The kinds of part an adaptation is made of. Closed: everything above knows parts, not methods.

    prompt_text      instruction and demonstrations, as text; one or more ~1 kB
    virtual_tokens   k x D floats before the rows                         ~50 kB
    kv_prefix        keys and values of k positions, every layer          ~1 MB
    low_rank         A and B per linear layer, a PEFT LoRA checkpoint     ~10 MB
    weights          replaced tensors, all or some                        the model
    shallow_model    answers without the base: constant, copy or linear   ~100 kB

`shallow_model` is what the baselines produce. They must be stored, predicted with and shipped like
anything else ("a small classifier is enough" is a possible verdict), so they are a part too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

from tunewise.task.prompt import PromptText


@dataclass(frozen=True, slots=True)
class PromptTextPart:
    """Instruction and demonstrations, as text. Several prompts are an ensemble.

    Attributes:
        prompt: the prompt, or the first of several; what starts from this part starts here.
        others: the further prompts. Only where labels are scored: a row's scores are then the mean
            over all prompts, and one `Decoding` reads the answer out of them.
    """

    kind: ClassVar[str] = "prompt_text"
    prompt: PromptText
    others: tuple[PromptText, ...] = ()

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """All of them."""
        return (self.prompt, *self.others)


@dataclass(frozen=True, slots=True)
class VirtualTokensPart:
    """Learned embeddings before the rows (Lester et al. 2021, section 2).

    Attributes:
        embeddings: (k, D) float32.
        replaces_shared_text: True where they stand in place of the prompt's shared text (they
            began as its own embeddings), False where that text follows them.
    """

    kind: ClassVar[str] = "virtual_tokens"
    embeddings: Tensor = field(repr=False)
    replaces_shared_text: bool = False


@dataclass(frozen=True, slots=True)
class KVPrefixPart:
    """Learned keys and values of the first positions of every layer (Li & Liang 2021).

    Attributes:
        keys: one (H, P, head width) float32 tensor per layer, H the key/value heads, rotary
            positions already applied.
        values: the same for the values.
        replaces_shared_text: True where the positions stand in place of the prompt's shared text
            (they began as its own keys and values), False where that text follows them.
    """

    kind: ClassVar[str] = "kv_prefix"
    keys: tuple[Tensor, ...] = field(repr=False)
    values: tuple[Tensor, ...] = field(repr=False)
    replaces_shared_text: bool


@dataclass(frozen=True, slots=True)
class LowRankPart:
    """Low-rank changes of linear layers (Hu et al. 2022), exactly as PEFT stores them.

    Attributes:
        config: the fields of PEFT's `adapter_config.json`.
        tensors: PEFT's `adapter_model.safetensors`: name -> float32 tensor.
    """

    kind: ClassVar[str] = "low_rank"
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WeightsPart:
    """Replaced tensors of the base.

    Attributes:
        tensors: parameter name of the base -> the new tensor, in the dtype the base computes in.
    """

    kind: ClassVar[str] = "weights"
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShallowModelPart:
    """A predictor that never calls the base.

    Attributes:
        rule: "constant" always answers `config["answer"]`; "lead" answers the first
            `config["words"]` words of the input; "linear" scores `config["labels"]` by logistic
            regression on TF-IDF features.
        config: the rule's own settings; for "linear" also `terms` (vocabulary in column order)
            and the vectorizer's settings.
        tensors: for "linear": `idf` (terms,), `coefficients` (labels, terms),
            `intercepts` (labels,), float64.
    """

    kind: ClassVar[str] = "shallow_model"
    rule: Literal["constant", "lead", "linear"]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


Part: TypeAlias = (
    PromptTextPart | VirtualTokensPart | KVPrefixPart | LowRankPart | WeightsPart | ShallowModelPart
)
PART_KINDS: tuple[str, ...] = (
    "prompt_text",
    "virtual_tokens",
    "kv_prefix",
    "low_rank",
    "weights",
    "shallow_model",
)


def text_replaced(parts: Iterable[Part]) -> bool:
    """Whether one of these parts stands in place of the prompt's shared text."""
    return any(
        part.replaces_shared_text
        for part in parts
        if isinstance(part, VirtualTokensPart | KVPrefixPart)
    )
