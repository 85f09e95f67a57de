"""What the settings of all trained methods share, and the way from them to a training plan."""

from __future__ import annotations

from pydantic import Field

from tunewise.adaptation.plan import BATCH_SIZES, Candidate, TrainingPlan
from tunewise.methods._contract import MethodSettings
from tunewise.model.row_order import RowOrder


class TrainingSettings(MethodSettings):
    """Settings of a training, whatever it trains."""

    batch_size: int | None = Field(
        None,
        ge=1,
        description="rows per optimizer step; unset: 16, fewer where that would leave few steps",
    )
    steps: int | None = Field(
        None, ge=1, description="exact number of optimizer steps, without a race; unset: by budget"
    )
    least_steps: int = Field(
        1, ge=1, description="fewest optimizer steps; a budget that pays for fewer is refused"
    )
    epochs: float = Field(10.0, gt=0, description="passes over the training rows at most")
    warmup_steps: int = Field(4, ge=0, description="steps of the learning rate's linear rise")
    decay: bool = Field(True, description="let the learning rate fall to zero at the end")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    judgements: int = Field(3, ge=1, description="how often the run is judged on validation rows")
    validation_rows: int = Field(
        128, ge=1, description="validation rows per judgement at most; fewer on a small budget"
    )
    row_order: RowOrder = Field(
        "shuffled", description="'shuffled' by seed, or 'file' as the rows stand"
    )
    most_positions: int = Field(
        4096, ge=1, description="rows x tokens run at once; larger steps are run in pieces"
    )

    def plan(self, candidates: tuple[Candidate, ...]) -> TrainingPlan:
        """The training plan.

        Args:
            candidates: those that race, the default first.
        """
        told = self.model_dump(include=set(TrainingSettings.model_fields))
        given = told.pop("batch_size")
        if given is None:
            # Who asks for a number of steps asks for steps of a size.
            sizes = BATCH_SIZES if self.steps is None else BATCH_SIZES[:1]
        else:
            sizes = (given,)
        return TrainingPlan(candidates, batch_sizes=sizes, **told)


class GradientSettings(TrainingSettings):
    """Settings of every method that trains one part by gradient."""

    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of AdamW; unset: a short race of several"
    )
