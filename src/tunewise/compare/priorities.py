"""What matters to a person, in a few numbers, and what each entry would cost them.

Nothing here is a weight or a grade. A priority is either a limit, which an entry keeps or not, or a
count (requests, domains, changes) from which a month on the machine that was measured is computed.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewise.compare.contract import Entry, Role
from tunewise.compare.entries import cost_order
from tunewise.compare.wording import points, seconds_text, size_text
from tunewise.errors import ConfigError

TABLE = "priorities"
GIVE_UP_POINTS = 1.0
# A fit serves for a year where nothing is said to change.
LEAST_CHANGES_A_MONTH = 1 / 12
# One refit, its check and its roll-out on each working day.
REFITS_A_PERSON_A_MONTH = 20
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
SHALLOW_ROLES = (Role.CONSTANT, Role.SHALLOW)
# Months that cost the same within a quarter are equal: milliseconds are not measured better.
_SAME_COST = math.log(1.25)


class Priorities(BaseModel):
    """What matters. Every one may be left out, and then decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    minimum_quality: float | None = Field(
        None, ge=0, le=100, description="score that must be reached, in points of 100"
    )
    requests_a_month: int | None = Field(
        None, ge=0, description="requests a month; what they cost then decides among ties"
    )
    price_an_hour: float | None = Field(
        None, ge=0, description="price of an hour of the machine that fits and serves"
    )
    most_milliseconds: float | None = Field(
        None, gt=0, description="milliseconds that a request may take on this machine"
    )
    most_gigabytes: float | None = Field(
        None, gt=0, description="GB that the base and the adaptations of all domains may take"
    )
    domains: int = Field(1, ge=1, description="domains or clients, each with its own adaptation")
    changes_a_month: float = Field(
        0.0, ge=0, description="how often facts or labels change; each domain is then fitted again"
    )
    maintainers: int | None = Field(
        None, ge=0, description="people who can fit again and check when something changes"
    )
    data_may_leave: bool = Field(
        False, description="whether rows may be sent to a machine that is not yours"
    )
    give_up_points: float = Field(
        GIVE_UP_POINTS,
        ge=0,
        le=100,
        description="points of 100 given up for what is cheaper to run",
    )

    @property
    def count_costs(self) -> bool:
        """Whether a month's work is known, so that it, not the kind of part, says what is cheap."""
        return self.requests_a_month is not None or self.changes_a_month > 0

    def given(self) -> dict[str, Any]:
        """What was said, by name."""
        return self.model_dump(exclude_unset=True)


@dataclass(frozen=True, slots=True)
class Month:
    """A month on the machine that was measured, all domains together.

    Attributes:
        serve_seconds: for the requests.
        fit_seconds: for fitting again.
        price: of both, or None where no price is given.
    """

    serve_seconds: float
    fit_seconds: float
    price: float | None

    @property
    def seconds(self) -> float:
        """Of the machine."""
        return self.serve_seconds + self.fit_seconds

    @property
    def text(self) -> str:
        """In words: "3 h 20 min of this machine a month (6.70)"."""
        told = f"{seconds_text(self.seconds)} of this machine a month"
        return told if self.price is None else f"{told} (price {self.price:,.2f})"


def month_of(entry: Entry, priorities: Priorities) -> Month:
    """What a month with an entry takes: requests x milliseconds + domains x changes x fit."""
    requests = 0 if priorities.requests_a_month is None else priorities.requests_a_month
    serve = requests * entry.milliseconds_per_row / 1000
    fit = refits_a_month(priorities) * entry.fit.seconds
    price = priorities.price_an_hour
    return Month(serve, fit, None if price is None else price * (serve + fit) / 3600)


def refits_a_month(priorities: Priorities) -> float:
    """Fits a month, over all domains; once a year each at the least."""
    return priorities.domains * max(priorities.changes_a_month, LEAST_CHANGES_A_MONTH)


def bytes_of(entry: Entry, priorities: Priorities, base_bytes: int) -> int:
    """The base, where the entry calls it, and an adaptation for every domain."""
    base = 0 if entry.role in SHALLOW_ROLES else base_bytes
    return base + priorities.domains * entry.bytes_on_disk


def running_order(entry: Entry, priorities: Priorities) -> tuple[Any, ...]:
    """Sort key from cheapest to dearest: a month's work where it is known, then the ladder."""
    if not priorities.count_costs:
        return (0, *cost_order(entry))
    seconds = month_of(entry, priorities).seconds
    return (round(math.log(max(seconds, 1e-3)) / _SAME_COST), *cost_order(entry))


def unmet(
    entry: Entry, priorities: Priorities, base_bytes: int, alone: float | None = None
) -> tuple[str, ...]:
    """Why an entry does not meet the priorities, in clauses; empty where it does.

    Args:
        entry: which.
        priorities: what matters.
        base_bytes: of the base in memory.
        alone: milliseconds of a request that is alone, where that was measured; else those of a
            row among many stand for it.
    """
    faults = []
    wanted = priorities.minimum_quality
    if wanted is not None and 100 * entry.test.value < wanted:
        faults.append(f"scores {points(entry.test.value)}, below the {wanted:g} wanted")
    most = priorities.most_milliseconds
    taken = entry.milliseconds_per_row if alone is None else alone
    if most is not None and taken > most:
        faults.append(f"takes {taken:.1f} ms a request, above {most:g}")
    room = priorities.most_gigabytes
    held = bytes_of(entry, priorities, base_bytes)
    if room is not None and held > room * 1e9:
        faults.append(f"takes {size_text(held)} for {_domains(priorities)}, above {room:g} GB")
    if priorities.maintainers is not None and entry.role is Role.TRAINED:
        able = priorities.maintainers * REFITS_A_PERSON_A_MONTH
        needed = priorities.domains * priorities.changes_a_month
        if needed > able:
            faults.append(
                f"must be fitted again {needed:,.0f} times a month, and {priorities.maintainers} "
                f"people can do {able}"
            )
    if not priorities.data_may_leave and _sent_rows(entry):
        faults.append("sent rows to another machine to be found")
    return tuple(faults)


def _sent_rows(entry: Entry) -> bool:
    """Whether the fit told rows to another machine: its notes say so, or its proposer's address."""
    proposer = entry.settings.get("proposer")
    host = urlsplit(proposer).hostname if isinstance(proposer, str) else None
    return entry.notes.get("data_left") is True or (host is not None and host not in _THIS_MACHINE)


def _domains(priorities: Priorities) -> str:
    return f"{priorities.domains:,} domain{'' if priorities.domains == 1 else 's'}"


def priorities_from(task_file: str | Path | None, flags: dict[str, Any]) -> Priorities:
    """Priorities of a task file's table and the flags over it.

    Args:
        task_file: a TOML file that may hold a table `[priorities]`, or None.
        flags: values by name; None was not given.

    Raises:
        ConfigError: a name or value is wrong; all faults are told at once.
    """
    table: Any = {}
    if task_file is not None:
        try:
            table = tomllib.loads(Path(task_file).read_text("utf-8-sig")).get(TABLE, {})
        except (OSError, ValueError):
            table = {}  # whoever reads the task itself tells what is wrong with the file
    given = {name: value for name, value in flags.items() if value is not None}
    if not isinstance(table, dict):
        raise _refused([f"{TABLE}: found {table!r}, expected a table [{TABLE}]"])
    try:
        return Priorities.model_validate({**table, **given})
    except ValidationError as error:
        raise _refused([_fault(each) for each in error.errors()]) from error


def _fault(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{name}: found {fault['input']!r}; {fault['msg']}"
    close = difflib.get_close_matches(name, Priorities.model_fields, n=2, cutoff=0.4)
    return f"{name}: there is no such priority" + (
        f"; did you mean {' or '.join(close)}?" if close else ""
    )


def _refused(faults: list[str]) -> ConfigError:
    return ConfigError(
        "the priorities cannot be used",
        found="\n    ".join(faults),
        expected=f"priorities among {', '.join(Priorities.model_fields)}",
        fix="correct the ones named above",
    )
