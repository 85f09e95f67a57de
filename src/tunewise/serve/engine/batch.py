"""The rows that run together, and one pass of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunewise.errors import RunError, TunewiseError
from tunewise.serve.engine.choose import Likeliest, likeliest
from tunewise.serve.engine.residents import Resident
from tunewise.serve.engine.rows import Row
from tunewise.serve.engine.slots import KeyValueSlots
from tunewise.serve.engine.work import Runner, Work


class Batch:
    """Running rows and their slots; only the engine's thread touches it.

    Args:
        runner: runs the base.
        slots: keys and values.
        prompt_positions: positions of prompts in one pass at most.
        guessed_within: positions of answers in one pass, up to which next tokens are guessed.
        keep: gets a prefix that was computed, or None.

    Attributes:
        rows: those that run, by slot.
        steps: passes so far.
        prompt_tokens: positions of prompts computed so far.
        completion_tokens: tokens generated so far.
    """

    def __init__(
        self,
        runner: Runner,
        slots: KeyValueSlots,
        prompt_positions: int,
        guessed_within: int = 0,
        keep: Callable[[Resident, Tensor], None] | None = None,
    ) -> None:
        self._runner, self._slots, self._guessed_within = runner, slots, guessed_within
        self._prompt_positions, self._keep = prompt_positions, keep
        self.rows: dict[int, Row] = {}
        self.steps = self.prompt_tokens = self.completion_tokens = 0
        # The prefix that stands at the front of every slot, whoever left it there.
        self._fronts: list[Tensor | None] = [None] * slots.count
        # Places of every slot that anybody wrote to since they were cleared.
        self._filled = [0] * slots.count

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self._slots.count - len(self.rows)

    def enter(self, row: Row) -> None:
        """Give a row a slot, with what is known of its prefix."""
        known = _known(row)
        free = [slot for slot in range(self._slots.count) if slot not in self.rows]
        # The lowest, for attention runs over all slots below the highest; but one where the prefix
        # stands already saves copying it.
        highest = max(self.rows, default=0)
        ready = [s for s in free if known is not None and self._fronts[s] is known and s <= highest]
        slot = ready[0] if ready else free[0]
        self.rows[slot] = row
        self._start(row, slot)

    def leave(self, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Take rows out."""
        out = [row for row in self.rows.values() if unwanted(row)]
        for row in out:
            row.reason = "aborted"
            self._free(row)
        return out

    def step(self) -> list[Row]:
        """One pass; a row that fails takes no other with it.

        Returns:
            The rows that have ended.
        """
        ended: list[Row] = []
        chosen = self._chosen(ended)
        if not chosen:
            return ended
        works = [work for _, work in chosen]
        for work in works:
            self._filled[work.slot] = max(self._filled[work.slot], work.end)
        try:
            outcomes = self._runner.run(works)
            logits = [o for o, work in zip(outcomes, works, strict=True) if work.wanted]
            best = iter(likeliest(torch.cat(logits)) if logits else [])
        except Exception as error:  # whatever the base raises ends these rows only
            return ended + self._lost([row for row, _ in chosen], error)
        self.steps += 1
        for (row, work), outcome in zip(chosen, outcomes, strict=True):
            own = [next(best) for _ in work.wanted]
            if self._advance(row, work, outcome, own):
                self._free(row)
                ended.append(row)
        return ended

    def _advance(self, row: Row, work: Work, outcome: Tensor, best: list[Likeliest]) -> bool:
        """Take one row on; True where it has ended."""
        try:
            if not row.prompted:
                self.prompt_tokens += work.count
            before = row.reader.generated
            told = row.take(work, outcome, best, self._runner)
            self.completion_tokens += row.reader.generated - before
            self._keep_prefix(row)
        except Exception as error:  # a grammar or an adaptation may fail: this row's own affair
            row.error = failure(error)
            return True
        if told is None:
            return False
        if row.stream is not None:
            for piece in told.pieces:
                row.stream.put(piece)
        row.reason = told.reason
        return told.feed is None

    def _chosen(self, ended: list[Row]) -> list[tuple[Row, Work]]:
        """What the next pass computes: a token of every answer, and prompts as far as they may.

        Args:
            ended: gets the rows that fail before it.
        """
        found: list[tuple[Row, Work]] = []
        left = self._prompt_positions
        # Whatever else runs reads the weights too, so that a guess costs as much as another row.
        each = max(1, self._guessed_within // max(1, len(self.rows)))
        for row in list(self.rows.values()):
            try:
                if row.prompted:
                    found.append((row, row.work(self._runner, each)))
                elif left > 0 and self._may_begin(row):
                    work = row.work(self._runner, left)
                    left -= work.count
                    found.append((row, work))
            except Exception as error:  # one row's own affair
                ended += self._lost([row], error)
        return found

    def _may_begin(self, row: Row) -> bool:
        """Whether a row goes on with its prompt; one whose prefix another row computes waits."""
        resident = row.resident
        if row.ahead == 0 or row.begun or resident.computing is row:
            return True
        if resident.prefix is not None and row.slot is not None:
            self._start(row, row.slot)
        elif resident.computing is None:
            resident.computing = row
        return resident.computing in (None, row)

    def _start(self, row: Row, slot: int) -> None:
        known = _known(row)
        if known is not None and self._fronts[slot] is not known:
            self._slots.put(slot, known)
        self._fronts[slot] = known
        # Rows that run together attend over as many places as the longest has, the others' masked.
        front = 0 if known is None else int(known.shape[2])
        self._slots.clear(slot, front, self._filled[slot])
        self._filled[slot] = front
        row.start(slot, self._runner)

    def _keep_prefix(self, row: Row) -> None:
        """Keep the keys and values of a prefix that this row has computed."""
        resident = row.resident
        if resident.computing is row and row.slot is not None and row.begin >= resident.positions:
            resident.prefix = self._slots.take(row.slot, 0, resident.positions)
            self._fronts[row.slot] = resident.prefix
            resident.computing = None
            if self._keep is not None:
                self._keep(resident, resident.prefix)

    def _lost(self, rows: Sequence[Row], error: Exception) -> list[Row]:
        for row in rows:
            row.error = failure(error)
            self._free(row)
        return list(rows)

    def _free(self, row: Row) -> None:
        if row.resident.computing is row:
            row.resident.computing = None
        if row.slot is not None:
            self.rows.pop(row.slot, None)


def _known(row: Row) -> Tensor | None:
    """What of a row's prefix need not be computed."""
    return row.resident.kept if row.resident.prefix is None else row.resident.prefix


def failure(error: Exception) -> TunewiseError:
    """Any error as one of the tree."""
    if isinstance(error, TunewiseError):
        return error
    return RunError(
        "the request could not be answered", found=f"{type(error).__name__}: {error}"[:500]
    )
