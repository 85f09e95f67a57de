"""Asking a model straight: here is the instruction, here is what goes wrong, write a better one.

Nothing but the client is needed. Every question shows other failures.
"""

from __future__ import annotations

import numpy as np

from tunewise.propose._asking import Asker
from tunewise.propose._contract import Brief, Evaluate, Outcome
from tunewise.propose._words import each_once, instruction_in, task_in_words, told

_SHOWN = 4


class Plain:
    """One question for every proposal."""

    name = "plain"
    summary = "one question for every proposal, with some failures in it"
    package = ""

    def propose(
        self, brief: Brief, ask: Asker, evaluate: Evaluate, *, count: int, seed: int
    ) -> list[str]:
        """See `Proposer.propose`."""
        random = np.random.default_rng(seed)
        pool = brief.failures if brief.failures else brief.outcomes
        answers = []
        for _ in range(count):
            order = random.permutation(len(pool))[:_SHOWN]
            answers.append(ask(_question(brief, [pool[int(place)] for place in order])))
        return each_once([instruction_in(each) for each in answers], brief, count)


def _question(brief: Brief, shown: list[Outcome]) -> str:
    lines = [
        "A language model is given this instruction:",
        "",
        brief.instruction,
        "",
        task_in_words(brief),
        "",
        "This is how it did:",
    ]
    for outcome in shown:
        words = told(outcome)
        lines += ["", f"Input: {words['Inputs']}", f"It answered: {words['Generated Outputs']}"]
        lines.append(words["Feedback"])
    lines += [
        "",
        "Write a better instruction for the same task. Do not repeat the inputs. "
        "Answer with the instruction only.",
    ]
    return "\n".join(lines)


PROPOSER = Plain()
