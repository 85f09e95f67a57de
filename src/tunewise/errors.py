"""Every error Tunewise raises on purpose, as one tree.

    TunewiseError                       exit code 3
    ├── InputError                      exit code 2: what the user gave cannot be used
    │   ├── DataError                   a data file, its columns or its rows
    │   ├── ConfigError                 a flag, a setting or a task file
    │   │   └── UnknownNameError        no such method, model, metric, ...: close matches are shown
    │   ├── BudgetTooSmallError         the budget does not pay for one step
    │   ├── OutputFolderError           --out holds something else
    │   ├── AccessError                 who asks is not known
    │   │   └── ForbiddenError          who asks is known, and may not do this
    │   ├── RequestTooLongError         a served request does not fit the model's context
    │   ├── AdaptationError             a stored adaptation cannot be used
    │   │   ├── CorruptAdaptationError  a byte differs from what was stored, or a file is missing
    │   │   └── WrongBaseError          it was made for another base model
    │   └── RegistryError               the registry cannot do what is asked of it
    │       ├── NotRegisteredError      it holds no such name, version or alias
    │       └── GateRefusedError        what would be promoted is not shown to be as good
    └── RunError                        exit code 3: the run could not finish
        ├── BudgetExceededError         work was asked for that the ledger does not cover
        ├── StorageError                the disk is full or refuses to be written
        ├── QuotaError                  a limit of who asks is used up, or all places are taken
        ├── UnavailableError            something that must be fetched cannot be reached
        └── BusyError                   a server has more requests than it takes at once

A message has four parts, each a short sentence: what is wrong, what was found (the user's own
values), what was expected, and how to fix it. `str(error)` joins those that are given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunewiseError(Exception):
    """Base of the tree.

    Args:
        what: what is wrong, in one sentence.
        found: the user's own values that show it.
        expected: what would have been right.
        fix: what to do now.
    """

    exit_code = 3

    def __init__(self, what: str, *, found: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.found, self.expected, self.fix = what, found, expected, fix
        lines = [what]
        lines += [f"  {name}: {text}" for name, text in self._parts() if text]
        super().__init__("\n".join(lines))

    def _parts(self) -> tuple[tuple[str, str], ...]:
        return (("found", self.found), ("expected", self.expected), ("fix", self.fix))

    def as_dict(self) -> dict[str, str]:
        """The error for machines: its class name and the four parts."""
        return {"error": type(self).__name__, "what": self.what, **dict(self._parts())}


class InputError(TunewiseError):
    """What the user gave cannot be used."""

    exit_code = 2


class DataError(InputError):
    """A data file, its columns or its rows cannot be used."""


class ConfigError(InputError):
    """A flag, a setting or a task file cannot be used."""


class UnknownNameError(ConfigError):
    """A name that is not among the known ones.

    Args:
        kind: what kind of name it is, for example "method".
        name: what the user wrote.
        known: the names there are.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
        super().__init__(
            f"unknown {kind} {name!r}",
            found=name,
            expected=f"one of {', '.join(names)}" if names else f"no {kind} is known here",
            fix=" ".join(part for part in (hint, fix) if part),
        )


class BudgetTooSmallError(InputError):
    """The budget does not pay for one step."""


class OutputFolderError(InputError):
    """The output folder holds something else."""


class AccessError(InputError):
    """Who asks is not known."""


class ForbiddenError(AccessError):
    """Who asks is known, and may not do this."""


class RequestTooLongError(InputError):
    """A served request does not fit the model's context."""


class AdaptationError(InputError):
    """A stored adaptation cannot be used."""


class CorruptAdaptationError(AdaptationError):
    """A byte differs from what was stored, or a file is missing."""


class WrongBaseError(AdaptationError):
    """The adaptation was made for another base model."""


class RegistryError(InputError):
    """The registry cannot do what is asked of it."""


class NotRegisteredError(RegistryError):
    """The registry holds no such name, version or alias."""


class GateRefusedError(RegistryError):
    """What would be promoted is not shown to be as good as what is there."""


class RunError(TunewiseError):
    """The run could not finish."""


class GrammarError(RunError):
    """A JSON schema led an answer to where it cannot go on."""


class BudgetExceededError(RunError):
    """Work was asked for that the ledger does not cover."""


class StorageError(RunError):
    """The disk is full or refuses to be written."""


class QuotaError(RunError):
    """A limit of who asks is used up, or all places are taken.

    Args:
        what: what is wrong, in one sentence.
        found: the user's own values that show it.
        expected: what would have been right.
        fix: what to do now.
        retry_after_seconds: when it is worth trying again; None where waiting does not help.
    """

    def __init__(
        self,
        what: str,
        *,
        found: str = "",
        expected: str = "",
        fix: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(what, found=found, expected=expected, fix=fix)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(RunError):
    """Something that must be fetched cannot be reached."""


class BusyError(RunError):
    """A server has more requests than it takes at once."""
