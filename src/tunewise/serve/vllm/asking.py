"""One request as the completions that vLLM is asked for.

Prompt      tokens, or embeddings of all positions where virtual tokens stand among them
Asking      the next tokens behind a prompt, one token out of some, log-probabilities of some
"""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tunewise.errors import RunError
from tunewise.serve.contract import Sampling
from tunewise.serve.vllm.carry import Carried, Ground
from tunewise.serve.vllm.parse import Taken
from tunewise.serve.vllm.wire import RefusedError, Wire, finite

# vLLM's own ceilings, per request.
MOST_ALLOWED = 1024
MOST_ASKED = 128
# As good as never: vLLM takes no larger one.
_NEVER = -100.0
_MOST_TRIES = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything before an answer.

    Attributes:
        ground: of the base.
        carried: the adaptation.
        row: the row's own tokens.
    """

    ground: Ground
    carried: Carried
    row: tuple[int, ...]

    def fields(self, behind: Sequence[int]) -> dict[str, Any]:
        """As vLLM wants it.

        Args:
            behind: tokens that stand behind it already.
        """
        tokens = [*self.carried.text, *self.row, *behind]
        if self.carried.virtual is None:
            return {"prompt": tokens}
        positions = torch.cat([self.carried.virtual, self.ground.embedded(tokens)])
        return {"prompt_embeds": encoded(positions)}


def encoded(positions: torch.Tensor) -> str:
    """Embeddings as vLLM's interface wants them: PyTorch's own file format in base64."""
    buffer = io.BytesIO()
    # A copy, so that no larger storage behind a view is written with it.
    torch.save(positions.detach().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(slots=True)
class Asking:
    """Asks vLLM on behalf of one request.

    Attributes:
        wire: the server.
        prompt: of the request.
        sampling: of the request.
        ends: tokens that end its answer.
        answered: tokens of the answer so far.
        cached: positions of the prompt that were computed before; None before it is known.
    """

    wire: Wire
    prompt: Prompt
    sampling: Sampling
    ends: Collection[int] = ()
    answered: list[int] = field(default_factory=list)
    cached: int | None = None
    _drawn: int = 0

    def following(
        self, most: int, logprobs: int | None
    ) -> AbstractAsyncContextManager[AsyncGenerator[Taken, None]]:
        """The answer from here on, token by token; leaving the context ends it on the server.

        Args:
            most: tokens at most.
            logprobs: so many likeliest tokens at every place, None for no log-probabilities.
        """
        body = self._drawing() | {"max_tokens": most, "stop_token_ids": sorted(self.ends)}
        if logprobs is not None:
            body["logprobs"] = logprobs
        return self._apart(body)

    async def one_of(self, allowed: Collection[int], refused: int | None) -> int:
        """The next token, out of those that may come.

        Args:
            allowed: they.
            refused: one that would come and may not, where one is known.

        Raises:
            RunError: vLLM goes on choosing others.
        """
        if len(allowed) <= MOST_ALLOWED:
            return await self._one({"allowed_token_ids": sorted(allowed)}, allowed)
        # Too many to name: what comes and may not is ruled out, one after the other. So the
        # likeliest of the allowed is found, and a draw is one among the allowed.
        ruled_out = set() if refused is None else {refused}
        for _ in range(_MOST_TRIES):
            bias = {str(token): _NEVER for token in sorted(ruled_out)}
            token = await self._one({"logit_bias": bias}, None)
            if token in allowed:
                return token
            ruled_out.add(token)
        raise RunError(
            "vLLM chooses no token that the JSON schema allows",
            found=f"{_MOST_TRIES} others after {len(self.answered)} tokens",
            fix="serve with the embedded engine",
        )

    async def log_probabilities(
        self, tokens: Sequence[int], behind: Sequence[int] = ()
    ) -> dict[int, float]:
        """Log-probabilities of some next tokens, over the whole vocabulary.

        Args:
            tokens: which.
            behind: tokens between the answer so far and them.

        Raises:
            RunError: vLLM does not give them as finite numbers.
        """
        found: dict[int, float] = {}
        prompt = self._fixed(behind) | {"logprobs": 0}
        for begin in range(0, len(tokens), MOST_ASKED):
            some = list(tokens[begin : begin + MOST_ASKED])
            if self.wire.names_tokens:
                found |= await self._named(prompt, some)
        for token in tokens:
            if token not in found:
                taken = await self._taken(prompt | {"allowed_token_ids": [token]})
                if taken.token == token and taken.log_probability is not None:
                    found[token] = taken.log_probability
        missing = [token for token in tokens if token not in found or not finite(found[token])]
        if missing:
            raise RunError(
                "vLLM gives no finite log-probabilities for this request",
                found=f"tokens {missing[:5]}",
                fix="serve the adaptation in float32, or with the embedded engine",
            )
        return {token: found[token] for token in tokens}

    async def _named(self, prompt: dict[str, Any], tokens: list[int]) -> Mapping[int, float]:
        """Log-probabilities of tokens that are named.

        A version that does not know the field gives none of them, and where others ask for the
        likeliest tokens they must not be named. Then each is the only one allowed in turn: vLLM
        tells the probability that it had before anything was forbidden.
        """
        with self.wire.apart.named() as may:
            if not may:
                return {}
            try:
                taken = await self._taken(prompt | {"logprob_token_ids": tokens})
            except RefusedError:
                # For this, or for something that the other way will be refused for too.
                return {}
        self.wire.names_tokens = taken.others.keys() >= set(tokens)
        return taken.others

    @asynccontextmanager
    async def _apart(
        self, body: Mapping[str, Any]
    ) -> AsyncGenerator[AsyncGenerator[Taken, None], None]:
        async with AsyncExitStack() as held:
            if body.get("logprobs"):
                await held.enter_async_context(self.wire.apart.ranked())
            yield await held.enter_async_context(aclosing(self._counted(body)))

    async def _counted(self, body: Mapping[str, Any]) -> AsyncGenerator[Taken, None]:
        counts: list[int] = []
        async with self._turn(), aclosing(self.wire.tokens(body, counts)) as tokens:
            async for taken in tokens:
                if counts:
                    self._note(counts[0])
                yield taken

    async def _one(self, limits: Mapping[str, Any], allowed: Collection[int] | None) -> int:
        taken = await self._taken(self._drawing() | dict(limits))
        if allowed is not None and taken.token not in allowed:
            raise RunError("vLLM takes a token that is not allowed", found=f"token {taken.token}")
        return taken.token

    async def _taken(self, body: Mapping[str, Any]) -> Taken:
        async with self._turn():
            taken, cached = await self.wire.one(body)
        self._note(cached)
        return taken

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return self.wire.sides.held("low_rank" in self.prompt.carried.kinds)

    def _note(self, cached: int) -> None:
        if self.cached is None:
            self.cached = cached

    def _fixed(self, behind: Sequence[int]) -> dict[str, Any]:
        carried = self.prompt.carried
        fields = self.prompt.fields([*self.answered, *behind])
        return fields | {"model": carried.model, "cache_salt": carried.salt, "temperature": 0.0}

    def _drawing(self) -> dict[str, Any]:
        body = self._fixed(()) | {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
        }
        if self.sampling.seed is not None:
            # An answer in several pieces must not draw the same numbers for each.
            body["seed"] = (self.sampling.seed + self._drawn + 2**63) % 2**64 - 2**63
        self._drawn += 1
        return body
