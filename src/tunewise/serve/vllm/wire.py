"""What is said to a vLLM server over HTTP, and what it says back.

Tokens go there and tokens come back; vLLM's own texts are not read. Every setting that a model's
`generation_config.json` could change behind our back is said out loud.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tunewise.errors import ConfigError, RunError, TunewiseError, UnavailableError
from tunewise.serve.vllm.apart import Apart, Sides
from tunewise.serve.vllm.parse import Taken, cached_of, choice_of, error_text

COMPLETIONS = "/v1/completions"
_CONNECT_SECONDS, _CHECK_SECONDS = 10.0, 5.0
# vLLM's server closes an idle connection after 5 seconds; one used at that moment would fail.
_IDLE_SECONDS = 2.0

PLAIN: Mapping[str, Any] = {
    "n": 1,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
    "add_special_tokens": False,
    "skip_special_tokens": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}


class Wire:
    """A vLLM server; used on one event loop only.

    Args:
        url: where it listens, without /v1.
        key: sent as bearer token, or None.
        silence_seconds: the longest time without a sign of life.
        hint: what to do where it does not answer.

    Attributes:
        requests: completions begun.
        names_tokens: whether it gives log-probabilities of tokens that are named, as far as known.
        sides: turns of requests with and without a LoRA.
        apart: keeps named and ranked log-probabilities out of one batch.

    Raises:
        ConfigError: that is no address.
    """

    def __init__(self, url: str, key: str | None, *, silence_seconds: float, hint: str) -> None:
        self.url, self._hint = url, hint
        self.requests, self.names_tokens, self.apart = 0, True, Apart()
        self.sides = Sides(on=False)
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise _no_address(url) from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise _no_address(url)
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(silence_seconds, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_SECONDS),
            # The address that was given is asked, not a proxy of the environment.
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def models(self) -> list[Mapping[str, Any]]:
        """What the server serves, as it says.

        Raises:
            UnavailableError: it does not answer.
            RunError: it answers something else.
        """
        async with self._said("GET", "/v1/models", None) as response:
            body = await self._json(response)
        cards = body.get("data")
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise self.unreadable(json.dumps(body))
        return cards

    async def check(self) -> None:
        """Ask whether it can compute.

        Raises:
            UnavailableError: it cannot, or does not answer within seconds.
        """
        async with self._said("GET", "/health", None, httpx.Timeout(_CHECK_SECONDS)):
            return

    async def load(self, name: str, folder: str) -> None:
        """Load a PEFT LoRA under a name.

        Args:
            name: a new one.
            folder: with `adapter_config.json`, where the server can read it.

        Raises:
            UnavailableError: the server does not answer, or fails (`FailedError`).
            RefusedError: it does not take it.
        """
        await self._told("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    async def unload(self, name: str) -> None:
        """Forget a LoRA; raises as `load`."""
        await self._told("/v1/unload_lora_adapter", {"lora_name": name})

    async def one(self, body: Mapping[str, Any]) -> tuple[Taken, int]:
        """The next token behind a prompt.

        Args:
            body: prompt and settings.

        Returns:
            The token, and how many positions of the prompt were computed before.

        Raises:
            UnavailableError: the server does not answer.
            RunError: it refuses, or answers something else.
        """
        asked = {**PLAIN, **body, "max_tokens": 1, "stream": False}
        self.requests += 1
        async with self._said("POST", COMPLETIONS, asked) as response:
            said = await self._json(response)
        choice = choice_of(said)
        if choice is None or len(choice.taken) != 1:
            raise self.unreadable(json.dumps(said))
        return choice.taken[0], cached_of(said)

    async def tokens(
        self, body: Mapping[str, Any], cached: list[int] | None = None
    ) -> AsyncGenerator[Taken, None]:
        """An answer token by token; closing the iterator ends it on the server too.

        Args:
            body: prompt and settings.
            cached: takes the number of the prompt's positions that were computed before.

        Raises:
            UnavailableError: the server does not answer, or breaks off.
            RunError: it refuses, or answers something else.
        """
        asked = {**PLAIN, **body, "stream": True, "stream_options": {"include_usage": True}}
        self.requests += 1
        last: tuple[Taken, ...] | None = None
        async with self._said("POST", COMPLETIONS, asked) as response:
            async for line in response.aiter_lines():
                text = line.removeprefix("data:").strip()
                if text == "[DONE]":
                    break
                if not line.startswith("data:"):
                    continue
                said = self._event(text)
                if said.get("choices") == []:
                    if cached is not None:
                        cached.append(cached_of(said))
                    continue
                choice = choice_of(said)
                if choice is None:
                    raise self.unreadable(text)
                if choice.reason in {"stop", "length"}:
                    # Kept until the counts have come: whoever has the last token reads no further.
                    last = choice.taken
                    continue
                for taken in choice.taken:
                    yield taken
        if last is None:
            raise UnavailableError(
                "the vLLM server broke off an answer", found=self.url, fix=self._hint
            )
        for taken in last:
            yield taken

    def unreadable(self, said: str) -> RunError:
        """An error for an answer that is not one of vLLM's."""
        return RunError(
            "the vLLM server said something that cannot be read",
            found=f"{self.url}: {said[:300]}",
            expected="answers of vLLM 0.11 or later, with token ids",
        )

    # One request

    async def _told(self, path: str, body: Mapping[str, Any]) -> None:
        async with self._said("POST", path, body):
            return

    @asynccontextmanager
    async def _said(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: httpx.Timeout | None = None,
    ) -> AsyncIterator[httpx.Response]:
        timeout = self._client.timeout if timeout is None else timeout
        try:
            async with self._client.stream(method, path, json=body, timeout=timeout) as response:
                if response.status_code != httpx.codes.OK:
                    text = (await response.aread()).decode("utf-8", errors="replace")
                    raise self._refusal(response.status_code, error_text(text))
                yield response
        except httpx.TransportError as error:
            raise UnavailableError(
                "the vLLM server does not answer",
                found=f"{self.url}: {type(error).__name__} {error}".strip(),
                fix=self._hint,
            ) from error

    def _refusal(self, status: int, said: str) -> TunewiseError:
        found = f"{self.url}: status {status}, {said[:500]}"
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return FailedError("the vLLM server failed", found=found, fix=self._hint)
        return RefusedError("the vLLM server refuses what it is asked", found=found)

    async def _json(self, response: httpx.Response) -> Mapping[str, Any]:
        text = (await response.aread()).decode("utf-8", errors="replace")
        return self._event(text)

    def _event(self, text: str) -> Mapping[str, Any]:
        try:
            said = json.loads(text)
        except ValueError as error:
            raise self.unreadable(text) from error
        if not isinstance(said, dict):
            raise self.unreadable(text)
        if "error" in said:
            raise FailedError(
                "the vLLM server failed",
                found=f"{self.url}: {error_text(text)[:500]}",
                fix=self._hint,
            )
        return said


class RefusedError(RunError):
    """The vLLM server does not take what it is asked."""


class FailedError(UnavailableError):
    """The vLLM server answers that it failed."""


def finite(value: float) -> bool:
    """Whether a log-probability is one; vLLM writes -9999 where it has none."""
    return math.isfinite(value) and value > -9000.0


def _no_address(url: object) -> ConfigError:
    return ConfigError(
        "that is no address of a vLLM server",
        found=str(url),
        expected="for example http://127.0.0.1:8001",
    )
