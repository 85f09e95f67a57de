"""Every change that one adaptation can be put to, as prompts and inputs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import text_replaced
from tunewise.adaptation.predict import needs_base
from tunewise.measure.questions._formats import RowFormat, draw_formats
from tunewise.measure.questions._noise import NOISE, Change
from tunewise.task.edits import edits, names_labels
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import Row, TaskSpec
from tunewise.task.wording import compositions

FORMAT, WORDING, ORDER = "format", "instruction", "demonstration order"
# Edits of an instruction that say the same in another order or form.
_SAME_MEANING = ("swap", "merge", "labels first", "labels last", "list by", "separator")


@dataclass(frozen=True, slots=True)
class Variant:
    """One change.

    Attributes:
        family: what is changed: a format, the instruction, the order of demonstrations, or one of
            the changes of the input.
        name: which one, for a reader.
        prompt: the text prompt; None leaves the adaptation's own.
        inputs: of the rows.
        others: the further prompts, where the adaptation answers through several.
    """

    family: str
    name: str
    prompt: PromptText | None
    inputs: tuple[str, ...]
    others: tuple[PromptText, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """How many formats, wordings and orders are tried."""

    formats: int
    wordings: int
    orders: int


def variants(
    adaptation: Adaptation, rows: Sequence[Row], train: Sequence[Row], counts: Counts, seed: int
) -> tuple[list[Variant], dict[str, str]]:
    """All changes, and the families that this adaptation cannot be put to, with the reasons.

    Args:
        adaptation: as fitted.
        rows: to be answered.
        train: training rows, of which the wordings tell what they have in common.
        counts: how many of each.
        seed: of everything drawn.
    """
    inputs = tuple(row.input for row in rows)
    prompt = adaptation.prompts[0]
    found = [Variant(each.family, each.name, None, each.inputs) for each in _noise(inputs, seed)]
    left_out: dict[str, str] = {}
    if not needs_base(adaptation):
        reason = "it reads no prompt"
        return found, {FORMAT: reason, WORDING: reason, ORDER: reason}
    replaced = text_replaced(adaptation.parts)
    found += _formats(adaptation.prompts, inputs, counts.formats, seed, shared=not replaced)
    if replaced or len(adaptation.prompts) > 1:
        reason = "what was trained stands in place of the prompt's text"
        if not replaced:
            reason = "several prompts, worded and ordered otherwise, answer together already"
        return found, {WORDING: reason, ORDER: reason}
    worded = list(_wordings(prompt, inputs, adaptation.spec, train, counts.wordings, seed))
    ordered = list(_orders(prompt, inputs, counts.orders, seed))
    if not worded:
        left_out[WORDING] = "the prompt has no instruction that could be worded otherwise"
    if not ordered:
        left_out[ORDER] = "the prompt shows fewer than two demonstrations that are always the same"
    return [*found, *worded, *ordered], left_out


def changed_texts(change: Change, inputs: Sequence[str], seed: int) -> tuple[str, ...]:
    """The inputs under one change; what a text gets depends on itself and the seed only."""
    return tuple(
        change(text, np.random.default_rng([seed, zlib.crc32(text.encode())])) for text in inputs
    )


def _noise(inputs: tuple[str, ...], seed: int) -> Iterator[Variant]:
    for name, change in NOISE.items():
        changed = changed_texts(change, inputs, seed)
        if changed != inputs:
            yield Variant(name, name, None, changed)


def _formats(
    prompts: Sequence[PromptText],
    inputs: tuple[str, ...],
    count: int,
    seed: int,
    *,
    shared: bool,
) -> Iterator[Variant]:
    """Formats of the rows; demonstrations that are read are written in the same one."""
    for drawn in draw_formats(count, seed=seed):
        changed = [_in_format(prompt, drawn, shared=shared) for prompt in prompts]
        written = tuple(drawn.write(text) for text in inputs)
        if all(each is None for each in changed):
            yield Variant(FORMAT, drawn.shown, None, written)
            continue
        first, *others = (
            prompt if other is None else other
            for prompt, other in zip(prompts, changed, strict=True)
        )
        yield Variant(FORMAT, drawn.shown, first, written, tuple(others))


def _in_format(prompt: PromptText, drawn: RowFormat, *, shared: bool) -> PromptText | None:
    """A prompt whose demonstrations are written in a format; None where it has none to read."""
    other: PromptText | None = None
    if prompt.demonstrations and shared:
        other = replace(prompt, demonstrations=_written(prompt.demonstrations, drawn))
    if prompt.nearest:
        other = replace(prompt if other is None else other, pool=_written(prompt.pool, drawn))
    return other


def _written(shown: Sequence[Demonstration], how: RowFormat) -> tuple[Demonstration, ...]:
    return tuple(Demonstration(how.write(each.input), each.output) for each in shown)


def _wordings(
    prompt: PromptText,
    inputs: tuple[str, ...],
    spec: TaskSpec,
    train: Sequence[Row],
    count: int,
    seed: int,
) -> Iterator[Variant]:
    """The same instruction in other words: other openings, forms and orders, no other facts."""
    own = prompt.instruction
    if not own.strip():
        return
    named = names_labels(own, spec.labels)
    other = [
        each.text
        for each in compositions(spec, train, own, words=0, seed=seed)
        if names_labels(each.text, spec.labels) == named
    ]
    small = [text for name, text in edits(own, spec.labels) if name.startswith(_SAME_MEANING)]
    taken = dict.fromkeys(text for pair in _in_turns(other, small) for text in pair)
    for text in [each for each in taken if each != own][:count]:
        yield Variant(WORDING, text, replace(prompt, instruction=text), inputs)


def _in_turns(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for index in range(max(len(one), len(other))):
        yield (*one[index : index + 1], *other[index : index + 1])


def _orders(
    prompt: PromptText, inputs: tuple[str, ...], count: int, seed: int
) -> Iterator[Variant]:
    shown = prompt.demonstrations
    random = np.random.default_rng([seed, 8])
    seen = {shown}
    for _ in range(20 * count):
        if len(seen) > count:
            return
        order = random.permutation(len(shown))
        mixed = tuple(shown[index] for index in order.tolist())
        if mixed not in seen:
            seen.add(mixed)
            name = f"order {' '.join(str(index + 1) for index in order.tolist())}"
            yield Variant(ORDER, name, replace(prompt, demonstrations=mixed), inputs)
