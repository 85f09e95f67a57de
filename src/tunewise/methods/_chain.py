"""Methods one after the other, each from where the one before ended: "prompt_search>lora".

A chain is a method like any other: it has the budget of one, its links share it, and what it finds
is one bundle of parts. Every link begins where the one before ends; a trained one keeps its step 0
where no later step is better on validation rows.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import load_state, save_state
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.store import fingerprint_of, load, save
from tunewise.errors import AdaptationError, BudgetTooSmallError, ConfigError
from tunewise.methods._contract import Method, MethodSettings, Needs
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog

ARROW = ">"
# The last link has the most to find. A choice, not a measured optimum: `earlier_share` changes it.
_SHARE = 1 / 3
EARLIER_SHARE = "earlier_share"
_ADAPTATION = ".adaptation"


class Chain:
    """Several methods as one.

    Args:
        links: at least two, in their order.

    Raises:
        ConfigError: a link stands where it cannot.
    """

    def __init__(self, links: Sequence[Method]) -> None:
        self.links = tuple(links)
        names = [link.name for link in links]
        for link in links[1:]:
            if not link.needs.base:
                raise ConfigError(
                    f"{link.name} starts from nothing, so it can only stand alone",
                    found=ARROW.join(names),
                    fix="name it beside the chain, with a comma",
                )
        if not links[0].needs.base:
            raise ConfigError(
                f"nothing can start from {links[0].name}, which never calls the base",
                found=ARROW.join(names),
                fix=f"begin with {names[1]}",
            )
        self.name = ARROW.join(names)
        self.summary = ", then ".join(names) + ", in the budget of one"
        self.produces = tuple(dict.fromkeys(kind for link in links for kind in link.produces))
        kinds = frozenset.intersection(*(link.needs.kinds for link in links))
        self.needs = Needs(
            gradients=any(link.needs.gradients for link in links),
            minimum_rows=max(link.needs.minimum_rows for link in links),
            kinds=kinds,
            seeds=any(link.needs.seeds for link in links),
        )
        self.Settings = _settings_of(self.name, links)

    def fit(self, context: FitContext, settings: MethodSettings) -> Adaptation:
        """See `Method.fit`."""
        run = _Run(context, self.name, settings)
        limits = self._limits(context.ledger.remaining, settings)
        for number, (link, limit) in enumerate(zip(self.links, limits, strict=True)):
            run.fit_link(number, link, _link_settings(link, settings), limit)
        last = run.found[-1]
        links = [
            {"method": made.method, "work": dict(made.work), "notes": dict(made.notes)}
            for made in (each.provenance for each in run.found)
        ]
        # What the last link tells is true of the whole, for example of the prompt it chose.
        notes = dict(last.provenance.notes) | {"links": links}
        return context.finish(self.name, settings, last.parts, last.decoding, **notes)

    def _limits(self, remaining: int | None, settings: MethodSettings) -> list[int | None]:
        """What each link may spend; the last one also what the others leave, which is None here."""
        earlier = len(self.links) - 1
        if remaining is None:
            return [None] * (earlier + 1)
        share = settings.model_dump()[EARLIER_SHARE] / earlier
        return [int(share * remaining)] * earlier + [None]


class _Run:
    """One fit of a chain: the links that are done, and the way back to them."""

    def __init__(self, context: FitContext, name: str, settings: MethodSettings) -> None:
        self.context, self.found = context, list[Adaptation]()
        start = None if context.start is None else fingerprint_of(context.start)
        facts = (name, settings.model_dump(mode="json"), context.seed, context.data_hash, start)
        names = (context.base.fingerprint, context.base.dtype_name, context.identity)
        self.identity = repr((*facts, context.ledger.limit, *names))
        self.trained: set[str] = set()

    def fit_link(
        self, number: int, link: Method, settings: MethodSettings, limit: int | None
    ) -> None:
        """Fit the next link, or take what an interrupted fit has stored of it."""
        context, folder = self.context, self.context.checkpoint_folder
        ledger = context.ledger
        own = Ledger(
            ledger.body_parameters,
            ledger.head_parameters,
            ledger.remaining if limit is None else limit,
        )
        log = FitLog(report=context.log.report)
        done = None if folder is None else folder / f"{number}-{link.name}-done"
        found = None if done is None else self._stored(done, own, log)
        if found is None:
            began = time.perf_counter()
            inner = replace(
                context,
                ledger=own,
                log=log,
                start=self.found[-1] if self.found else context.start,
                checkpoint_folder=None if folder is None else folder / f"{number}-{link.name}",
                identity=repr((self.identity, number)),
            )
            try:
                found = link.fit(inner, settings)
            except BudgetTooSmallError as error:
                raise _too_dear(link, error) from error
            if done is not None:
                self._store(done, found, own, log, time.perf_counter() - began)
        self.found.append(found)
        ledger.charge(
            forward=own.forward_tokens, backward=own.backward_tokens, head=own.head_passes
        )
        context.log.append(log)
        context.log.seconds_before += log.seconds_before
        if link.name not in self.trained:
            context.log.trainable_parameters += log.trainable_parameters
        self.trained.add(link.name)

    def _store(
        self, done: Path, found: Adaptation, ledger: Ledger, log: FitLog, seconds: float
    ) -> None:
        """The adaptation first: facts without it would be taken for a link that is done."""
        shutil.rmtree(done.with_suffix(_ADAPTATION), ignore_errors=True)
        save(found, done.with_suffix(_ADAPTATION))
        facts = {
            "fit": self.identity,
            "ledger": [ledger.forward_tokens, ledger.backward_tokens, ledger.head_passes],
            "log": log.facts(),
            "seconds": seconds,
        }
        save_state(done, {}, facts)

    def _stored(self, done: Path, ledger: Ledger, log: FitLog) -> Adaptation | None:
        stored = load_state(done)
        if stored is None or stored[1].get("fit") != self.identity:
            return None
        facts, base = stored[1], self.context.base
        try:
            found = load(done.with_suffix(_ADAPTATION), base_fingerprint=base.fingerprint)
        except AdaptationError:
            # A checkpoint that was half removed: the link is fitted again.
            return None
        ledger.forward_tokens, ledger.backward_tokens, ledger.head_passes = facts["ledger"]
        log.take(facts["log"])
        log.seconds_before = facts["seconds"]
        return found


def _too_dear(link: Method, error: BudgetTooSmallError) -> BudgetTooSmallError:
    return BudgetTooSmallError(
        f"{error.what}, in the share of {link.name} in a chain",
        found=error.found,
        expected=error.expected,
        fix=f"raise --budget, or change --earlier-share or the settings of {link.name}",
    )


def _field(link: Method, name: str) -> str:
    return f"{link.name}_{name}"


def _link_settings(link: Method, settings: MethodSettings) -> MethodSettings:
    known = link.Settings.model_fields
    return link.Settings(**{name: getattr(settings, _field(link, name)) for name in known})


def _settings_of(name: str, links: Sequence[Method]) -> type[MethodSettings]:
    """The settings of all links, each behind its method's name; a method twice has them once."""
    fields: dict[str, Any] = {
        EARLIER_SHARE: (
            float,
            Field(_SHARE, gt=0, lt=1, description="share of the budget for all links but the last"),
        )
    }
    for link in links:
        for known, field in link.Settings.model_fields.items():
            fields[_field(link, known)] = (field.annotation, copy(field))
    return create_model(f"{name} settings", __base__=MethodSettings, **fields)
