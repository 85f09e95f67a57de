"""One fit by gradient: step 0, a small race of candidates, the main run, the best step kept.

    start -> judge -> for each learning rate (or start): a short trial -> judge
          -> the best trial goes on, decays to zero, is judged now and then -> best step

The best step is the one with the lowest validation loss whose metric is not below step 0's. Step 0
is a checkpoint like any other, so on validation a fit never ends below its start. All of it
is paid from the one budget. The stages are a pure function of settings, rows and budget, and the
state after each stage can be stored: an interrupted fit goes on to the same final bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.checkpoint import load_state, save_state
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Judge, Verdict, example
from tunewise.adaptation.plan import Candidate, Layout, Stage, TrainingPlan, lay_out
from tunewise.adaptation.snapshot import (
    Snapshot,
    clone_all,
    load_moments,
    moments_of,
    with_prefix,
    without_prefix,
)
from tunewise.adaptation.trainables import TrainablePart
from tunewise.model.answers import Example
from tunewise.model.frozen import FrozenLayers
from tunewise.model.loop import GradientLoop, LoopSettings
from tunewise.model.lower import LowerActivations
from tunewise.task.render import Renderer

# A trial must be lower by this share of the loss of the one before it, and the method's default
# comes first: ten steps, judged on some sixty rows, are noisy (docs/log.md).
_CLEARLY = 0.1
# How often a row's kept activations are used, at least: once pays for computing them.
_LEAST_USES = 1.5
# Of a small budget, what judging the main run may take; and rows below which it tells too little.
_JUDGING_SHARE = 0.3
_FEWEST_JUDGED = 32


@dataclass(slots=True)
class _State:
    """What outlives a stage, beside the parameters."""

    verdicts: list[dict[str, Any]]
    stages_done: int = 0
    taken: int = 0
    trial: Verdict | None = None
    best: Verdict | None = None
    best_step: int = 0


class Training:
    """Runs a plan. The trainable ends holding its best step.

    Args:
        context: the fit.
        renderer: turns rows into tokens.
        trainable: what is trained, at its start.
        plan: the layout.
        further_starts: of candidates that begin elsewhere, from 1; step 0 is the trainable's own.
        examples: what it learns from; the training rows unless given.
    """

    def __init__(
        self,
        context: FitContext,
        renderer: Renderer,
        trainable: TrainablePart,
        plan: TrainingPlan,
        *,
        further_starts: Sequence[Snapshot] = (),
        examples: Sequence[Example] | None = None,
    ) -> None:
        self.context, self.renderer, self.plan = context, renderer, plan
        self.trainable = trainable
        self.judge = self._judging(plan.validation_rows)
        self.trial_judge = Judge(context, renderer, most_rows=max(1, len(self.judge.rows) // 2))
        if examples is None:
            examples = [example(renderer, row) for row in context.view.train]
        self.examples = tuple(examples)
        self.frozen = FrozenLayers(context.base)
        self.starts = [clone_all(trainable.parameters), *further_starts]
        context.log.trainable_parameters = sum(leaf.numel() for leaf in self.starts[0].values())
        self.layout = self._lay_out(0)
        self.plan = replace(plan, batch_sizes=(self.layout.batch_size,))
        if self._keeping_pays():
            self.frozen.lower = LowerActivations(
                context.base, self.examples, trainable.frozen_layers
            )
            self.layout = self._lay_out(self.lower_cost)
        self._begin(0)
        self.state = _State(verdicts=[])
        self.best = self.starts[0]
        self.winner: tuple[Snapshot, dict[str, Tensor]] | None = None

    def _judging(self, most: int) -> Judge:
        """A judge on so many rows, or on fewer where the budget is small: it is for training."""
        context, times = self.context, 1 + self.plan.judgements
        judge, remaining = Judge(context, self.renderer, most_rows=most), context.ledger.remaining
        wanted = times * (judge.cost + self.trainable.prefix_positions)
        if remaining is None or wanted <= _JUDGING_SHARE * remaining:
            return judge
        rows = int(len(judge.rows) * _JUDGING_SHARE * remaining / wanted)
        return Judge(context, self.renderer, most_rows=min(most, max(_FEWEST_JUDGED, rows)))

    def run(self) -> tuple[Decoding, dict[str, Any]]:
        """Run all stages that are still to be run.

        Returns:
            The readout chosen with the best step, and notes for the provenance.
        """
        resumed = self._resume()
        if self.frozen.lower is not None:
            if not resumed:
                self.context.ledger.charge(forward=self.lower_cost)
            with self.frozen.used():
                self.frozen.lower.compute(self.trainable.prefix_inputs())
        if not resumed:
            self._judge(0)
        for stage in self.layout.stages[self.state.stages_done :]:
            if stage.candidate is None:
                # Only trials begin from them again, and each is as large as all that is trained.
                self.starts = []
            self._run_stage(stage)
            self.state.stages_done += 1
            self._store()
        self._load_parameters(self.best)
        best = self.state.best or self._judge(self.loop.step)
        notes = {
            **self.layout.candidates[self.state.taken].told(),
            "batch_size": self.layout.batch_size,
            "steps": self.layout.steps,
            "best_step": self.state.best_step,
            "validation": self.state.verdicts,
        }
        return best.decoding, notes

    @property
    def lower_cost(self) -> int:
        """Token passes of running the frozen lower layers once over all rows; 0 where none is."""
        lower = self.frozen.lower
        if lower is None:
            return 0
        return round(lower.positions(self.trainable.prefix_positions) * lower.share)

    def _keeping_pays(self) -> bool:
        """Whether what frozen lower layers give is kept: it must be used more than once."""
        plan, trainable = self.plan, self.trainable
        longest = max(len(each.inputs) for each in self.examples)
        if trainable.frozen_layers == 0 or trainable.prefix_positions == 0:
            return False
        if self.layout.batch_size * longest > plan.most_positions:
            # Rows in pieces run behind their prefix, not along with it.
            return False
        if self.layout.steps * self.layout.batch_size < _LEAST_USES * len(self.examples):
            return False
        return self._kept().fits(trainable.prefix_positions)

    def _kept(self) -> LowerActivations:
        return LowerActivations(self.context.base, self.examples, self.trainable.frozen_layers)

    def _lay_out(self, begun: int) -> Layout:
        """What fits into the budget, behind so many token passes."""
        plan, trainable, remaining = self.plan, self.trainable, self.context.ledger.remaining
        return lay_out(
            plan,
            lambda size: self._loop(plan.candidates[0], None, size).costs(),
            rows=len(self.examples),
            remaining=None if remaining is None else remaining - begun,
            judgement=self.judge.cost + trainable.prefix_positions,
            trial_judgement=self.trial_judge.cost + trainable.prefix_positions,
        )

    def _loop(self, candidate: Candidate, layout: Layout | None, batch_size: int) -> GradientLoop:
        """A loop at its first step; without a layout it is good for its costs only."""
        plan = self.plan
        settings = LoopSettings(
            batch_size=batch_size,
            learning_rate=candidate.learning_rate,
            own_rates=dict(candidate.own_rates),
            warmup_steps=plan.warmup_steps,
            decay_begin=0 if layout is None else layout.trial_steps,
            decay_end=None if layout is None or not plan.decay else layout.steps,
            weight_decay=plan.weight_decay,
            row_order=plan.row_order,
            most_positions=plan.most_positions,
        )
        context = self.context
        return GradientLoop(
            context.base,
            self.trainable,
            self.examples,
            settings,
            seed=context.seed,
            ledger=context.ledger,
            log=context.log,
            frozen=self.frozen,
        )

    # Stages

    def _run_stage(self, stage: Stage) -> None:
        if stage.candidate is not None:
            self._begin(stage.candidate)
            self._load_parameters(self.starts[self.layout.candidates[stage.candidate].start])
        elif self.winner is not None:
            parameters, moments = self.winner
            self.winner = None
            self._begin(self.state.taken)
            self._load_parameters(parameters)
            load_moments(self.loop, moments)
            self.loop.step = self.layout.trial_steps
        before = len(self.context.log.losses)
        first = self.loop.step
        self.loop.run(stage.until_step - first)
        if stage.candidate is not None:
            self._judge_trial()
        else:
            self._judge(self.loop.step)
            losses = self.context.log.losses[before:]
            self.context.log.curve += [
                {"step": float(first + index), "train_loss": loss}
                for index, loss in enumerate(losses)
            ]

    def _begin(self, candidate: int) -> None:
        """A loop at its first step, for one of the candidates."""
        self.candidate = candidate
        layout = self.layout
        self.loop = self._loop(layout.candidates[candidate], layout, layout.batch_size)

    def _judge_trial(self) -> None:
        # On fewer rows: rates differ by far more than steps do, and by loss long before the metric.
        verdict = self._verdict(self.trial_judge)
        self._note({"trial": self.loop.step}, verdict)
        if self.state.trial is None or _clearly_lower(verdict, self.state.trial):
            self.state.trial, self.state.taken = verdict, self.candidate
            self.winner = (clone_all(self.trainable.parameters), moments_of(self.loop))

    def _judge(self, step: int) -> Verdict:
        verdict = self._verdict(self.judge)
        if self.state.best is None or self._improves(verdict, self.state.best):
            self.state.best, self.state.best_step = verdict, step
            self.best = clone_all(self.trainable.parameters)
        self._note({"step": step}, verdict)
        self.context.log.curve.append({"step": float(step), "validation_loss": verdict.loss})
        return verdict

    def _verdict(self, judge: Judge) -> Verdict:
        with torch.no_grad():
            self.context.ledger.charge(forward=self.trainable.prefix_positions)
            return judge.verdict(self.trainable.prefix_inputs().lower(self.context.base))

    def _note(self, when: dict[str, Any], verdict: Verdict) -> None:
        point = {"loss": verdict.loss, "metric": verdict.metric}
        told = self.layout.candidates[self.candidate].told()
        self.state.verdicts.append({**when, **point, **told})

    def _improves(self, verdict: Verdict, best: Verdict) -> bool:
        # Among a handful of steps the highest metric on some hundred rows is mostly luck; the loss
        # tells them apart. The metric only guards that no step is kept that is below step 0.
        floor = self.state.verdicts[0]["metric"]
        if floor is not None and (verdict.metric is None or verdict.metric < floor):
            return False
        return math.isfinite(verdict.loss) and not verdict.loss >= best.loss

    def _load_parameters(self, snapshot: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, leaf in self.trainable.parameters.items():
                leaf.copy_(snapshot[name])
        self.trainable.publish()

    # Storing and resuming

    def _identity(self) -> str:
        """Tells a stored state of this very fit from that of another."""
        context = self.context
        leaves = self.trainable.parameters.items()
        shapes = [(name, tuple(leaf.shape)) for name, leaf in leaves]
        facts = (self.plan, self.layout, shapes, self.renderer.prompt, context.identity)
        names = (context.seed, context.data_hash, context.base.fingerprint, context.base.dtype_name)
        return hashlib.sha256(repr((facts, names)).encode()).hexdigest()

    def _store(self) -> None:
        folder = self.context.checkpoint_folder
        if folder is None:
            return
        tensors = with_prefix("now", self.trainable.parameters) | with_prefix("best", self.best)
        tensors |= with_prefix("moments", moments_of(self.loop))
        if self.winner is not None:
            tensors |= with_prefix("winner", self.winner[0])
            tensors |= with_prefix("winner_moments", self.winner[1])
        log, ledger = self.context.log, self.context.ledger
        facts = {
            "fit": self._identity(),
            "state": asdict(self.state),
            "step": self.loop.step,
            "candidate": self.candidate,
            "ledger": [ledger.forward_tokens, ledger.backward_tokens, ledger.head_passes],
            "log": log.facts(),
        }
        save_state(folder, {k: tensor.detach().cpu() for k, tensor in tensors.items()}, facts)

    def _resume(self) -> bool:
        folder = self.context.checkpoint_folder
        stored = None if folder is None else load_state(folder)
        if stored is None or stored[1].get("fit") != self._identity():
            return False
        tensors, facts = stored
        state = dict(facts["state"])
        for name in ("trial", "best"):
            state[name] = _verdict(state[name])
        self.state = _State(**state)
        self.best = without_prefix("best", tensors)
        winner = without_prefix("winner", tensors)
        self.winner = (winner, without_prefix("winner_moments", tensors)) if winner else None
        self._load_parameters(without_prefix("now", tensors))
        self._begin(facts["candidate"])
        load_moments(self.loop, without_prefix("moments", tensors))
        self.loop.step = facts["step"]
        log, ledger = self.context.log, self.context.ledger
        ledger.forward_tokens, ledger.backward_tokens, ledger.head_passes = facts["ledger"]
        log.take(facts["log"])
        return True


def _clearly_lower(one: Verdict, other: Verdict) -> bool:
    return one.loss < (1 - _CLEARLY) * other.loss or not math.isfinite(other.loss)


def _verdict(stored: dict[str, Any] | None) -> Verdict | None:
    if stored is None:
        return None
    decoding = dict(stored["decoding"])
    decoding["label_bias"] = tuple(decoding["label_bias"])
    return Verdict(stored["metric"], stored["loss"], Decoding(**decoding))
