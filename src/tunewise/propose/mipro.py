"""Proposals of MIPROv2 (Opsahl-Ong et al. 2024), through DSPy's grounded proposer.

It summarises the training rows, looks at solved examples and asks for instructions with a tip of
its own each time. MIPROv2's search over the proposals is not used: the race is here.
"""

from __future__ import annotations

import io
import random
from contextlib import redirect_stdout
from typing import Any

from tunewise.errors import TunewiseError
from tunewise.propose._asking import Asker
from tunewise.propose._contract import Brief, Evaluate
from tunewise.propose._words import each_once, instruction_in

_SUMMARISED = 10
_SHOWN = 3


class Mipro:
    """MIPROv2's proposer."""

    name = "mipro"
    summary = "MIPROv2's grounded proposer, through DSPy"
    package = "dspy"

    def propose(
        self, brief: Brief, ask: Asker, evaluate: Evaluate, *, count: int, seed: int
    ) -> list[str]:
        """See `Proposer.propose`."""
        import dspy
        from dspy.propose import GroundedProposer

        rows = [
            dspy.Example(input=each.row.input, output=each.row.output).with_inputs("input")
            for each in brief.outcomes
        ]
        program = dspy.Predict(dspy.Signature("input -> output", brief.instruction))
        model = _model(ask)
        found: list[str] = []
        # The library prints what goes wrong.
        with dspy.context(lm=model, disable_history=True), redirect_stdout(io.StringIO()):
            proposer = GroundedProposer(
                prompt_model=model,
                program=program,
                trainset=rows[:_SUMMARISED],
                view_data_batch_size=_SUMMARISED,
                program_aware=False,
                use_instruct_history=False,
                set_history_randomly=False,
                num_demos_in_context=_SHOWN,
                rng=random.Random(seed),
            )
            shown = [rows[place::count][:_SHOWN] for place in range(count)]
            for each in shown:
                try:
                    made = proposer.propose_instructions_for_program(
                        trainset=rows, program=program, demo_candidates=[[each]], trial_logs={}, N=1
                    )
                except TunewiseError:
                    raise
                except Exception:
                    continue
                found += [instruction_in(str(text)) for text in made[0]]
        return each_once(found, brief, count)


def _model(ask: Asker) -> Any:
    """The configured model as one of DSPy's."""
    import dspy

    class _Asked(dspy.BaseLM):  # type: ignore[misc]  # DSPy's classes are untyped
        def __call__(self, prompt: Any = None, *, messages: Any = None, **given: Any) -> list[str]:
            texts = [str(each["content"]) for each in messages] if messages else [str(prompt)]
            return [ask("\n\n".join(texts))]

    return _Asked(model=ask.name, cache=False)


PROPOSER = Mipro()
