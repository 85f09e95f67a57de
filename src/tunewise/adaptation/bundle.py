"""An adaptation: parts, how answers are read out, and where it all came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tunewise.adaptation.parts import Part, PromptTextPart, text_replaced
from tunewise.errors import AdaptationError
from tunewise.task.prompt import PromptText
from tunewise.task.types import TaskSpec

P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is read out of the model; chosen on validation rows.

    Attributes:
        mode: "score" compares the label strings, "trie" decodes greedily among the labels,
            "free" generates text, "json" generates under the task's JSON grammar.
        length_normalised: for "score": mean instead of sum of the token log-probabilities.
        label_bias: for "score": added to the log-probability of each label (calibration), in the
            order of the task's labels; empty where none helps.
        max_new_tokens: for the generating modes.
    """

    mode: Literal["score", "trie", "free", "json"]
    length_normalised: bool = False
    label_bias: tuple[float, ...] = ()
    max_new_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an adaptation came from. Holds no clock times: the same fit gives the same bytes.

    Attributes:
        method: the method's name.
        settings: its settings, as used.
        seed: the seed of the fit.
        base_name: short name or path of the base model.
        base_fingerprint: hash of its weights, tokenizer and chat template.
        dtype: dtype the frozen weights computed in, for example "bfloat16".
        data_hash: hash of the fit view.
        work: forward_tokens, backward_tokens, flops, as counted by the ledger.
        versions: the libraries that took part.
        start: hash of the adaptation it started from, or None.
        notes: what the method wants to tell (chosen learning rate, steps, why it stopped, ...).
    """

    method: str
    settings: Mapping[str, Any]
    seed: int
    base_name: str
    base_fingerprint: str
    dtype: str
    data_hash: str
    work: Mapping[str, int]
    versions: Mapping[str, str]
    start: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a method finds.

    Attributes:
        parts: at most one of each kind. A text of several prompts needs labels that are scored,
            and that it is read: no part may stand in its place.
        decoding: how answers are read out.
        spec: the task it was made for.
        provenance: where it came from.
    """

    parts: tuple[Part, ...]
    decoding: Decoding
    spec: TaskSpec
    provenance: Provenance

    def __post_init__(self) -> None:
        kinds = [part.kind for part in self.parts]
        if len(set(kinds)) != len(kinds):
            raise AdaptationError(
                "an adaptation holds at most one part of each kind", found=", ".join(kinds)
            )
        if len(self.prompts) == 1:
            return
        if self.decoding.mode != "score" or text_replaced(self.parts):
            raise AdaptationError(
                "an adaptation cannot answer through several prompts",
                found=f"{len(self.prompts)} prompts, "
                + (
                    f"answers read out as {self.decoding.mode!r}"
                    if self.decoding.mode != "score"
                    else "and a trained part in place of their text"
                ),
                expected="labels that are scored behind every prompt: only scores have a mean",
                fix="keep one prompt",
            )

    def part(self, kind: type[P]) -> P | None:
        """The part of this kind, or None."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """The texts that answer together: one, empty where there is no prompt_text part."""
        part = self.part(PromptTextPart)
        return (PromptText(""),) if part is None else part.prompts

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its parts, in order."""
        return tuple(part.kind for part in self.parts)
