"""What is exported is what was measured: the same bytes, or logits that PEFT computes too."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adaptation.samples import CONSTANT, LOW_RANK, PREFIX, VIRTUAL, WEIGHTS, adaptation_of
from tests.architecture.source import SOURCE
from tests.conftest import build_model, build_tokenizer
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, build_gemma3, fit, planted_view
from tests.task.test_render import CHATML, FOLDED_SYSTEM, NO_SYSTEM, TODAY, chat

from tunewise.adaptation import store
from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import placeholder_for, renderer_of
from tunewise.adaptation.export._registry import FORMATS
from tunewise.adaptation.export.peft import flat_prefix
from tunewise.adaptation.parts import Part, PromptTextPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.errors import AdaptationError, UnavailableError, UnknownNameError
from tunewise.model.base import Base
from tunewise.task.prompt import Demonstration, PromptText

DEMOS = (Demonstration("Lovely {input}.", "good"), Demonstration("  Dire. ", "bad"))
PROMPTS = {
    "nothing": PromptText(""),
    "instruction": PromptText(" Good or bad?\n- good\n- bad"),
    "demonstrations": PromptText("", DEMOS),
    "both": PromptText("Good or bad?", DEMOS),
    "user slot": PromptText("Good or bad?", DEMOS, slot="user"),
    "user slot alone": PromptText("Good or bad?", slot="user"),
}
INPUTS = ("A fine film.", "  spaces {input} \n", "línea\n\n日本 🙂")


def no_base(dtype: str) -> Base:
    raise AssertionError(f"the base is not needed, in {dtype}")


def source_of(prompt: PromptText, tokenizer: Any) -> Source:
    return Source(adaptation_of(PromptTextPart(prompt)), tokenizer, no_base)


def exported(name: str, source: Source) -> dict[str, Any]:
    """The text files of an export; JSON read."""
    files = FORMATS.find(name).files(source)
    return {
        file: json.loads(data) if file.endswith(".json") else data.decode()
        for file, data in files.items()
        if not file.endswith(".safetensors")
    }


def test_formats_are_found_by_lying_in_the_folder() -> None:
    folder = SOURCE / "tunewise" / "adaptation" / "export"
    assert set(FORMATS.discover()) == {path.stem for path in folder.glob("[!_]*.py")}
    with pytest.raises(UnknownNameError, match="did you mean 'messages'"):
        FORMATS.find("mesages")


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("template", [None, CHATML, NO_SYSTEM, FOLDED_SYSTEM, TODAY])
def test_the_text_is_what_the_model_reads(template: str | None, prompt: PromptText) -> None:
    tokenizer = build_tokenizer(chat=False) if template is None else chat(template)
    source = source_of(prompt, tokenizer)
    made = exported("text", source)
    renderer, record = renderer_of(source), made["export.json"]
    before, after = made["prompt.txt"].split(record["placeholder"])
    for text in INPUTS:
        tokens = renderer.shared_tokens + renderer.row_tokens(text)
        assert tokenizer.decode(tokens) == record["begin_text"] + before + text.strip() + after
    assert record["same_tokens_in_one_go"] is True
    assert record["adaptation"] == store.fingerprint_of(source.adaptation)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM])
def test_messages_become_those_bytes_through_the_template(
    template: str, prompt: PromptText
) -> None:
    tokenizer = chat(template + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    if template == CHATML:
        tokenizer = chat(CHATML)
    source = source_of(prompt, tokenizer)
    made = exported("messages", source)
    mark, renderer = made["export.json"]["placeholder"], renderer_of(source)
    for text in INPUTS:
        filled = [
            each | {"content": each["content"].replace(mark, text.strip())}
            for each in made["messages.json"]
        ]
        written = tokenizer.apply_chat_template(filled, tokenize=False, add_generation_prompt=True)
        assert written == renderer.shared_text + renderer.row_text(text)
    roles = [each["role"] for each in made["messages.json"]]
    assert ("system" in roles) == (
        template == CHATML and (not prompt.instruction or prompt.slot == "system")
    )


@pytest.mark.parametrize(
    ("template", "told"),
    [(None, "no chat template"), (FOLDED_SYSTEM, "from place"), (TODAY, "from place")],
    ids=["none", "a space before the answer", "today's date"],
)
@pytest.mark.parametrize("name", ["messages", "dspy"])
def test_messages_that_become_other_bytes_are_refused(
    name: str, template: str | None, told: str
) -> None:
    if name == "dspy":
        pytest.importorskip("dspy")
    tokenizer = build_tokenizer(chat=False) if template is None else chat(template)
    with pytest.raises(AdaptationError, match=told):
        FORMATS.find(name).files(source_of(PROMPTS["both"], tokenizer))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_dspy_program_sends_those_messages(prompt: PromptText, tmp_path: Path) -> None:
    dspy = pytest.importorskip("dspy")
    source = source_of(prompt, chat(CHATML))
    for name, data in FORMATS.find("dspy").files(source).items():
        (tmp_path / name).write_bytes(data)
    spec = importlib.util.spec_from_file_location("exported_program", tmp_path / "program.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sent: list[Any] = []

    class Recorder(dspy.BaseLM):  # type: ignore[misc]  # DSPy's classes are untyped
        def __call__(self, prompt: Any = None, *, messages: Any = None, **given: Any) -> list[str]:
            sent.append([{"role": m["role"], "content": m["content"]} for m in messages])
            return [" bad \n"]

    program = module.load()
    for text in INPUTS:
        # Another adapter that is configured changes nothing.
        with dspy.context(lm=Recorder("recorder"), adapter=dspy.JSONAdapter()):
            assert program(input=text).output == "bad"
        assert sent[-1] == renderer_of(source).messages(text)


def test_dspys_own_adapter_sends_another_prompt() -> None:
    """dspy#8042: why the program brings its own adapter."""
    dspy = pytest.importorskip("dspy")
    source = source_of(PROMPTS["both"], chat(CHATML))
    signature = dspy.Signature("input -> output", PROMPTS["both"].instruction)
    demos = [{"input": each.input, "output": each.output} for each in DEMOS]
    theirs = dspy.ChatAdapter().format(signature, demos, {"input": "A film."})
    assert theirs != renderer_of(source).messages("A film.")


@pytest.mark.parametrize("instruction", ["  two\n    indented\n  lines", "tab\tand\ttab"])
def test_an_instruction_that_dspy_tidies_is_refused(instruction: str) -> None:
    """DSPy treats instructions as docstrings: tabs and common indentation go."""
    pytest.importorskip("dspy")
    with pytest.raises(AdaptationError, match="DSPy sends"):
        FORMATS.find("dspy").files(source_of(PromptText(instruction), chat(CHATML)))


@pytest.mark.parametrize("instruction", ["{x} [[ ## output ## ]]", "«ja» 日本\n\nOne line.  Two."])
def test_a_strange_instruction_is_dspys_own_state(instruction: str) -> None:
    pytest.importorskip("dspy")
    files = FORMATS.find("dspy").files(source_of(PromptText(instruction), chat(CHATML)))
    state = json.loads(files["program.json"])
    assert state["answer"]["signature"]["instructions"] == instruction


def test_dspy_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'tunewise\[dspy\]'"):
        FORMATS.find("dspy").files(source_of(PROMPTS["both"], chat(CHATML)))


NEAREST = PromptTextPart(PromptText("Good?", pool=DEMOS, nearest=1))
TEXT_ONLY = {
    "low_rank": (PromptTextPart(PROMPTS["both"]), LOW_RANK),
    "virtual": (VIRTUAL,),
    "prefix": (PREFIX,),
    "weights": (WEIGHTS,),
    "constant": (CONSTANT,),
    "nearest": (NEAREST,),
    "nothing": (),
}


@pytest.mark.parametrize("parts", TEXT_ONLY.values(), ids=TEXT_ONLY)
@pytest.mark.parametrize("name", ["text", "messages", "dspy"])
def test_what_is_more_than_one_text_is_no_text(name: str, parts: tuple[Part, ...]) -> None:
    if name == "dspy":
        pytest.importorskip("dspy")
    with pytest.raises(AdaptationError, match=f"cannot be exported as {name}"):
        FORMATS.find(name).files(Source(adaptation_of(*parts), chat(CHATML), no_base))


@pytest.mark.parametrize(
    "parts",
    [
        (PromptTextPart(PROMPTS["both"]),),
        (WEIGHTS,),
        (CONSTANT,),
        (LOW_RANK, WEIGHTS),
        (VIRTUAL, PREFIX),
        (LOW_RANK, PREFIX),
        (NEAREST, LOW_RANK),
        (),
    ],
    ids=lambda parts: "+".join(part.kind for part in parts),
)
def test_what_peft_has_no_place_for_is_refused(parts: tuple[Part, ...]) -> None:
    with pytest.raises(AdaptationError, match="cannot be exported as peft"):
        FORMATS.find("peft").files(Source(adaptation_of(*parts), chat(CHATML), no_base))


def test_the_placeholder_stands_nowhere_else() -> None:
    tokenizer = build_tokenizer()
    source = source_of(PromptText("{input}", (Demonstration("{input_1}", "x"),)), tokenizer)
    assert placeholder_for(renderer_of(source)) == "{input_2}"
    plain = source_of(PromptText("Good?"), tokenizer)
    assert placeholder_for(renderer_of(plain)) == "{input}"


CASES: list[tuple[str, dict[str, Any]]] = [
    ("soft_prompt", {}),
    ("soft_prompt", {"virtual_tokens": 5}),
    ("lora", {"rank": 2}),
    ("prefix", {}),
    ("prefix", {"positions": 4}),
    (
        "soft_prompt+lora",
        {"lora_rank": 2, "soft_prompt_virtual_tokens": 5, "lora_layers": "embeddings"},
    ),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_peft_gets_a_proof(
    architecture: str, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    base, folder = _saved_base(architecture, tmp_path / "base")
    rates = {"learning_rate": 1e-2}
    if "+" in name:
        rates = {"soft_prompt_learning_rate": 1e-2, "lora_learning_rate": 1e-2}
    adaptation = fit(
        base, name, planted_view(), steps=4, batch_size=8, judgements=4, **rates, **settings
    )

    def load(dtype: str) -> Base:
        assert dtype == "float32"
        return replace(base, path=str(folder))

    files = FORMATS.find("peft").files(Source(adaptation, base.tokenizer, load))
    record = json.loads(files["export.json"])
    parity = record["parity"]
    assert parity["largest_difference"] <= parity["tolerance"]
    assert parity["tolerance"] < 0.1 * parity["largest_difference_from_the_base"] or (
        adaptation.provenance.notes["best_step"] == 0
    )
    kinds = set(adaptation.kinds) - {"prompt_text"}
    assert set(record["folders"]) == kinds
    assert all(f"{place}adapter_model.safetensors" in files for place in record["folders"].values())


def _saved_base(architecture: str, folder: Path) -> tuple[Base, Path]:
    """A tiny base, and the folder that holds the same weights."""
    base = base_of(architecture)
    model = build_gemma3(0) if architecture == "gemma3" else build_model(architecture, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return base, folder


def test_a_checkpoint_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = _saved_base("llama", tmp_path / "base")
    adaptation = fit(
        base, "prefix", planted_view(), steps=2, batch_size=8, judgements=1, positions=3
    )
    monkeypatch.setattr(
        "tunewise.adaptation.export.peft.flat_prefix", lambda part: -flat_prefix(part)
    )
    source = Source(adaptation, base.tokenizer, lambda dtype: replace(base, path=str(folder)))
    with pytest.raises(AdaptationError, match="PEFT computes other logits"):
        FORMATS.find("peft").files(source)


def test_what_predicts_reads_the_exported_bytes(tmp_path: Path) -> None:
    """Measured, stored, exported and predicted with: the same bytes."""
    base = base_of("llama")
    found = fit(base, "few_shot", planted_view(40, 20), demonstrations=2)
    store.save(found, tmp_path / "ada")
    stored = store.load(tmp_path / "ada")
    made = exported("text", Source(stored, base.tokenizer, no_base))
    mark = made["export.json"]["placeholder"]
    with predictor_for(base, stored) as predictor:
        assert isinstance(predictor, BasePredictor)
        renderer = predictor.readout.renderer
        for text in INPUTS:
            tokens = renderer.shared_tokens + renderer.row_tokens(text)
            assert base.tokenizer.decode(tokens) == made["prompt.txt"].replace(mark, text.strip())
        assert predictor.readout.prefix.length == len(renderer.shared_tokens)
