"""From a loaded adaptation to one that can run."""

from __future__ import annotations

import torch
from torch import Tensor

from tunewise.adaptation.attach import prefix_of, standing_positions
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import (
    KVPrefixPart,
    ShallowModelPart,
    VirtualTokensPart,
    text_replaced,
)
from tunewise.adaptation.readout import label_sequences
from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import AdaptationError, WrongBaseError
from tunewise.model.base import Base
from tunewise.model.score import LabelTree
from tunewise.serve.engine.residents import Key, Resident
from tunewise.serve.engine.slots import PlaceShape, packed_prefix
from tunewise.serve.engine.work import Runner
from tunewise.task.render import Renderer


def prepare(
    key: Key, adaptation: Adaptation, base: Base, runner: Runner, shape: PlaceShape
) -> Resident:
    """An adaptation ready to run.

    Args:
        key: tenant and content hash.
        adaptation: as loaded.
        base: the base.
        runner: runs it.
        shape: of one position's keys and values.

    Raises:
        WrongBaseError: it was made for another base.
        AdaptationError: a part does not fit the base, or cannot be carried.
    """
    shallow = adaptation.part(ShallowModelPart)
    spec, decoding = adaptation.spec, adaptation.decoding
    made, *others = (
        Resident(key, adaptation.kinds, spec, decoding, Renderer(base.tokenizer, spec, prompt))
        for prompt in adaptation.prompts
    )
    if shallow is not None:
        made.shallow = ShallowPredictor(shallow, adaptation.spec)
        made.bytes = sum(tensor.nbytes for tensor in shallow.tensors.values())
        return made
    check_base(adaptation, base.name, base.fingerprint)
    kept = _kept(adaptation, base, shape)
    virtual = virtual_of(adaptation, base.width, base.dtype, base.device)
    inside = runner.inside(adaptation.parts)
    own = [tensor for tensor in (kept, virtual) if tensor is not None]
    made.bytes = inside.bytes + sum(tensor.nbytes for tensor in own)
    made.others = tuple(others)
    for each in (made, *others):
        each.kept, each.virtual, each.inside = kept, virtual, inside
        stand_behind(each, adaptation)
        if each.positions == (0 if kept is None else kept.shape[2]):
            each.prefix = kept
        else:
            # Its keys and values come with the first request; the memory is counted from the start.
            made.bytes += each.positions * shape.bytes(base.dtype)
    return made


def stand_behind(made: Resident, adaptation: Adaptation) -> None:
    """What of an adaptation depends on the prompt: text, positions and labels behind them.

    Args:
        made: has the renderer of the prompt.
        adaptation: as loaded.
    """
    renderer = made.renderer
    if renderer is None:
        return
    if not text_replaced(adaptation.parts):
        made.text = renderer.shared_tokens
    made.positions = standing_positions(renderer, adaptation.parts)
    if adaptation.spec.labels:
        made.tree = LabelTree.of(label_sequences(renderer))


def check_base(adaptation: Adaptation, name: str, fingerprint: str) -> None:
    """Refuse what was made for another base.

    Args:
        adaptation: as loaded.
        name: of the base that is served.
        fingerprint: of that base.

    Raises:
        WrongBaseError: it was made for another one.
    """
    made_for = adaptation.provenance
    if fingerprint != made_for.base_fingerprint:
        raise WrongBaseError(
            "the adaptation was made for another base model",
            found=f"{name}, fingerprint {fingerprint[:12]}",
            expected=f"{made_for.base_name}, fingerprint {made_for.base_fingerprint[:12]}",
            fix=f"serve the base {made_for.base_name}, or fit again on this base",
        )


def _kept(adaptation: Adaptation, base: Base, shape: PlaceShape) -> Tensor | None:
    part = adaptation.part(KVPrefixPart)
    if part is None:
        return None
    wanted = {(shape.heads, shape.width)}
    found = {(t.shape[0], t.shape[2]) for t in (*part.keys, *part.values) if t.ndim == 3}
    counts = {t.shape[-2] for t in (*part.keys, *part.values) if t.ndim == 3}
    layers = len(part.keys), len(part.values)
    if layers != (shape.layers, shape.layers) or found != wanted or len(counts) != 1:
        raise AdaptationError(
            "a stored prefix does not fit the base",
            found=f"keys and values of {layers} layers, heads and widths {sorted(found)}",
            expected=f"{shape.layers} layers, heads and width {sorted(wanted)}",
        )
    return _finite("prefix", packed_prefix(prefix_of(part, base)))


def virtual_of(
    adaptation: Adaptation, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """The virtual tokens of an adaptation, or None.

    Args:
        adaptation: as loaded.
        width: D, of an embedding of the base.
        dtype: that the base computes in.
        device: where they are wanted.

    Returns:
        (k, D).

    Raises:
        AdaptationError: they do not fit the base, or are not finite numbers.
    """
    part = adaptation.part(VirtualTokensPart)
    if part is None:
        return None
    if part.embeddings.ndim != 2 or part.embeddings.shape[1] != width:
        raise AdaptationError(
            "stored virtual tokens do not fit the base",
            found=f"shape {tuple(part.embeddings.shape)}",
            expected=f"(tokens, {width})",
        )
    return _finite("virtual token", part.embeddings.to(device=device, dtype=dtype))


def _finite(what: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise AdaptationError(f"a stored {what} holds numbers that are not finite")
    return tensor
