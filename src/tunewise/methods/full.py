"""Full fine-tuning: all weights of the base, or those of its last layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tunewise.adaptation.attach import attached
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.inside import Weights, writable_weights
from tunewise.adaptation.parts import Part, WeightsPart
from tunewise.adaptation.trainables import FrozenPrefix
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientMethod, Opened
from tunewise.methods._settings.full import FullSettings
from tunewise.model.base import Base
from tunewise.model.layers import layer_of
from tunewise.task.render import Renderer

LEARNING_RATES = (5e-5, 2e-4)


class Full(GradientMethod):
    """Replaced weights."""

    name = "full"
    summary = "all weights of the base, or of its last layers"
    produces = ("weights", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = FullSettings
    learning_rates = LEARNING_RATES

    @contextmanager
    def opened(
        self,
        context: FitContext,
        settings: FullSettings,
        renderer: Renderer,
        parts: tuple[Part, ...],
    ) -> Iterator[Opened]:
        """See `GradientMethod.opened`."""
        given = next((part for part in parts if isinstance(part, WeightsPart)), None)
        others = tuple(part for part in parts if part is not given)
        # A start's own weights are attached first; the writable copies are made of them. Its LoRA
        # changes the names under which the base's parameters are found.
        with attached(context.base, parts):
            names = _trained_names(context.base, settings.last_layers)
            with writable_weights(context.base, names):
                frozen = FrozenPrefix(context.base, renderer, others)
                yield Opened(Weights(frozen, names, given), others)


def _trained_names(base: Base, last_layers: int | None) -> list[str]:
    """Names of the parameters to train.

    Raises:
        ConfigError: more layers asked for than there are, or the layers cannot be told.
    """
    names = [name for name, _ in base.model.named_parameters() if "lora_" not in name]
    if last_layers is None:
        return names
    numbered = {name: layer for name in names if (layer := layer_of(name)) is not None}
    if not numbered or last_layers > base.layers:
        raise ConfigError(
            "so many last layers cannot be trained",
            found=f"--last-layers {last_layers}",
            expected=f"at most {base.layers} in {base.name}",
        )
    return [name for name, layer in numbered.items() if layer >= base.layers - last_layers]


METHOD = Full()
