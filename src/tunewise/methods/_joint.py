"""Two methods that train, in one loop: "soft_prompt+lora".

One of them trains what stands before the rows, the other what lives in the model. It is a method
like any other: one budget, one training, one bundle of parts. Settings of the training stand once;
those of either method, its learning rate among them, behind its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tunewise.adaptation.context import FitContext
from tunewise.adaptation.inside import LowRank, Weights
from tunewise.adaptation.parts import Part
from tunewise.adaptation.plan import Candidate
from tunewise.adaptation.snapshot import clone_all, with_prefix
from tunewise.adaptation.together import BEFORE, INSIDE, Together
from tunewise.adaptation.trainables import KVPrefix, VirtualTokens
from tunewise.errors import ConfigError
from tunewise.methods._contract import Method, Needs
from tunewise.methods._gradient import GradientMethod, Opened, Preparation
from tunewise.methods._settings._composed import PLUS, joint_settings, member_settings
from tunewise.task.render import Renderer

_BEFORE_ROWS = {"virtual_tokens", "kv_prefix"}
_IN_MODEL = {"low_rank", "weights"}


class Joint(GradientMethod):
    """Two trained methods as one.

    Args:
        members: two; the one that trains what stands before the rows comes first in the name,
            whatever the order given.

    Raises:
        ConfigError: they cannot be trained together.
    """

    def __init__(self, members: Sequence[Method]) -> None:
        self.before = _one_of(members, _BEFORE_ROWS)
        self.inside = _one_of(members, _IN_MODEL)
        names = [self.before.name, self.inside.name]
        self.name = PLUS.join(names)
        self.summary = f"{names[0]} and {names[1]} trained together, in the budget of one"
        both = (self.before, self.inside)
        self.produces = tuple(dict.fromkeys(kind for each in both for kind in each.produces))
        self.needs = Needs(
            gradients=True,
            minimum_rows=max(each.needs.minimum_rows for each in both),
            kinds=self.before.needs.kinds & self.inside.needs.kinds,
        )
        self.Settings = joint_settings(self.name, both)

    def candidates(self, settings: Any) -> tuple[Candidate, ...]:
        """See `GradientMethod.candidates`: the defaults of both, then one thing changed at a time.

        All pairs would grow as the product, and the default mostly stays anyway (docs/log.md).
        """
        befores = self.before.candidates(member_settings(self.before, settings))
        insides = self.inside.candidates(member_settings(self.inside, settings))
        pairs = [
            *((before, insides[0]) for before in befores),
            *((befores[0], inside) for inside in insides[1:]),
        ]
        return tuple(
            Candidate(
                before.learning_rate,
                (*before.own_rates, (INSIDE, inside.learning_rate)),
                before.start,
            )
            for before, inside in pairs
        )

    def preparation(self, context: FitContext, settings: Any, renderer: Renderer) -> Preparation:
        """See `GradientMethod.preparation`: only what stands before the rows is ever taught."""
        given = member_settings(self.before, settings)
        return self.before.preparation(context, given, renderer)

    @contextmanager
    def opened(
        self, context: FitContext, settings: Any, renderer: Renderer, parts: tuple[Part, ...]
    ) -> Iterator[Opened]:
        """See `GradientMethod.opened`."""
        given = member_settings(self.inside, settings)
        with self.inside.opened(context, given, renderer, parts) as inside:
            # What lives in the model is attached by now.
            ahead = tuple(part for part in parts if part.kind not in _IN_MODEL)
            given = member_settings(self.before, settings)
            with self.before.opened(context, given, renderer, ahead) as before:
                outer, inner = before.trainable, inside.trainable
                if not isinstance(outer, VirtualTokens | KVPrefix) or not isinstance(
                    inner, LowRank | Weights
                ):
                    raise _apart([self.before, self.inside])
                begun = with_prefix(INSIDE.rstrip("/"), clone_all(inner.parameters))
                starts = tuple(
                    with_prefix(BEFORE.rstrip("/"), start) | begun
                    for start in before.further_starts
                )
                kept = (*before.kept, *(each for each in inside.kept if each.kind in _IN_MODEL))
                both = Together(outer, inner)
                yield Opened(both, kept, starts, before.examples, before.notes)


def _one_of(members: Sequence[Method], kinds: set[str]) -> GradientMethod:
    """The member that trains one of these kinds of part.

    Raises:
        ConfigError: there is not exactly one.
    """
    found = [each for each in members if kinds & set(each.produces)]
    if len(members) != 2 or len(found) != 1 or not isinstance(found[0], GradientMethod):
        raise _apart(members)
    return found[0]


def _apart(members: Sequence[Method]) -> ConfigError:
    return ConfigError(
        "these methods cannot be trained together",
        found=PLUS.join(each.name for each in members),
        expected="one that trains virtual tokens or a prefix, and one that trains a low-rank "
        "change or weights, such as soft_prompt+lora",
        fix="put > between them, and they run one after the other",
    )
