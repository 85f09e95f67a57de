"""What all ways of proposing say of a task, and how an instruction is read out of an answer."""

from __future__ import annotations

import re

from tunewise.propose._contract import Brief, Outcome

_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_LEADS = re.compile(
    r"^(?:here is|here's|sure[,!.]?)?[^\n:]{0,60}\b(?:instruction|prompt)\b[^\n:]{0,30}:\s*",
    re.IGNORECASE,
)
_LONGEST_CHARACTERS = 2000
_SHOWN_CHARACTERS = 400


def told(outcome: Outcome) -> dict[str, str]:
    """One training row, what the base made of it, and what was right; long texts are cut.

    Args:
        outcome: of the row.
    """
    answer = "nothing" if outcome.answer is None else outcome.answer
    verdict = (
        "This is right." if outcome.score >= 1.0 else f"The right answer: {outcome.row.output}"
    )
    return {
        "Inputs": outcome.row.input[:_SHOWN_CHARACTERS],
        "Generated Outputs": answer[:_SHOWN_CHARACTERS],
        "Feedback": verdict[:_SHOWN_CHARACTERS],
    }


def task_in_words(brief: Brief) -> str:
    """The task without any row.

    Args:
        brief: of the task.
    """
    spec = brief.spec
    kind = str(spec.kind).replace("_", " ")
    lines = [f"The task is {kind}; answers are judged by {spec.metric.replace('_', ' ')}."]
    if spec.labels:
        lines.append(f"The labels are: {', '.join(spec.labels)}.")
    return " ".join(lines)


def instruction_in(answer: str) -> str:
    """The instruction in a model's answer; empty where there is none.

    The content of the last fenced block, else the whole answer, without a leading "Here is the
    instruction:" and without quotes around it. One of unusual length is none: it is a story.

    Args:
        answer: of the model.
    """
    fenced = _FENCED.findall(answer)
    text = (fenced[-1] if fenced else answer).strip()
    text = _LEADS.sub("", text, count=1).strip()
    text = text.strip("`").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text if len(text) <= _LONGEST_CHARACTERS else ""


def each_once(texts: list[str], brief: Brief, count: int) -> list[str]:
    """The first so many that are not empty and not the instruction there is.

    Args:
        texts: instructions as found.
        brief: knows the instruction.
        count: at most.
    """
    known = {"", brief.instruction.strip()}
    return [text for text in dict.fromkeys(texts) if text not in known][:count]
