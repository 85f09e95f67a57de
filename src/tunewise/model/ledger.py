"""Counted work: the budget of a fit is positions through the base, not seconds.

One *token pass* is one position through all layers of the base, once. A forward position is one
pass; a backward position is one pass when only the gradient of activations is needed (the base is
frozen: prompts, prefixes, low-rank parts) and two when weight gradients are needed as well, since
each costs one more product of the same size (Kaplan et al. 2020, section 2.1: forward 2N FLOPs per
token, backward 4N). Padding is counted where it is computed. The same run therefore costs the same
on a slow day.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tunewise.errors import BudgetExceededError

UNIT = "token_passes"


@dataclass(frozen=True, slots=True)
class Work:
    """Work done so far: positions forward, passes backward, floating-point operations."""

    forward_tokens: int
    backward_tokens: int
    flops: int

    @property
    def token_passes(self) -> int:
        """The unit of the budget."""
        return self.forward_tokens + self.backward_tokens

    def as_dict(self) -> dict[str, int]:
        """For provenance and records."""
        return {
            "forward_tokens": self.forward_tokens,
            "backward_tokens": self.backward_tokens,
            "flops": self.flops,
        }


@dataclass(slots=True)
class Ledger:
    """Keeps the count and refuses work that the budget does not cover.

    Args:
        body_parameters: parameters that one position meets in the layers.
        head_parameters: parameters of the output head, met only by answer positions.
        limit: token passes allowed; None means no limit.
    """

    body_parameters: int
    head_parameters: int
    limit: int | None = None
    forward_tokens: int = 0
    backward_tokens: int = 0
    head_passes: int = field(default=0)

    @property
    def spent(self) -> int:
        """Token passes so far."""
        return self.forward_tokens + self.backward_tokens

    @property
    def remaining(self) -> int | None:
        """Token passes left, or None without a limit."""
        return None if self.limit is None else self.limit - self.spent

    def covers(self, token_passes: int) -> bool:
        """Whether this much more work fits."""
        return self.limit is None or self.spent + token_passes <= self.limit

    def charge(self, *, forward: int, backward: int = 0, head: int = 0) -> None:
        """Book work before it is done.

        Args:
            forward: positions through the layers, padding included.
            backward: backward passes (see the module's text for what counts twice).
            head: positions through the output head, forward and backward passes added.

        Raises:
            BudgetExceededError: the limit does not cover it; nothing is booked.
        """
        if not self.covers(forward + backward):
            raise BudgetExceededError(
                "the budget does not cover the next piece of work",
                found=f"{self.spent} of {self.limit} token passes spent, "
                f"{forward + backward} more asked for",
                fix="raise --budget, or lower --steps, --batch-size or the number of rows",
            )
        self.forward_tokens += forward
        self.backward_tokens += backward
        self.head_passes += head

    def work(self) -> Work:
        """A frozen copy of the count."""
        flops = 2 * (self.body_parameters * self.spent + self.head_parameters * self.head_passes)
        return Work(self.forward_tokens, self.backward_tokens, flops)
