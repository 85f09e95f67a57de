"""Full fine-tuning: all weights of the base, or those of its last layers."""

from __future__ import annotations

from pydantic import Field

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import WeightsPart
from tunewise.adaptation.trainables import FrozenPrefix, Weights, writable_weights
from tunewise.adaptation.training import Training
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientSettings, starting_renderer
from tunewise.model.base import Base
from tunewise.model.layers import layer_of

LEARNING_RATES = (5e-5, 2e-4)


class FullSettings(GradientSettings):
    """Settings of `full`."""

    last_layers: int | None = Field(
        None, ge=1, description="train only so many last layers; unset: all weights"
    )


class Full:
    """Replaced weights."""

    name = "full"
    summary = "all weights of the base, or of its last layers"
    produces = ("weights", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = FullSettings

    def fit(self, context: FitContext, settings: FullSettings) -> Adaptation:
        """See `Method.fit`."""
        renderer = starting_renderer(context)
        parts = context.starting_parts()
        others = tuple(part for part in parts if not isinstance(part, WeightsPart))
        # A start's own weights are attached first; the writable copies are made of them. Its LoRA
        # changes the names under which the base's parameters are found.
        with attached(context.base, parts):
            names = _trained_names(context.base, settings.last_layers)
            with writable_weights(context.base, names):
                trainable = Weights(FrozenPrefix(context.base, renderer, others), names)
                training = Training(context, renderer, trainable, settings.plan(LEARNING_RATES))
                decoding, notes = training.run()
                part = _with_start(trainable.part(), parts)
        return context.finish(self.name, settings, (*others, part), decoding, **notes)


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


def _with_start(part: WeightsPart, parts: tuple[object, ...]) -> WeightsPart:
    """Weights that the start had replaced and this fit did not train stay replaced."""
    given = next((each for each in parts if isinstance(each, WeightsPart)), None)
    if given is None:
        return part
    return WeightsPart({**given.tensors, **part.tensors})


METHOD = Full()
