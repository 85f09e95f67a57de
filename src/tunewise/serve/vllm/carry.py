"""From a loaded adaptation to what vLLM can be asked with; what it cannot carry is refused.

prompt_text      tokens before the row
virtual_tokens   embeddings of all positions, the base's own where text stands
low_rank         a PEFT folder that vLLM loads under a name of its own
shallow_model    answered here, without the base
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    ShallowModelPart,
    WeightsPart,
)
from tunewise.adaptation.peft_format import LOW_RANK_PREFIX
from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.serve.engine.changes import Change, changes_of
from tunewise.serve.engine.prepare import check_base, stand_behind, virtual_of
from tunewise.serve.engine.residents import Key, Resident
from tunewise.task.render import Renderer

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules whose changes vLLM is started for. `embed_tokens` is not among them: with it a batch of a
LoRA and of embeddings ends vLLM's engine on Llama models (vllm issue 51122)."""

_EMBEDDED = "serve it with the embedded engine (tunewise serve --engine embedded)"


@dataclass(frozen=True, slots=True)
class Ground:
    """What is kept of the base beside a server that has its weights.

    Attributes:
        name: short name or path.
        fingerprint: of weights, tokenizer and chat template.
        dtype: that embeddings are sent in.
        width: D.
        vocabulary: V.
        tokenizer: its tokenizer.
        table: its input embeddings, scaled where the base scales them.
        shapes: (O, I) of its linear layers, by the names of the modules.
    """

    name: str
    fingerprint: str
    dtype: torch.dtype
    width: int
    vocabulary: int
    tokenizer: Any = field(repr=False)
    table: nn.Module = field(repr=False)
    shapes: Mapping[str, tuple[int, int]] = field(repr=False)

    @classmethod
    def of(cls, base: Base) -> Ground:
        """Keep of a base what is needed; its layers can be let go."""
        head = base.model.get_output_embeddings()
        shapes = {
            name: (module.out_features, module.in_features)
            for name, module in base.model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
        return cls(
            base.name,
            base.fingerprint,
            base.dtype,
            base.width,
            base.vocabulary,
            base.tokenizer,
            base.model.get_input_embeddings(),
            shapes,
        )

    def embedded(self, tokens: Sequence[int]) -> Tensor:
        """(T, D) input embeddings of T tokens, on the CPU."""
        parameter = next(self.table.parameters())
        with torch.no_grad():
            ids = torch.tensor(list(tokens), dtype=torch.long, device=parameter.device)
            found: Tensor = self.table(ids)
        return found.cpu()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Carried(Resident):
    """An adaptation that vLLM can be asked with.

    Attributes:
        model: what vLLM calls it: the base, or a LoRA on it.
        salt: keeps what vLLM computed for one tenant from all others.
        home: the engine that it belongs to.
    """

    model: str = ""
    salt: str = field(default="", repr=False)
    home: Any = field(default=None, repr=False)


def carried(key: Key, adaptation: Adaptation, ground: Ground) -> tuple[Carried, LowRankPart | None]:
    """An adaptation ready to be asked with, but for a LoRA that must be loaded first.

    Args:
        key: tenant and content hash.
        adaptation: as loaded.
        ground: of the base.

    Returns:
        It, and the LoRA as vLLM reads one, or None.

    Raises:
        WrongBaseError: it was made for another base.
        AdaptationError: a part does not fit the base, or vLLM cannot carry it.
    """
    shallow = adaptation.part(ShallowModelPart)
    spec, decoding = adaptation.spec, adaptation.decoding
    made, *others = (
        Carried(key, adaptation.kinds, spec, decoding, Renderer(ground.tokenizer, spec, prompt))
        for prompt in adaptation.prompts
    )
    if shallow is not None:
        made.shallow = ShallowPredictor(shallow, adaptation.spec)
        made.bytes = sum(tensor.nbytes for tensor in shallow.tensors.values())
        return made, None
    check_base(adaptation, ground.name, ground.fingerprint)
    _refuse(adaptation)
    virtual = virtual_of(adaptation, ground.width, ground.dtype, torch.device("cpu"))
    for each in (made, *others):
        each.virtual = virtual
        stand_behind(each, adaptation)
    made.others = tuple(others)
    low_rank = adaptation.part(LowRankPart)
    change = None if low_rank is None else folded(low_rank, ground)
    made.bytes = 0 if virtual is None else virtual.nbytes
    if change is not None:
        made.bytes += sum(tensor.nbytes for tensor in change.tensors.values())
    return made, change


def folded(part: LowRankPart, ground: Ground) -> LowRankPart:
    """The same changes with one rank and the scale multiplied in.

    vLLM reads one rank and one alpha for all modules; PEFT may have patterns of them.

    Args:
        part: as stored.
        ground: of the base.

    Raises:
        AdaptationError: it does not fit the base, or vLLM cannot carry it.
    """
    odd = [name for name in part.tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if part.config.get("use_dora") or odd:
        raise _unable(
            "DoRA" if part.config.get("use_dora") else f"a tensor {sorted(odd)[0]}",
            f"A and B of {', '.join(TARGETS)}: vLLM takes no DoRA and no biases, and with changed "
            "embeddings it ends where requests bring embeddings",
        )
    names = {name.rpartition(".lora_")[0].removeprefix(LOW_RANK_PREFIX) for name in part.tensors}
    foreign = sorted(name for name in names if name.rpartition(".")[2] not in TARGETS)
    if foreign:
        raise _unable(f"a change of {foreign[0]}", f"changes of {', '.join(TARGETS)} only")
    changes = changes_of(part, ground.shapes)
    rank = max(change.down.shape[0] for change in changes.values())
    config = {
        "base_model_name_or_path": ground.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(changes),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    tensors = {}
    for module, change in changes.items():
        down, up = _widened(change, rank)
        tensors[f"{LOW_RANK_PREFIX}{module}.lora_A.weight"] = down
        tensors[f"{LOW_RANK_PREFIX}{module}.lora_B.weight"] = up
    return LowRankPart(config, tensors)


def _widened(change: Change, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - change.down.shape[0]
    down = functional.pad(change.down, (0, 0, 0, missing))
    return down.contiguous(), functional.pad(change.up, (0, missing)).contiguous()


def _refuse(adaptation: Adaptation) -> None:
    if adaptation.part(KVPrefixPart) is not None:
        raise _unable(
            "a kv_prefix part", "no keys and values of its own: vLLM has no door for them"
        )
    if adaptation.part(WeightsPart) is not None:
        raise _unable(
            "a weights part", "the base's own weights: a vLLM server holds one set of them"
        )


def _unable(found: str, expected: str) -> AdaptationError:
    return AdaptationError(
        "the vLLM engine cannot carry this adaptation",
        found=found,
        expected=expected,
        fix=_EMBEDDED,
    )
