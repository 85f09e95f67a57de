"""One request on its way through the batch: what it feeds next, what it has read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunewise.errors import TunewiseError
from tunewise.serve.contract import Finished, Piece, Reason, Request, Usage
from tunewise.serve.engine.choose import Likeliest
from tunewise.serve.engine.guess import Guesser
from tunewise.serve.engine.readers import Reader, Told
from tunewise.serve.engine.residents import Resident
from tunewise.serve.engine.work import Runner, Work
from tunewise.serve.stream import EventStream


@dataclass(slots=True, eq=False)
class Row:
    """A request and its state; only the engine's thread touches it, but for `aborted`.

    Attributes:
        request: what is asked.
        resident: its adaptation.
        reader: reads its answer.
        stream: where pieces go.
        slot: its place in the batch; None while it waits.
        begin: places of the slot that are filled.
        ahead: positions of the adaptation's prefix that this row computes, before its own.
        prompted: whether its prompt is all computed.
        aborted: whether nobody wants it any more.
        reason: why it ended.
        error: what it failed with.
    """

    request: Request
    resident: Resident
    reader: Reader
    stream: EventStream | None = None
    slot: int | None = None
    begin: int = 0
    ahead: int = 0
    prompted: bool = False
    aborted: bool = False
    reason: Reason = "aborted"
    error: TunewiseError | None = None
    _inputs: Tensor | None = field(default=None, repr=False)
    _done: int = 0
    _guesser: Guesser | None = field(default=None, repr=False)
    _guessed: tuple[int, ...] = ()

    @property
    def begun(self) -> bool:
        """Whether any of its prompt is computed."""
        return self.prompted or self._done > 0

    def start(self, slot: int, runner: Runner) -> None:
        """Take a slot, of which the prefix is filled as far as it is known.

        Args:
            slot: where.
            runner: gives the embeddings.
        """
        resident, inside = self.resident, self.resident.inside
        self.slot = slot
        own = runner.embed(self.request.tokens, inside)
        pieces: list[Tensor] = []
        if resident.prefix is not None:
            self.begin = resident.positions
        else:
            self.begin = 0 if resident.kept is None else int(resident.kept.shape[2])
            if resident.virtual is not None:
                pieces.append(resident.virtual)
            if resident.text:
                pieces.append(runner.embed(resident.text, inside))
        self.ahead = resident.positions - self.begin
        self._inputs = torch.cat([*pieces, own])
        if self.reader.open > 1:
            self._guesser = Guesser((*resident.text, *self.request.tokens))

    def work(self, runner: Runner, most: int) -> Work:
        """The next positions to compute.

        Args:
            runner: gives the embeddings.
            most: positions at most, the nodes of a label tree besides; in an answer those behind
                the first are guessed.
        """
        if self.prompted:
            self._add_guesses(runner, most - 1)
        inputs = self._inputs
        if inputs is None or self.slot is None:
            raise RuntimeError("a row works only in a slot, with something to feed")
        left = len(inputs) - self._done
        count = min(left, most)
        in_prefix = not self.prompted and self._done < self.ahead
        if self.reader.pooled and in_prefix:
            # Hidden states are summed over the row's own tokens only.
            count = min(count, self.ahead - self._done)
        embeddings = inputs[self._done : self._done + count]
        positions = torch.arange(self.begin, self.begin + count)
        last = count == left
        # The last position of the prompt, and then every one, predicts a token.
        first = 0 if self.prompted else count - 1
        wanted = tuple(range(first, count)) if last and not self.reader.pooled else ()
        allowed = None
        tree = self.reader.tree
        if last and tree is not None and tree.inner:
            nodes = len(tree.inner)
            allowed = torch.zeros(count + nodes, self.begin + count + nodes, dtype=torch.bool)
            own = self.begin + count
            allowed[:count, :own] = torch.ones(count, own, dtype=torch.bool).tril(self.begin)
            allowed[count:, :own] = True
            allowed[count:, own:] = tree.ancestors()
            embedded = runner.embed(tree.tokens().tolist(), self.resident.inside)
            embeddings = torch.cat([embeddings, embedded])
            positions = torch.cat([positions, own - 1 + tree.depths()])
            wanted = tuple(range(count - 1, count + nodes))
        return Work(
            self.slot,
            self.begin,
            embeddings,
            positions,
            wanted,
            self.resident.inside,
            allowed,
            self.reader.pooled and not in_prefix,
        )

    def take(
        self, work: Work, outcome: Tensor, best: list[Likeliest], runner: Runner
    ) -> Told | None:
        """Read what a pass gave.

        Args:
            work: what was computed.
            outcome: see `Reader.take`.
            best: the likeliest tokens.
            runner: gives the embedding of the next token.

        Returns:
            What the reader says; None while the prompt is not all computed.
        """
        self.begin += work.count
        self._done += work.count
        self.prompted = self._inputs is None or self._done >= len(self._inputs)
        if not (work.pooled or work.wanted):
            return None
        told = self._read(outcome, best)
        if not self.prompted:
            return None
        self._inputs, self._done = None, 0
        if told.feed is not None:
            self._inputs = runner.embed([told.feed], self.resident.inside)
        return told

    def _add_guesses(self, runner: Runner, most: int) -> None:
        if self._guesser is None or self._inputs is None or most <= 0:
            return
        # The last token of an answer is not run: nothing is asked of what comes behind it.
        self._guessed = self._guesser.guess(min(most, self.reader.open - 1))
        if self._guessed:
            guessed = runner.embed(self._guessed, self.resident.inside)
            self._inputs = torch.cat([self._inputs, guessed])

    def _read(self, outcome: Tensor, best: list[Likeliest]) -> Told:
        """Read one place after the other, as long as what was guessed is what is chosen."""
        guessed, self._guessed = self._guessed, ()
        if self._guesser is None:
            return self.reader.take(outcome, best)
        pieces: list[Piece] = []
        right = 0
        while True:
            told = self.reader.take(outcome[right : right + 1], best[right : right + 1])
            pieces += told.pieces
            if told.feed is not None:
                self._guesser.push(told.feed)
            if right == len(guessed) or told.feed != guessed[right]:
                break
            right += 1
        # The places behind are as good as empty.
        self.begin -= len(guessed) - right
        self._guesser.checked(right, len(guessed))
        return Told(tuple(pieces), told.feed, told.reason)

    def usage(self) -> Usage:
        """What it took so far."""
        prompt = self.resident.positions + len(self.request.tokens)
        return Usage(prompt, self.resident.positions - self.ahead, self.reader.generated)

    def tell_end(self) -> None:
        """Tell the end to whoever waits for it."""
        if self.error is not None:
            finished = Finished("failed", "", self.usage(), error=self.error)
        else:
            finished = self.reader.finished(self.reason, self.usage())
        if self.stream is not None:
            self.stream.put(finished)
