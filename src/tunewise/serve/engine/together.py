"""A request that several prompts answer: a row behind each, their label scores averaged at the end.

Any engine runs the rows like all others, in whatever passes; only the end of the last one is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

from tunewise.adaptation.readout import joined_scores
from tunewise.errors import ConfigError, RunError
from tunewise.serve.contract import Finished, Piece, Request, Usage
from tunewise.serve.engine.batch import failure
from tunewise.serve.engine.readers import Reader, Scoring
from tunewise.serve.engine.residents import Resident
from tunewise.serve.stream import EventStream


def behind_each(request: Request) -> list[Request]:
    """The labels of the same row, asked for behind each prompt of an ensemble.

    Args:
        request: of an adaptation with several prompts.

    Raises:
        ConfigError: the readout is none that several prompts have in common, or the row was not
            rendered for all of them.
    """
    ready = request.ready
    count = 1 + len(ready.others)
    if request.readout not in ("own", "labels"):
        raise ConfigError(
            "this adaptation answers through several prompts, whose label scores are averaged",
            found=f"the readout {request.readout!r} behind {count} prompts",
            expected="the readouts own and labels",
            fix="ask for labels, or serve an adaptation with one prompt",
        )
    rows = (request.tokens, *request.others)
    if len(rows) != count:
        raise ConfigError(
            "the row is not rendered for all prompts of the adaptation",
            found=f"{len(rows)} of {count}",
            expected="a request that `row_request` makes",
        )
    return [
        Request(each, tokens, request.text, request.sampling, "labels")
        for each, tokens in zip((ready, *ready.others), rows, strict=True)
    ]


class Joint:
    """The one answer of several rows.

    Args:
        request: what was asked.
        resident: its adaptation, whose readout all share.
        ended: called once when no row runs any more, before the end is told.

    Attributes:
        stream: of the request.
    """

    def __init__(self, request: Request, resident: Resident, ended: Callable[[], None]) -> None:
        self._reader = Scoring(resident, request.readout == "own")
        self._ended = ended
        self._lock = Lock()
        self._ends: list[Finished] = []
        self._readers: list[Scoring] = []
        # Emptied in the end: what refers to itself would keep an adaptation for long.
        self._streams: list[EventStream] = []
        self.stream = EventStream(partial(_abort, self._streams))

    def watch(self, rows: Sequence[tuple[Reader, EventStream]]) -> None:
        """Wait for these rows, before any of them runs.

        Args:
            rows: the reader and the stream of each.
        """
        self._readers = [reader for reader, _ in rows if isinstance(reader, Scoring)]
        self._streams += [stream for _, stream in rows]
        for _, stream in rows:
            stream.subscribe(self._take)

    def _take(self, event: Piece | Finished) -> None:
        if not isinstance(event, Finished):
            return
        with self._lock:
            self._ends.append(event)
            others = list(self._streams)
            last = len(self._ends) == len(others)
        if not last:
            if event.reason != "stop":
                # Without this one the others are of no use.
                _abort(others)
            return
        self._streams.clear()
        self._ended()
        try:
            finished = self._finished()
        except Exception as error:  # whatever it is, whoever waits must be told
            finished = Finished("failed", "", self._usage(), error=failure(error))
        self.stream.put(finished)

    def _finished(self) -> Finished:
        usage = self._usage()
        error = next((each.error for each in self._ends if each.error is not None), None)
        if error is not None:
            return Finished("failed", "", usage, error=error)
        if any(each.reason != "stop" for each in self._ends):
            return Finished("aborted", "", usage)
        scores = [reader.scores for reader in self._readers if reader.scores is not None]
        if len(scores) != len(self._ends):
            raise RunError("a prompt of the adaptation gave no label scores")
        told = self._reader.scored(joined_scores(scores))
        for piece in told.pieces:
            self.stream.put(piece)
        return self._reader.finished("stop", usage)

    def _usage(self) -> Usage:
        used = [each.usage for each in self._ends]
        return Usage(
            sum(each.prompt_tokens for each in used),
            sum(each.cached_tokens for each in used),
            sum(each.completion_tokens for each in used),
        )


def _abort(streams: Sequence[EventStream]) -> None:
    for stream in list(streams):
        stream.abort()
