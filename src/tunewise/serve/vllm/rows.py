"""One request on its way through vLLM."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tunewise.errors import ConfigError, TunewiseError
from tunewise.model.decode import LabelState
from tunewise.serve.contract import Finished, Reason, Request, Usage
from tunewise.serve.engine.readers import Generation, Reader, Scoring
from tunewise.serve.stream import EventStream
from tunewise.serve.vllm.asking import Asking
from tunewise.serve.vllm.carry import Carried


@dataclass(slots=True, eq=False)
class Row:
    """A request and its state; only the engine's thread changes it.

    Attributes:
        request: what is asked.
        carried: its adaptation.
        reader: reads its answer.
        stream: where pieces go.
        asking: asks on its behalf; None while it waits.
        task: runs it; None while it waits.
        aborted: whether nobody wants it any more.
        reason: why it ended.
        error: what it failed with.
    """

    request: Request
    carried: Carried
    reader: Generation | Scoring
    stream: EventStream | None = None
    asking: Asking | None = field(default=None, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    aborted: bool = False
    reason: Reason = "aborted"
    error: TunewiseError | None = None

    def usage(self) -> Usage:
        """What it took so far; cached positions are those of its first completion."""
        cached = None if self.asking is None else self.asking.cached
        prompt = self.carried.positions + len(self.request.tokens)
        return Usage(prompt, 0 if cached is None else cached, self.reader.generated)

    def tell_end(self) -> None:
        """Tell the end to whoever waits for it."""
        if self.error is not None:
            finished = Finished("failed", "", self.usage(), error=self.error)
        else:
            finished = self.reader.finished(self.reason, self.usage())
        if self.stream is not None:
            self.stream.put(finished)


def readable(request: Request, reader: Reader) -> Generation | Scoring:
    """The reader, where vLLM tells what it reads.

    Raises:
        ConfigError: it does not.
    """
    sampling = request.sampling
    if not isinstance(reader, Generation | Scoring):
        raise _untold(
            "embeddings",
            "the readouts own, text and labels: a vLLM server either generates or embeds",
        )
    if not isinstance(reader, Generation) or reader.constraint is None:
        return reader
    if isinstance(reader.constraint, LabelState):
        return reader
    if sampling.logprobs is not None:
        raise _untold(
            "log-probabilities under a JSON schema",
            "none: vLLM tells those over all tokens, not over the ones that the schema allows",
        )
    if sampling.temperature > 0.0 and sampling.top_p < 1.0:
        raise _untold(
            "draws with top_p under a JSON schema",
            "top_p 1: vLLM would leave tokens out before the schema does",
        )
    return reader


def _untold(found: str, expected: str) -> ConfigError:
    return ConfigError(
        "the vLLM engine cannot give this answer exactly",
        found=found,
        expected=expected,
        fix="serve with the embedded engine (tunewise serve --engine embedded)",
    )
