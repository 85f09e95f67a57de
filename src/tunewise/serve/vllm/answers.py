"""Reads an answer out of vLLM, as the embedded engine reads it out of logits.

What may come next is decided here, by the same tries and grammars as in `predict`; vLLM's own
choices are taken where they are allowed, which makes them the likeliest of the allowed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import numpy as np
import torch

from tunewise.errors import RunError
from tunewise.model.decode import Constraint, LabelState
from tunewise.serve.contract import Piece, Reason
from tunewise.serve.engine.choose import Chosen, likeliest
from tunewise.serve.engine.readers import Generation, Scoring, Told
from tunewise.serve.vllm.asking import Asking
from tunewise.serve.vllm.parse import Taken
from tunewise.serve.vllm.wire import finite

Tell = Callable[[Piece], None]


async def answer(asking: Asking, reader: Generation | Scoring, tell: Tell) -> Reason:
    """Answer one request.

    Args:
        asking: asks on its behalf.
        reader: reads its answer.
        tell: takes the pieces.

    Returns:
        Why it ended.

    Raises:
        UnavailableError: the server does not answer.
        RunError: it refuses, or answers something else.
    """
    if isinstance(reader, Scoring):
        return await _scored(asking, reader, tell)
    if reader.constraint is None:
        return await _free(asking, reader, tell)
    if isinstance(reader.constraint, LabelState):
        return await _through_trie(asking, reader, reader.constraint, tell)
    return await _under_grammar(asking, reader, reader.constraint, tell)


async def _free(asking: Asking, reader: Generation, tell: Tell) -> Reason:
    wanted = asking.sampling.logprobs
    asked = 0 if wanted is None and reader.rated else wanted
    async with asking.following(reader.limit, asked) as tokens:
        async for taken in tokens:
            told = _step(asking, reader, _chosen(taken, asked), tell)
            if told.feed is None:
                return told.reason
    raise _short(reader)


async def _through_trie(
    asking: Asking, reader: Generation, state: LabelState, tell: Tell
) -> Reason:
    while True:
        children = list(state.trie.children[state.node])
        if len(children) == 1:
            told = _step(asking, reader, Chosen(children[0], 0.0), tell)
        else:
            found = await asking.log_probabilities(children)
            logits = torch.full((1, state.vocabulary), -math.inf)
            logits[0, list(found)] = torch.tensor(list(found.values()))
            told = _noted(asking, reader.take(logits, likeliest(logits)), tell)
        if told.feed is None:
            return told.reason


async def _under_grammar(
    asking: Asking, reader: Generation, constraint: Constraint, tell: Tell
) -> Reason:
    # Of the mass of all allowed tokens vLLM tells nothing, so there is no probability to tell.
    reader.rated = False
    refused: int | None = None
    while True:
        allowed = _allowed(constraint)
        if len(allowed) == 1:
            told = _step(asking, reader, Chosen(allowed.pop(), 0.0), tell)
        elif refused is not None:
            token = await asking.one_of(allowed, refused)
            told = _step(asking, reader, Chosen(token, 0.0), tell)
        else:
            refused, reason = await _while_allowed(asking, reader, constraint, tell)
            if reason is not None:
                return reason
            continue
        refused = None
        if told.feed is None:
            return told.reason


async def _while_allowed(
    asking: Asking, reader: Generation, constraint: Constraint, tell: Tell
) -> tuple[int | None, Reason | None]:
    """Free text as long as the grammar allows it.

    Returns:
        The first token that it does not allow, or None; why the answer ended, or None.
    """
    async with asking.following(reader.limit - reader.generated, None) as tokens:
        async for taken in tokens:
            mask = constraint.allowed()
            if mask is not None and not bool(mask[taken.token]):
                return taken.token, None
            told = _step(asking, reader, Chosen(taken.token, 0.0), tell)
            if told.feed is None:
                return None, told.reason
    raise _short(reader)


async def _scored(asking: Asking, reader: Scoring, tell: Tell) -> Reason:
    tree = reader.tree
    if tree is None:
        raise RunError("there are no labels to score")
    trie = tree.trie

    async def below(node: int) -> dict[int, float]:
        path = [trie.token[each] for each in trie.path(node)]
        return await asking.log_probabilities(list(trie.children[node]), path)

    # The row alone first: what follows it finds it computed.
    tables = {0: await below(0)}
    found = await asyncio.gather(*(below(node) for node in tree.inner))
    tables |= dict(zip(tree.inner, found, strict=True))
    sums = [
        math.fsum(tables[trie.parent[node]][trie.token[node]] for node in trie.path(leaf))
        for leaf in trie.leaf_of
    ]
    return _noted(asking, reader.scored(np.array([sums])), tell).reason


def _step(asking: Asking, reader: Generation, chosen: Chosen, tell: Tell) -> Told:
    return _noted(asking, reader.took(chosen), tell)


def _noted(asking: Asking, told: Told, tell: Tell) -> Told:
    for piece in told.pieces:
        tell(piece)
    if told.feed is not None:
        asking.answered.append(told.feed)
    return told


def _chosen(taken: Taken, asked: int | None) -> Chosen:
    if asked is None:
        return Chosen(taken.token, 0.0)
    value = taken.log_probability
    if value is None or not finite(value):
        raise RunError(
            "vLLM gives no finite log-probability for a token",
            found=f"token {taken.token}: {value}",
            fix="serve the adaptation in float32, or with the embedded engine",
        )
    ranked = sorted(taken.others.items(), key=lambda pair: -pair[1])[:asked]
    if len(ranked) < asked or not all(finite(each) for _, each in ranked):
        raise RunError(
            "vLLM does not tell the likeliest tokens",
            found=f"{len(ranked)} of {asked} at token {taken.token}",
            expected="no other client of the vLLM server that names tokens (logprob_token_ids)",
        )
    return Chosen(taken.token, value, tuple(ranked))


def _allowed(constraint: Constraint) -> set[int]:
    mask = constraint.allowed()
    return set() if mask is None else set(mask.nonzero().flatten().tolist())


def _short(reader: Generation) -> RunError:
    return RunError(
        "vLLM ended an answer before its end",
        found=f"{reader.generated} of at most {reader.limit} tokens, and no end among them",
    )
