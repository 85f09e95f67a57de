"""What a server asks of an engine, and what comes back.

    ready = engine.ready(tenant, content_hash, load)      # in memory from here on
    stream = engine.submit(row_request(ready, text))
    for piece in stream: ...                              # text as it becomes certain
    finished = stream.result()

An engine takes tokens, never messages: rows are rendered by the same renderer as in fitting and
measuring (`serve/requests.py`), so a served adaptation reads the bytes that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.errors import TunewiseError
from tunewise.model.base import Base
from tunewise.task.render import Renderer
from tunewise.task.types import TaskSpec

ReadoutName = Literal["own", "text", "labels", "embedding"]
Reason = Literal["stop", "length", "aborted", "failed"]
MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The one base model behind an engine.

    Attributes:
        name: short name or path, as asked.
        fingerprint: SHA-256 over weights, tokenizer and chat template.
        dtype: what it computes in, for example "bfloat16"; "int8" weights are told here too.
        context_length: the most positions of a request, in tokens, prefix and answer included.
        vocabulary: V, columns of the output head.
        width: D, the width of an embedding.
        weight_bytes: memory of the weights.
        tokenizer: its tokenizer.
    """

    name: str
    fingerprint: str
    dtype: str
    context_length: int
    vocabulary: int
    width: int
    weight_bytes: int
    tokenizer: Any = field(repr=False)

    @classmethod
    def of(cls, base: Base, context_length: int, dtype: str | None = None) -> BaseFacts:
        """Those of a loaded base.

        Args:
            base: the base.
            context_length: the most positions of a request, in tokens.
            dtype: what it computes in; its own where None.
        """
        return cls(
            base.name,
            base.fingerprint,
            base.dtype_name if dtype is None else dtype,
            context_length,
            base.vocabulary,
            base.width,
            sum(parameter.nbytes for parameter in base.model.parameters()),
            base.tokenizer,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """An adaptation in the engine's memory, or the base alone.

    Whoever holds it can submit with it, whatever is dropped or evicted meanwhile: a request ends on
    the bytes that it began with. Hold it for one request, not longer.

    Attributes:
        tenant: whose it is; nothing computed for one tenant is ever used for another.
        content_hash: of the adaptation; "" for the base alone.
        kinds: the kinds of its parts.
        bytes: memory it takes beside the base: its tensors and the keys and values of its prefix.
        prefix_positions: positions that stand before every row; of an ensemble before the row
            behind its first prompt.
        spec: its task; None for the base alone.
        decoding: its readout; None for the base alone.
        renderer: turns an input into tokens; None for the base alone.
        held: the engine's own.
        others: the same behind each further prompt of an ensemble; all answer together.
    """

    tenant: str
    content_hash: str
    kinds: tuple[str, ...]
    bytes: int
    prefix_positions: int
    spec: TaskSpec | None
    decoding: Decoding | None
    renderer: Renderer | None = field(repr=False)
    held: Any = field(repr=False, default=None)
    others: tuple[Ready, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: length limit of the answer; None for the adaptation's own, or for the base
            what the context leaves. What the context does not leave is never generated.
        temperature: 0 is greedy.
        top_p: least probability mass that is drawn from, in (0, 1].
        seed: of the draws; None draws one.
        stop: the answer ends before the first of these texts.
        logprobs: so many likeliest tokens at every place of the answer; None for no
            log-probabilities at all, 0 for those of the taken tokens only.
        json_schema: the answer is JSON under it; {} admits any JSON value, None any text.
        ignore_end: whether generating goes on behind the token that ends an answer, so that the
            length is known beforehand, as benchmarks want it.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: Mapping[str, Any] | None = None
    ignore_end: bool = False


GREEDY = Sampling()
"""The likeliest token at every place, up to the adaptation's own limit."""


@dataclass(frozen=True, slots=True)
class Request:
    """One row to be answered.

    Attributes:
        ready: the adaptation.
        tokens: the row's own tokens, up to where the answer begins; what stands before every row is
            not among them.
        text: the row's input, which only adaptations that need no base read.
        sampling: how tokens are chosen.
        readout: "own" is the adaptation's: what `tunewise predict` answers (labels by score or
            trie, JSON, or text); its `sampling` counts only where the answer is generated. "text"
            generates freely. "labels" gives the calibrated probability of every label.
            "embedding" gives the mean of the last hidden states over the row.
        others: the row's tokens behind each of `ready.others`.
    """

    ready: Ready
    tokens: tuple[int, ...]
    text: str = ""
    sampling: Sampling = GREEDY
    readout: ReadoutName = "own"
    others: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """One token of an answer.

    Attributes:
        token: its id.
        text: its own text, which may be half a character.
        log_probability: natural logarithm; over the allowed tokens where a grammar holds.
        top: the likeliest tokens here: (id, text, log-probability).
    """

    token: int
    text: str
    log_probability: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of an answer.

    Attributes:
        text: new text; all pieces joined are the whole answer.
        choices: the tokens since the last piece, where log-probabilities are asked.
    """

    text: str
    choices: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took, in tokens.

    Attributes:
        prompt_tokens: all positions before the answer, the adaptation's prefix included.
        cached_tokens: those of them that were computed before.
        completion_tokens: generated, the end token included.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request.

    Attributes:
        reason: "stop" by itself, "length" by a limit, "aborted", or "failed" with `error`.
        text: the whole answer, as `tunewise predict` would print it for the readout "own".
        usage: what it took.
        probability: of the answer, where the readout has one.
        labels: (label, probability) in the order of the task, for "labels" and scored answers.
        embedding: (D,) for "embedding".
        error: why it failed.
    """

    reason: Reason
    text: str
    usage: Usage
    probability: float | None = None
    labels: tuple[tuple[str, float], ...] = ()
    embedding: tuple[float, ...] = ()
    error: TunewiseError | None = None


class Stream(Protocol):
    """One running request; safe to use from any thread."""

    def __iter__(self) -> Iterator[Piece]:
        """Pieces as they come; ends with the request, raises nothing."""
        ...

    def subscribe(self, listener: Callable[[Piece | Finished], None]) -> None:
        """Call back for every piece and for the end, from the first on; once per stream.

        Args:
            listener: called on the engine's thread: it must return at once and raise nothing
                (`loop.call_soon_threadsafe(queue.put_nowait, event)`).
        """
        ...

    def result(self, timeout_seconds: float | None = None) -> Finished:
        """Wait for the end.

        Raises:
            TimeoutError: it did not come in time.
        """
        ...

    def abort(self) -> None:
        """Stop it soon and free its place; nothing where it has ended."""
        ...


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and the state now.

    Attributes:
        running: requests with a place in the batch now.
        waiting: requests that wait for one.
        slots: places in the batch.
        resident: adaptations in memory.
        resident_bytes: memory they take.
        budget_bytes: memory they may take.
        hits: times an adaptation asked for was in memory.
        misses: times it was not.
        evictions: adaptations that left memory to make room.
        steps: passes through the base.
        prompt_tokens: positions of prompts computed.
        completion_tokens: tokens generated.
    """

    running: int
    waiting: int
    slots: int
    resident: int
    resident_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evictions: int
    steps: int
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """One base model that answers rows behind any mix of adaptations; safe from any thread."""

    @property
    def base(self) -> BaseFacts:
        """The base."""
        ...

    def base_alone(self, tenant: str) -> Ready:
        """The base with nothing before the rows."""
        ...

    def ready(self, tenant: str, content_hash: str, load: Callable[[], Adaptation]) -> Ready:
        """An adaptation in memory: at once where it is there, else loaded on this thread.

        Args:
            tenant: whose it is.
            content_hash: names the bytes for good.
            load: reads it from where it is kept; called only where it is not in memory.

        Raises:
            AdaptationError: it does not fit the base, or this engine cannot carry it (says why).
            Whatever `load` raises.
        """
        ...

    def drop(self, tenant: str, content_hash: str) -> bool:
        """Forget an adaptation; running requests end on it.

        Returns:
            Whether it was there.
        """
        ...

    def submit(self, request: Request) -> Stream:
        """Put a request into the queue.

        Raises:
            RequestTooLongError: it does not fit the context.
            ConfigError: a sampling setting is out of range, or the readout does not fit.
            BusyError: the queue is full.
            RunError: the engine is closed.
        """
        ...

    def stats(self) -> EngineStats:
        """What it did and holds."""
        ...

    def check(self) -> None:
        """Ask whether requests can be answered; UnavailableError says why they cannot."""
        ...

    def close(self) -> None:
        """End all requests as aborted and stop; twice is fine."""
        ...
