"""Finds the proposers: every module of this folder with a `PROPOSER`."""

from __future__ import annotations

import importlib.util

from tunewise.discovery import Shelf
from tunewise.errors import UnavailableError
from tunewise.propose._contract import Proposer

PROPOSERS = Shelf[Proposer](
    Proposer,
    "proposer",
    "PROPOSER",
    "tunewise.propose",
    holds="name, summary, package and propose",
)


def find_proposer(name: str) -> Proposer:
    """The proposer of this name, its package at hand.

    Raises:
        UnknownNameError: there is none; close matches are shown.
        UnavailableError: the package that it needs is not installed.
    """
    found = PROPOSERS.find(name)
    if found.package and importlib.util.find_spec(found.package) is None:
        raise UnavailableError(
            f"proposing through {name} needs a package that is not installed",
            found=f"no package {found.package}",
            expected=found.package,
            fix="pip install 'tunewise[propose]', or --propose-through plain",
        )
    return found
