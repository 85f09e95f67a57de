"""Learning-rate factors over the steps of a fit."""

from __future__ import annotations


def warm_constant(step: int, warmup_steps: int) -> float:
    """Rises linearly to 1 over the warm-up steps, then stays.

    Args:
        step: 0 for the first step.
        warmup_steps: steps of the rise; 0 for none.
    """
    return min(1.0, (step + 1) / (warmup_steps + 1))


def linear_decay(step: int, begin: int, end: int) -> float:
    """1 until `begin`, then linearly down to one last small step before `end`.

    Args:
        step: 0 for the first step.
        begin: first step of the decay.
        end: number of steps in all.
    """
    if step < begin:
        return 1.0
    return max(0.0, (end - step) / (end - begin + 1))
