"""The proof of an export of numbers: another program computes the same logits from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import renderer_of, tokens_before
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.forward import pad_rows, row_inputs, selected_logits
from tunewise.model.quiet import quiet_transformers

# Of the largest logit. Float32 sums in another order differ by about 1e-6 of it in a layer.
TOLERANCE = 1e-3
DTYPE = "float32"


def our_logits(base: Base, source: Source, rows: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """(T, V) of every probe, through the code that measures and predicts."""
    found = []
    adaptation = source.adaptation
    renderer = renderer_of(source)
    with predictor_for(base, adaptation) as predictor, torch.no_grad():
        if not isinstance(predictor, BasePredictor):
            raise AdaptationError("an adaptation without the base has no logits")
        prefix = predictor.readout.prefix
        skipped = len(tokens_before(renderer, adaptation, "")) - len(renderer.row_tokens(""))
        for row in rows:
            own = row[skipped:]
            padded = pad_rows([own], base.device, left=False)
            inputs = row_inputs(base, prefix.length, padded)
            rows_at, columns_at = padded.mask.nonzero(as_tuple=True)
            found.append(selected_logits(base, prefix, inputs, (rows_at, columns_at)).float().cpu())
    return found


def plain_model(folder: Path, device: torch.device) -> Any:
    """The model in a folder as transformers alone loads it, in float32."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return model.to(device).eval()


def plain_logits(model: Any, rows: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
    """(T, V) of every row through a model as it is."""
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([row], device=device)).logits[0].float().cpu()
            for row in rows
        ]


def proof(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], plain: Sequence[Tensor], who: str, name: str
) -> dict[str, Any]:
    """How far two programs lie apart, as JSON values.

    Args:
        ours: (T, V) of every probe, T the row's own positions.
        theirs: the same by the other program; it may have further positions ahead.
        plain: by the untouched base.
        who: the other program.
        name: of the base.

    Raises:
        AdaptationError: it computes something else.
    """
    scale = max(float(each.abs().max()) for each in ours)
    # Text that is a computed prefix here has logits there; the row's own come last.
    pairs = list(zip(ours, theirs, plain, strict=True))
    largest = max(float((one - other[-len(one) :]).abs().max()) for one, other, _ in pairs)
    if not largest <= TOLERANCE * scale:
        raise AdaptationError(
            f"{who} computes other logits from this adaptation",
            found=f"logits of {name} that differ by {largest:.2g}",
            expected=f"at most {TOLERANCE * scale:.2g}",
            fix=f"predict with Tunewise, and report the versions of {who} and transformers",
        )
    effects = [float((one - other[-len(one) :]).abs().max()) for one, _, other in pairs]
    return {
        "dtype": DTYPE,
        "probes": len(pairs),
        "largest_logit": scale,
        "largest_difference": largest,
        "largest_difference_from_the_base": max(effects),
        "tolerance": TOLERANCE * scale,
    }
