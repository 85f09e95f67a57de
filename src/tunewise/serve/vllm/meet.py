"""Whether a server has our base, and what it was started for. Names prove nothing, numbers do.

Its log-probabilities behind a fixed text are held against our own. Another base, another dtype, or
a server that tells log-probabilities after sampling settings are all found out here, before the
first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tunewise.errors import RunError, WrongBaseError
from tunewise.model.base import Base
from tunewise.serve.contract import Sampling
from tunewise.serve.vllm.asking import Asking, Prompt
from tunewise.serve.vllm.carry import Carried, Ground
from tunewise.serve.vllm.wire import RefusedError, Wire

TEXT = "The quick brown fox jumps over 13 lazy dogs, and nobody saw which of them it was."
_MOST_TOKENS = 48
# Distances between the same weights: last bits in float32; in bfloat16, whose steps are 2^-8 of a
# logit, what unlikely tokens were seen to differ by between two ways of computing them.
_CLOSE = {torch.float32: 0.005}
_CLOSE_ROUNDED = 0.5
_IDS = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """Our own log-probabilities at a few places of a fixed text.

    Attributes:
        places: how many tokens stand before each place -> token -> log-probability.
        tokens: of the text.
        close: how far a server's may be from them.
    """

    tokens: tuple[int, ...]
    places: Mapping[int, Mapping[int, float]]
    close: float

    @classmethod
    def of(cls, base: Base) -> Proof:
        """Compute it: one pass over a short text."""
        tokens = base.tokenizer.encode(TEXT, add_special_tokens=False)[:_MOST_TOKENS]
        with torch.no_grad():
            ids = torch.tensor([tokens], device=base.device)
            found = base.model(input_ids=ids).logits[0].float().log_softmax(dim=-1).cpu()
        asked = range(0, base.vocabulary, max(1, base.vocabulary // _IDS))
        places = {}
        for count in (len(tokens) // 3, len(tokens) - 1):
            wanted = sorted({*asked, tokens[count]})
            places[count] = {token: float(found[count - 1, token]) for token in wanted}
        return cls(tuple(tokens), places, _CLOSE.get(base.dtype, _CLOSE_ROUNDED))


@dataclass(frozen=True, slots=True)
class Met:
    """What a server is.

    Attributes:
        model: what it calls the base.
        context: the most positions of a request, or None where it does not tell.
        no_embeddings: why it takes no embeddings; "" where it does.
    """

    model: str
    context: int | None
    no_embeddings: str


async def meet(wire: Wire, ground: Ground, proof: Proof) -> Met:
    """Find out what a server is.

    Args:
        wire: the server.
        ground: of our base.
        proof: what it must compute.

    Raises:
        WrongBaseError: it computes something else.
        UnavailableError: it does not answer.
        RunError: it answers something else than vLLM does.
    """
    cards = await wire.models()
    bases = [
        card for card in cards if card.get("parent") is None and isinstance(card.get("id"), str)
    ]
    if not bases:
        raise RunError("the vLLM server has no base model", found=wire.url)
    name, context = str(bases[0]["id"]), bases[0].get("max_model_len")
    limit = context if isinstance(context, int) else None
    carried = Carried(("", ""), model=name, salt="proof")
    worst = 0.0
    for count, wanted in proof.places.items():
        asking = _asking(wire, ground, carried, proof.tokens[:count])
        try:
            found = await asking.log_probabilities(list(wanted))
        except RefusedError as error:
            # A token beyond its vocabulary, say.
            raise _wrong(wire, ground, name, error.found) from error
        worst = max(worst, *(abs(found[token] - value) for token, value in wanted.items()))
    # Not a number is never within.
    if not worst <= proof.close:
        raise _wrong(
            wire, ground, name, f"log-probabilities of a fixed text differ by up to {worst:.3g}"
        )
    return Met(name, limit, await _embeddings(wire, ground, carried, proof))


async def _embeddings(wire: Wire, ground: Ground, carried: Carried, proof: Proof) -> str:
    """Why the server takes no embeddings, or "": the same text again, half of it as embeddings."""
    count, wanted = next(iter(proof.places.items()))
    half = count // 2
    carried.virtual = ground.embedded(proof.tokens[:half])
    asking = _asking(wire, ground, carried, proof.tokens[half:count])
    try:
        found = await asking.log_probabilities(list(wanted))
    except RunError as error:
        return error.found
    worst = max(abs(found[token] - value) for token, value in wanted.items())
    if not worst <= proof.close:
        return f"log-probabilities behind embeddings differ by up to {worst:.3g}"
    return ""


def _asking(wire: Wire, ground: Ground, carried: Carried, row: tuple[int, ...]) -> Asking:
    return Asking(wire, Prompt(ground, carried, row), Sampling())


def _wrong(wire: Wire, ground: Ground, name: str, found: str) -> WrongBaseError:
    return WrongBaseError(
        "the vLLM server does not compute what our base computes",
        found=f"{wire.url} serves {name}: {found}",
        expected=f"{ground.name} in {str(ground.dtype).removeprefix('torch.')}, "
        f"fingerprint {ground.fingerprint[:12]}",
        fix="start vLLM with the folder of that base and the same --dtype, or give ours",
    )
