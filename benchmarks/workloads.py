"""The rows both sides work on, as tokens: loaded, cleaned, split and rendered by the project.

The real sets lie beside the repository; where they do not, every workload takes the demo's rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewise.adaptation.judge import example
from tunewise.adaptation.readout import label_sequences
from tunewise.model.answers import Example
from tunewise.task.options import TaskOptions
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.task import load_task
from tunewise.task.types import FitView, Kind, Row

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
DEMO = REPOSITORY / "demo" / "data" / "sentiment.jsonl"
BATCH = 16


@dataclass(frozen=True, slots=True)
class Source:
    """Where a workload's rows come from and which of them are taken.

    Attributes:
        folder: the set's folder.
        instruction: what to do, in words; None for the project's own.
        most_tokens: longer training rows are left out, so that the peer's padded rows fit into
            memory.
    """

    folder: str
    instruction: str | None = None
    most_tokens: int | None = None


SOURCES = {
    "reviews3": Source(
        "reviews3",
        "Read the sentence from a review and classify it. Answer with one of: negative, positive.",
    ),
    "banking77": Source("banking77"),
    "mts_section": Source("mts_section", most_tokens=384),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of one set, and the renderer that turns them into tokens.

    Attributes:
        name: of the workload.
        data: the set really used; the demo's where the real one is missing.
        view: training and validation rows.
        renderer: for the prompt asked for.
        examples: training rows as tokens, in the order of the file.
    """

    name: str
    data: str
    view: FitView = field(repr=False)
    renderer: Renderer = field(repr=False)
    examples: tuple[Example, ...] = field(repr=False)

    def scored_rows(self, count: int) -> tuple[Row, ...]:
        """The validation rows to be scored, at most so many; training rows make up the number."""
        return (*self.view.validation, *self.view.train)[:count]

    def labels(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of every label, as the project scores them."""
        return label_sequences(self.renderer)


def load_workload(name: str, tokenizer: Any, *, rows: int, demonstrations: int = 0) -> Workload:
    """Load a workload.

    Args:
        name: of `SOURCES`.
        tokenizer: of the base model.
        rows: training rows as tokens, at most.
        demonstrations: solved training rows shown in the prompt.
    """
    source = SOURCES[name]
    folder = DATA / source.folder
    real = folder.is_dir()
    columns = {"input": "input", "output": "output"} if real else {"input": "text"}
    if not real:
        columns["output"] = "label"
    options = TaskOptions(kind=Kind.CLASSIFICATION, instruction=source.instruction, **columns)
    view = load_task(str(folder if real else DEMO), options).fit_view
    shown = _demonstrations(view, demonstrations)
    prompt = PromptText(view.spec.instruction, shown)
    renderer = Renderer(tokenizer, view.spec, prompt)
    used = {(each.input, each.output) for each in shown}
    examples: list[Example] = []
    for row in view.train:
        if len(examples) == rows:
            break
        made = example(renderer, row)
        short = source.most_tokens is None or len(made.inputs) <= source.most_tokens
        if short and (row.input, row.output) not in used:
            examples.append(made)
    return Workload(name, source.folder if real else "demo", view, renderer, tuple(examples))


def _demonstrations(view: FitView, count: int) -> tuple[Demonstration, ...]:
    """Solved rows of middling length, the labels taking turns."""
    chosen: list[Demonstration] = []
    labels = view.spec.labels
    for row in view.train:
        wanted = labels[len(chosen) % len(labels)]
        if len(chosen) < count and row.output == wanted and 14 <= len(row.input.split()) <= 32:
            chosen.append(Demonstration(row.input, row.output))
    return tuple(chosen)


def spread_out(count: int, chosen: int) -> list[int]:
    """`chosen` of `count` indices, evenly spread."""
    taken = min(count, chosen)
    return [index * count // taken for index in range(taken)]
