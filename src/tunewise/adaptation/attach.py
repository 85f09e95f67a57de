"""Attach an adaptation to the one base model, and take it off again without a trace.

Parts that live inside the model (`low_rank`, `weights`) are put in and taken out by reference:
after `attached` ends, every tensor of the base is the same object as before, so its logits are
bit-equal. Parts that live before the text are lowered to one shared prefix.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    VirtualTokensPart,
    WeightsPart,
    text_replaced,
)
from tunewise.adaptation.peft_format import injected_names
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.low_rank import add_low_rank
from tunewise.model.prefix import EMPTY_PREFIX, PrefixInputs, SharedPrefix, token_embeddings
from tunewise.task.render import Renderer

ADAPTER = "default"
# The fields of a LoRA configuration that change the numbers; nothing else is passed to PEFT.
LORA_FIELDS = (
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
)


@contextmanager
def attached(base: Base, parts: Sequence[Part]) -> Iterator[None]:
    """The base with the parts that live inside it, while the context lasts.

    Args:
        base: the base model.
        parts: any parts; those that do not live in the model are passed over.

    Raises:
        AdaptationError: a tensor does not fit the base; the base is left as it was.
    """
    with ExitStack() as stack:
        # Weights first: LoRA layers in their place would change their names.
        for part in sorted(parts, key=lambda part: not isinstance(part, WeightsPart)):
            if isinstance(part, WeightsPart):
                stack.enter_context(_weights(base, part))
            elif isinstance(part, LowRankPart):
                stack.enter_context(low_rank_attached(base, part.config, part.tensors))
        yield


@contextmanager
def _weights(base: Base, part: WeightsPart) -> Iterator[None]:
    named = dict(base.model.named_parameters())
    for name, tensor in part.tensors.items():
        if name not in named or named[name].shape != tensor.shape:
            shape = tuple(named[name].shape) if name in named else "no such tensor"
            raise AdaptationError(
                "a stored weight does not fit the base",
                found=f"{name} of shape {tuple(tensor.shape)}",
                expected=f"{shape} in {base.name}",
            )
    before = {name: named[name].data for name in part.tensors}
    try:
        for name, tensor in part.tensors.items():
            named[name].data = tensor.to(device=base.device, dtype=before[name].dtype)
        yield
    finally:
        for name, tensor in before.items():
            named[name].data = tensor


@dataclass(frozen=True, slots=True)
class LowRankLayers:
    """LoRA layers that stand in the base.

    Attributes:
        config: PEFT's configuration as resolved, with the names of the layers it changed.
        working: the layers' own parameters by name, in the dtype they compute in.
        exact: the same values in float32, by the same names.
    """

    config: dict[str, Any]
    working: dict[str, nn.Parameter]
    exact: dict[str, Tensor]


@contextmanager
def low_rank_attached(
    base: Base, config: Any, tensors: Any | None, *, seed: int = 0
) -> Iterator[LowRankLayers]:
    """PEFT's LoRA layers in place of the base's linear layers, while the context lasts.

    They compute in the dtype of the base: float32 products beside bfloat16 layers would cost more
    than the layers themselves. DoRA stays in float32, since it divides by norms of whole columns.

    Args:
        base: the base model.
        config: the fields of PEFT's `adapter_config.json`.
        tensors: PEFT's stored tensors; None leaves the fresh initialisation (B is zero).
        seed: of the fresh initialisation, which is drawn from PyTorch's global generator; its
            state is restored.

    Yields:
        The layers.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = base.model
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            lora = _injected(base, config, LoraConfig, inject_adapter_in_model)
        working = {name: leaf for name, leaf in model.named_parameters() if "lora_" in name}
        for parameter in working.values():
            parameter.data = parameter.data.float()
        if tensors is not None:
            _load_low_rank(base, tensors, set_peft_model_state_dict)
        exact = {name: parameter.detach().clone() for name, parameter in working.items()}
        if not lora.use_dora:
            for parameter in working.values():
                parameter.data = parameter.data.to(base.dtype)
            for module in model.modules():
                if isinstance(module, BaseTunerLayer) and not isinstance(
                    module.get_base_layer(), nn.Embedding
                ):
                    # An instance's own `forward` goes before that of its class.
                    module.forward = partial(_plain_low_rank, module)
        resolved = lora.to_dict()
        resolved["target_modules"] = sorted(resolved["target_modules"])
        yield LowRankLayers(resolved, working, exact)
    finally:
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.get_base_layer())
        # PEFT leaves its configuration on the model.
        vars(model).pop("peft_config", None)
        model.requires_grad_(False)


def _injected(base: Base, config: Any, make: Any, inject: Any) -> Any:
    """The LoRA's configuration, with its layers put into the base."""
    try:
        lora = make(
            **{name: config[name] for name in LORA_FIELDS if config.get(name) is not None},
            task_type="CAUSAL_LM",
        )
        inject(lora, base.model, ADAPTER)
    except (ValueError, TypeError) as error:  # PEFT's, for settings that it cannot use
        raise AdaptationError(
            "a low-rank part's settings do not fit the base",
            found=str(error).strip().partition("\n")[0],
            expected=f"settings of PEFT's LoRA for layers of {base.name}",
        ) from error
    return lora


def _plain_low_rank(layer: Any, rows: Tensor) -> Tensor:
    """PEFT's LoRA layer without dropout or variants, in fewer passes."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return add_low_rank(layer.base_layer(rows), rows, down, up, layer.scaling[ADAPTER])


def _load_low_rank(base: Base, tensors: Any, load: Any) -> None:
    try:
        outcome = load(base.model, injected_names(tensors), ADAPTER)
    except RuntimeError as error:  # PyTorch's, for tensors of other shapes
        lines = [line.strip() for line in str(error).splitlines()]
        raise AdaptationError(
            "a stored low-rank part does not fit the base",
            found=lines[min(1, len(lines) - 1)],
            expected=f"the shapes of the adapted layers of {base.name}",
        ) from error
    wanted = {name for name, _ in base.model.named_parameters() if "lora_" in name}
    missing = sorted(wanted & set(outcome.missing_keys))
    if missing or outcome.unexpected_keys:
        raise AdaptationError(
            "a stored low-rank part does not fit the base",
            found=f"{len(missing)} layers without a stored tensor, "
            f"{len(outcome.unexpected_keys)} stored tensors without a layer",
            expected=f"one A and one B for each adapted layer of {base.name}",
        )


def prefix_inputs(
    base: Base,
    renderer: Renderer,
    *,
    virtual: Tensor | None = None,
    positions: SharedPrefix = EMPTY_PREFIX,
    replaces_shared_text: bool = False,
) -> PrefixInputs:
    """What everything that stands before the rows is computed from.

    The order is: trained keys and values, virtual tokens, the prompt's shared text.

    Args:
        base: the base with the parts inside it attached.
        renderer: gives the shared text.
        virtual: (k, D) virtual tokens, or None.
        positions: trained keys and values.
        replaces_shared_text: whether one of the two stands in place of the shared text.
    """
    pieces: list[Tensor] = []
    if virtual is not None:
        pieces.append(virtual[None].to(base.dtype))
    if renderer.shared_tokens and not replaces_shared_text:
        pieces.append(token_embeddings(base, renderer.shared_tokens))
    return PrefixInputs(torch.cat(pieces, dim=1) if pieces else None, positions)


def lower_parts(base: Base, renderer: Renderer, parts: Sequence[Part]) -> SharedPrefix:
    """Everything of stored parts that stands before the rows, as one prefix; no gradients."""
    virtual, positions = None, EMPTY_PREFIX
    for part in parts:
        if isinstance(part, VirtualTokensPart):
            virtual = part.embeddings.to(base.device)
        elif isinstance(part, KVPrefixPart):
            positions = prefix_of(part, base)
    with torch.no_grad():
        inputs = prefix_inputs(
            base,
            renderer,
            virtual=virtual,
            positions=positions,
            replaces_shared_text=text_replaced(parts),
        )
        return inputs.lower(base)


def computed_positions(renderer: Renderer, parts: Sequence[Part]) -> int:
    """Positions that `lower_parts` computes: all but stored keys and values."""
    count = 0 if text_replaced(parts) else len(renderer.shared_tokens)
    for part in parts:
        if isinstance(part, VirtualTokensPart):
            count += int(part.embeddings.shape[0])
    return count


def standing_positions(renderer: Renderer, parts: Sequence[Part]) -> int:
    """All positions that `lower_parts` puts before a row."""
    kept = [part.keys[0].shape[1] for part in parts if isinstance(part, KVPrefixPart)]
    return computed_positions(renderer, parts) + sum(kept)


def prefix_of(part: KVPrefixPart, base: Base) -> SharedPrefix:
    """The stored keys and values, in the dtype of the base."""
    keys, values = (
        tuple(tensor[None].to(device=base.device, dtype=base.dtype) for tensor in tensors)
        for tensors in (part.keys, part.values)
    )
    return SharedPrefix(keys, values)
