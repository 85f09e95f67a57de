"""Prefix tuning: learned keys and values of the first positions in every layer, base frozen.

Li & Liang 2021. They start as the keys and values of a real prompt. By default they stand in place
of the prompt's own text, so step 0 is that prompt exactly; with a number of positions given, the
prompt's text is repeated or trimmed to that many and the text itself still follows.

Distilled, a short prefix learns what many demonstrations make the base expect (Snell et al. 2022
distil a context into the weights).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunewise.adaptation.attach import attached
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import KVPrefixPart, Part
from tunewise.adaptation.teacher import lesson, taught_examples
from tunewise.adaptation.trainables import FrozenPrefix, KVPrefix
from tunewise.errors import BudgetTooSmallError, ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientMethod, Opened, Preparation
from tunewise.methods._settings.prefix import PrefixSettings
from tunewise.model.prefix import SharedPrefix, compute_prefix, token_embeddings
from tunewise.task.render import Renderer

LEARNING_RATES = (1e-2, 3e-2)


class Prefix(GradientMethod):
    """Keys and values of the first positions."""

    name = "prefix"
    summary = "learned keys and values before the text in every layer, base frozen"
    produces = ("kv_prefix", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = PrefixSettings
    learning_rates = LEARNING_RATES

    @contextmanager
    def opened(
        self,
        context: FitContext,
        settings: PrefixSettings,
        renderer: Renderer,
        parts: tuple[Part, ...],
    ) -> Iterator[Opened]:
        """See `GradientMethod.opened`."""
        given = next((part for part in parts if isinstance(part, KVPrefixPart)), None)
        replaces = settings.positions is None and bool(renderer.shared_tokens)
        if given is not None:
            replaces = given.replaces_shared_text
        with attached(context.base, parts):
            initial, others = self._initial(context, settings, renderer, parts)
            trainable = KVPrefix(
                FrozenPrefix(context.base, renderer, others),
                initial,
                replaces_shared_text=replaces,
            )
            if settings.distill == 0:
                yield Opened(trainable, others)
            else:
                examples, notes = taught_examples(context, renderer, parts, settings.distill)
                yield Opened(trainable, others, examples=examples, notes=notes)

    def preparation(
        self, context: FitContext, settings: PrefixSettings, renderer: Renderer
    ) -> Preparation:
        """See `GradientMethod.preparation`."""
        if settings.distill == 0:
            return Preparation()
        parts = context.starting_parts()
        given = lesson(context, renderer, parts, settings.distill)
        return Preparation(given.first + given.positions, given.head, given.examples(renderer))

    def _initial(
        self,
        context: FitContext,
        settings: PrefixSettings,
        renderer: Renderer,
        parts: tuple[Part, ...],
    ) -> tuple[SharedPrefix, tuple[Part, ...]]:
        """The prefix to start from, and the parts that stay beside it."""
        base = context.base
        given = next((part for part in parts if isinstance(part, KVPrefixPart)), None)
        before = ("virtual_tokens", "kv_prefix")
        with torch.no_grad():
            if given is not None:
                others = tuple(part for part in parts if part.kind != "kv_prefix")
                return FrozenPrefix(base, renderer, (given,)).positions, others
            if settings.positions is None and renderer.shared_tokens:
                # All that stands before the rows becomes the prefix, virtual tokens included.
                frozen = FrozenPrefix(base, renderer, parts)
                _charge(context, frozen.computed_positions)
                others = tuple(part for part in parts if part.kind not in before)
                return frozen.inputs().lower(base), others
            text = renderer.shared_tokens or tuple(
                base.tokenizer.encode(
                    " ".join([*context.view.spec.labels, context.view.spec.instruction]),
                    add_special_tokens=False,
                )
            )
            if not text:
                raise ConfigError(
                    "prefix has no text to start from",
                    found="an empty instruction and no labels",
                    fix="give an instruction with --instruction",
                )
            count = len(text) if settings.positions is None else settings.positions
            tokens = tuple(itertools.islice(itertools.cycle(text), count))
            _charge(context, count)
            return compute_prefix(base, token_embeddings(base, tokens)), parts


def _charge(context: FitContext, positions: int) -> None:
    if not context.ledger.covers(positions):
        raise BudgetTooSmallError(
            "the budget does not pay for the prefix to start from",
            found=f"{context.ledger.remaining} token passes",
            expected=f"more than {positions}",
            fix="raise --budget, or shorten the instruction",
        )
    context.ledger.charge(forward=positions)


METHOD = Prefix()
