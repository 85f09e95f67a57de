"""A prompt as a DSPy program that sends the very messages that were measured.

    program.py      an adapter and a module; needs DSPy and nothing of Tunewise
    program.json    DSPy's own state: instruction and demonstrations
    export.json     the readout, the base

DSPy's own adapters write field markers and instructions of theirs around every text, so the same
instruction and demonstrations would be another prompt. The adapter of `program.py` writes plain
messages. The program is run here with a model that only records, and refused where a byte differs.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import RECORD, probes_for, record_of, text_only
from tunewise.adaptation.export.messages import check_messages
from tunewise.adaptation.files import Files, json_bytes
from tunewise.errors import AdaptationError, UnavailableError
from tunewise.task.prompt import USER_SLOT
from tunewise.task.render import Renderer

PROGRAM, STATE = "program.py", "program.json"
_TEMPLATE = Path(__file__).with_name("_dspy_program.py.txt")


class DspyFormat:
    """A DSPy program."""

    name = "dspy"
    summary = "the prompt as a DSPy program whose adapter sends the same bytes"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        if importlib.util.find_spec("dspy") is None:
            raise UnavailableError(
                "DSPy is not installed",
                found="no package dspy",
                expected="it, to make the program and to try it",
                fix="pip install 'tunewise[dspy]'",
            )
        renderer = text_only(source, self.name)
        check_messages(source, renderer, self.name)
        record = record_of(source, renderer, self.name)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write(folder, renderer)
            _check(folder, source, renderer)
            made = {file: (folder / file).read_bytes() for file in (PROGRAM, STATE)}
        return {**made, RECORD: json_bytes(record, "export")}


def _write(folder: Path, renderer: Renderer) -> None:
    """The program, and the state that DSPy saves of it."""
    roles = [each["role"] for each in renderer.messages("")]
    instructed = bool(renderer.prompt.instruction.strip())
    # Without an instruction some templates are sent an empty system message.
    head = "user" if instructed and roles[0] == USER_SLOT else roles[0]
    slot = head if instructed else ("silent" if roles[0] == "system" else "none")
    text = _TEMPLATE.read_text(encoding="utf-8").replace("@SLOT@", slot)
    (folder / PROGRAM).write_text(text, encoding="utf-8")
    module = _imported(folder / PROGRAM)
    program = module.Program()
    program.answer.signature = program.answer.signature.with_instructions(
        renderer.prompt.instruction.strip()
    )
    program.answer.demos = [
        {"input": each.input.strip(), "output": each.output.strip()}
        for each in renderer.prompt.demonstrations
    ]
    program.save(str(folder / STATE))
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    (folder / STATE).write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _check(folder: Path, source: Source, renderer: Renderer) -> None:
    """Run the program as stored, with a model that records what it is sent.

    Raises:
        AdaptationError: it sends other messages than were measured.
    """
    import dspy

    recorder = _recorder()
    program = _imported(folder / PROGRAM).load()
    for text in probes_for(source, renderer):
        with dspy.context(lm=recorder):
            program(input=text)
        sent = [
            {"role": each["role"], "content": each["content"]}
            for each in recorder.history[-1]["messages"]
        ]
        measured = renderer.messages(text)
        if sent != measured:
            pairs = itertools.zip_longest(sent, measured)
            theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
            raise AdaptationError(
                "this adaptation cannot be exported as dspy",
                found=f"DSPy sends {theirs!r}",
                expected=f"{ours!r}, which was measured",
                fix="--as messages",
            )


def _recorder() -> Any:
    """A model of DSPy's that answers "x" and keeps what it was sent."""
    from dspy.utils import DummyLM

    class _Plain:
        """Answers are plain text, as the program's adapter reads them."""

        def format_field_with_value(self, fields: dict[Any, Any], role: str = "") -> str:
            return "".join(str(value) for value in fields.values())

    return DummyLM([{"output": "x"}] * 10_000, adapter=_Plain())


def _imported(path: Path) -> ModuleType:
    """The module of a program, under a name of its own that is forgotten again."""
    name = f"tunewise_export_{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AdaptationError("the program cannot be imported", found=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


FORMAT = DspyFormat()
