"""Methods one after the other, each from where the one before ended: "prompt_search>lora".

A chain is a method like any other: it has the budget of one, its links share it, and what it finds
is one bundle of parts. Every link begins where the one before ends; a trained one keeps its step 0
where no later step is better on validation rows. In the end all stages are judged on the same rows
and the best is kept, so a chain never ends below one of its stages there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import load_state, save_state
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.store import fingerprint_of, load, save
from tunewise.errors import AdaptationError, BudgetTooSmallError, ConfigError
from tunewise.methods._contract import Method, MethodSettings, Needs, prompts_at_most
from tunewise.methods._settings._composed import (
    ARROW,
    EARLIER_SHARE,
    EITHER_START,
    chain_settings,
    link_settings,
)
from tunewise.methods._settings._training import TrainingSettings
from tunewise.methods._stages import Stages
from tunewise.methods._starts import EitherStart
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog

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
        # The link that has the most to find: the last that trains, else the last.
        trained = [number for number, link in enumerate(links) if link.needs.gradients]
        self.main = trained[-1] if trained else len(links) - 1
        # What trains behind a mere prompt may begin at the plain instruction as well.
        self.eithers = {
            number
            for number, link in enumerate(links)
            if number > 0
            and issubclass(link.Settings, TrainingSettings)
            and all(before.produces == ("prompt_text",) for before in links[:number])
        }
        self.Settings = chain_settings(self.name, links, either=bool(self.eithers))

    def fit(self, context: FitContext, settings: MethodSettings) -> Adaptation:
        """See `Method.fit`."""
        run = _Run(context, self.name, settings)
        found = [prompts_at_most(link_settings(link, settings)) for link in self.links]
        stages = Stages(context, sum(found))
        run.reserve = stages.reserve
        limits = self._limits(context.ledger.remaining, settings)
        either = bool(settings.model_dump().get(EITHER_START))
        for number, (link, limit) in enumerate(zip(self.links, limits, strict=True)):
            begun = EitherStart(link) if either and number in self.eithers else link
            run.fit_link(number, begun, link_settings(link, settings), limit)
        kept, told = stages.best(run.found)
        links = [
            {"method": made.method, "work": dict(made.work), "notes": dict(made.notes)}
            for made in (each.provenance for each in run.found)
        ]
        # What the kept link tells is true of the whole, for example of the prompt it chose.
        notes = dict(kept.provenance.notes) | {"links": links} | told
        return context.finish(self.name, settings, kept.parts, kept.decoding, **notes)

    def _limits(self, remaining: int | None, settings: MethodSettings) -> list[int | None]:
        """What each link may spend; the last one also what the others leave, which is None here.

        What judging the stages takes is set aside from the last one's.
        """
        count = len(self.links)
        if remaining is None:
            return [None] * count
        share = settings.model_dump()[EARLIER_SHARE]
        limits: list[int | None] = [int(share / (count - 1) * remaining)] * count
        limits[self.main] = int((1 - share) * remaining)
        return [*limits[:-1], None]


class _Run:
    """One fit of a chain: the links that are done, and the way back to them."""

    def __init__(self, context: FitContext, name: str, settings: MethodSettings) -> None:
        self.context, self.found = context, list[Adaptation]()
        start = None if context.start is None else fingerprint_of(context.start)
        facts = (name, settings.model_dump(mode="json"), context.seed, context.data_hash, start)
        names = (context.base.fingerprint, context.base.dtype_name, context.identity)
        self.identity = repr((*facts, context.ledger.limit, *names))
        self.trained: set[str] = set()
        # Token passes that the last link leaves.
        self.reserve = 0

    def fit_link(
        self, number: int, link: Method, settings: MethodSettings, limit: int | None
    ) -> None:
        """Fit the next link, or take what an interrupted fit has stored of it."""
        context, folder = self.context, self.context.checkpoint_folder
        ledger = context.ledger
        own = Ledger(
            ledger.body_parameters,
            ledger.head_parameters,
            self._rest() if limit is None else limit,
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

    def _rest(self) -> int | None:
        remaining = self.context.ledger.remaining
        return None if remaining is None else remaining - self.reserve

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
