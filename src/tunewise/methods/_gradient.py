"""The settings that all trained methods share, and the way from them to a training plan."""

from __future__ import annotations

from pydantic import Field

from tunewise.adaptation.context import FitContext
from tunewise.adaptation.plan import TrainingPlan
from tunewise.methods._contract import MethodSettings
from tunewise.model.loop import RowOrder
from tunewise.task.render import Renderer


class GradientSettings(MethodSettings):
    """Settings of every method that trains by gradient."""

    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of AdamW; unset: a short race of several"
    )
    batch_size: int = Field(16, ge=1, description="rows per optimizer step")
    steps: int | None = Field(
        None, ge=1, description="exact number of optimizer steps, without a race; unset: by budget"
    )
    epochs: float = Field(10.0, gt=0, description="passes over the training rows at most")
    warmup_steps: int = Field(4, ge=0, description="steps of the learning rate's linear rise")
    decay: bool = Field(True, description="let the learning rate fall to zero at the end")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    judgements: int = Field(3, ge=1, description="how often the run is judged on validation rows")
    validation_rows: int = Field(128, ge=1, description="validation rows per judgement at most")
    row_order: RowOrder = Field(
        "shuffled", description="'shuffled' by seed, or 'file' as the rows stand"
    )
    most_positions: int = Field(
        4096, ge=1, description="rows x tokens run at once; larger steps are run in pieces"
    )

    def plan(self, candidates: tuple[float, ...]) -> TrainingPlan:
        """The training plan.

        Args:
            candidates: learning rates to race, the default first.
        """
        rates = candidates if self.learning_rate is None else (self.learning_rate,)
        shared = set(GradientSettings.model_fields) - {"learning_rate"}
        return TrainingPlan(learning_rates=rates, **self.model_dump(include=shared))


def starting_renderer(context: FitContext) -> Renderer:
    """The renderer for the prompt that a fit starts from."""
    return Renderer(context.base.tokenizer, context.view.spec, context.starting_prompt())
