"""From a stored adaptation to answers: the same door for measuring, predicting and serving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tunewise.adaptation.attach import attached, computed_positions, lower_parts
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.readout import Answer, Readout
from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import WrongBaseError
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.task.render import Renderer


class Predictor(Protocol):
    """Answers inputs."""

    def answers(self, inputs: Sequence[str], decoding: Decoding | None = None) -> list[Answer]:
        """One answer per input, in order.

        Args:
            inputs: texts.
            decoding: another readout than the adaptation's own.
        """
        ...

    def prompt_tokens(self, inputs: Sequence[str]) -> float:
        """Mean number of positions and tokens that are put around a row's own text.

        Of several prompts all are counted, and the row's text for every time it is read again.
        """
        ...


@dataclass(frozen=True, slots=True)
class BasePredictor:
    """Answers through the base model."""

    readout: Readout
    decoding: Decoding

    def answers(self, inputs: Sequence[str], decoding: Decoding | None = None) -> list[Answer]:
        """See `Predictor.answers`."""
        return self.readout.answers(inputs, self.decoding if decoding is None else decoding)

    def prompt_tokens(self, inputs: Sequence[str]) -> float:
        """See `Predictor.prompt_tokens`."""
        tokenizer = self.readout.base.tokenizer
        readouts = (self.readout, *self.readout.others)
        around = [
            sum(len(each.renderer.row_tokens(text)) for each in readouts)
            - len(tokenizer.encode(text, add_special_tokens=False))
            for text in inputs
        ]
        return sum(each.prefix.length for each in readouts) + float(np.mean(around))


@dataclass(frozen=True, slots=True)
class ShallowAnswers:
    """Answers without the base model."""

    predictor: ShallowPredictor

    def answers(self, inputs: Sequence[str], decoding: Decoding | None = None) -> list[Answer]:
        """See `Predictor.answers`; there is only one readout."""
        return [Answer(each.answer, each.probability) for each in self.predictor.predict(inputs)]

    def prompt_tokens(self, inputs: Sequence[str]) -> float:
        """None are needed."""
        return 0.0


def needs_base(adaptation: Adaptation) -> bool:
    """Whether answers need the base model at all."""
    return adaptation.part(ShallowModelPart) is None


@contextmanager
def predictor_for(
    base: Base | None, adaptation: Adaptation, ledger: Ledger | None = None
) -> Iterator[Predictor]:
    """A predictor while the context lasts; the base is as before when it ends.

    Args:
        base: the base model; may be None for an adaptation that does not need it.
        adaptation: what to attach.
        ledger: books the work where given.

    Raises:
        WrongBaseError: the adaptation was made for another base.
    """
    shallow = adaptation.part(ShallowModelPart)
    if shallow is not None:
        yield ShallowAnswers(ShallowPredictor(shallow, adaptation.spec))
        return
    made_for = adaptation.provenance
    if base is None or base.fingerprint != made_for.base_fingerprint:
        raise WrongBaseError(
            "the adaptation was made for another base model",
            found="no base model"
            if base is None
            else f"{base.name}, fingerprint {base.fingerprint[:12]}",
            expected=f"{made_for.base_name}, fingerprint {made_for.base_fingerprint[:12]}",
            fix=f"use --base {made_for.base_name}, or fit again on this base",
        )
    readouts = []
    with attached(base, adaptation.parts):
        for prompt in adaptation.prompts:
            renderer = Renderer(base.tokenizer, adaptation.spec, prompt)
            if ledger is not None:
                ledger.charge(forward=computed_positions(renderer, adaptation.parts))
            prefix = lower_parts(base, renderer, adaptation.parts)
            readouts.append(Readout(base, renderer, prefix, ledger))
        readout = replace(readouts[0], others=tuple(readouts[1:]))
        yield BasePredictor(readout, adaptation.decoding)
