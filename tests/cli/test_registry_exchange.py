"""What goes out of the registry comes back in as the same numbers; what is strange is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Finished
from tests.cli.terminal import Done, tunewise
from tests.model.test_resolve import write_gguf
from transformers import AutoModelForCausalLM

from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.adaptation.store import load, save

NAME = "acme/tickets"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def registry(place: Path, *arguments: object) -> Done:
    return tunewise("registry", *arguments, "--registry", place, "--actor", "ann", "--json")


def done(place: Path, *arguments: object) -> Any:
    found = registry(place, *arguments)
    assert found.code == 0, found.err
    return found.json


def held(place: Path, reference: str) -> Any:
    return load(Path(done(place, "show", reference)["folder"]))


@pytest.fixture
def tuned(tiny_folder: Path, tmp_path: Path) -> Path:
    """A PEFT checkpoint that PEFT wrote, with numbers in it."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path / "peft")
    return tmp_path / "peft"


def test_a_lora_of_pefts_own(place: Path, tuned: Path, tiny_folder: Path, tmp_path: Path) -> None:
    flags = ("--labels", "negative,positive", "--instruction", "Good or bad?")
    base = ("--base", tiny_folder, "--dtype", "float32")
    version = done(place, "import", tuned, NAME, *flags, *base)
    assert version["kinds"] == ["prompt_text", "low_rank"]
    assert version["method"] == "import"
    part = held(place, f"{NAME}@1").part(LowRankPart)
    for name, tensor in load_file(tuned / "adapter_model.safetensors").items():
        assert part.tensors[name].equal(tensor)
    told = done(place, "export", f"{NAME}@1", "--as", "peft", "--out", tmp_path / "out")
    parity = told["record"]["parity"]
    assert parity["probes"] == 3 + 12
    assert parity["largest_difference"] <= parity["tolerance"]
    assert parity["largest_difference_from_the_base"] > 10 * parity["tolerance"]
    again = done(place, "import", tmp_path / "out", "acme/again", "--like", f"{NAME}@1", *base)
    assert held(place, "acme/again@1").part(LowRankPart).tensors.keys() == part.tensors.keys()
    assert again["number"] == 1


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_what_stands_before_the_rows_of_pefts_own(
    kind: str, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """PEFT writes it, it is taken in, goes out with PEFT's own logits as proof, and comes back."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    made = {"PROMPT_TUNING": PromptTuningConfig, "PREFIX_TUNING": PrefixTuningConfig}[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    wrapped = get_peft_model(model, made(task_type="CAUSAL_LM", num_virtual_tokens=3))
    wrapped.save_pretrained(tmp_path / "peft")
    flags = ("--labels", "negative,positive", "--instruction", "Good or bad?")
    base = ("--base", tiny_folder, "--dtype", "float32")
    version = done(place, "import", tmp_path / "peft", NAME, *flags, *base)
    part_type = {"PROMPT_TUNING": VirtualTokensPart, "PREFIX_TUNING": KVPrefixPart}[kind]
    assert version["kinds"] == ["prompt_text", part_type.kind]
    told = done(place, "export", f"{NAME}@1", "--as", "peft", "--out", tmp_path / "out")
    parity = told["record"]["parity"]
    assert parity["largest_difference"] <= parity["tolerance"]
    stored, again = (
        load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
        for folder in (tmp_path / "peft", tmp_path / "out")
    )
    assert again.equal(stored)
    done(place, "import", tmp_path / "out", "acme/again", "--like", f"{NAME}@1", *base)
    first, second = held(place, f"{NAME}@1").parts, held(place, "acme/again@1").parts
    assert first[0] == second[0]
    for one, other in zip(_tensors(first[1]), _tensors(second[1]), strict=True):
        assert one.equal(other)


def _tensors(part: Any) -> list[torch.Tensor]:
    if isinstance(part, VirtualTokensPart):
        return [part.embeddings]
    return [*part.keys, *part.values]


def _moved(part: Part) -> Part:
    if isinstance(part, VirtualTokensPart):
        return replace(part, embeddings=part.embeddings + 0.5)
    if isinstance(part, KVPrefixPart):
        return replace(part, values=tuple(each + 0.5 for each in part.values))
    return part


@pytest.mark.parametrize("method", ["soft_prompt", "prefix"])
def test_what_stands_in_the_texts_place_comes_back_there(
    method: str, place: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    base = ("--base", tiny_folder)
    # Tiny fits may find nothing better than their start, which is refused as doing nothing.
    found = load(finished.adaptation(method))
    parts = tuple(_moved(each) for each in found.parts)
    save(replace(found, parts=parts), tmp_path / "moved")
    done(place, "add", tmp_path / "moved", NAME, *base)
    done(place, "export", f"{NAME}@1", "--as", "peft", "--out", tmp_path / "out")
    done(place, "import", tmp_path / "out", "acme/again", "--like", f"{NAME}@1", *base)
    first, second = (
        done(place, "show", name)["probes"]["probes"] for name in (f"{NAME}@1", "acme/again@1")
    )
    assert [each["answer"] for each in first] == [each["answer"] for each in second]
    replaced = [
        each.replaces_shared_text
        for name in (f"{NAME}@1", "acme/again@1")
        for each in held(place, name).parts
        if isinstance(each, VirtualTokensPart | KVPrefixPart)
    ]
    assert replaced == [True, True]


def check_merged(place: Path) -> None:
    """Version 2 has what version 1 changed, merged, and answers as it does."""
    part = held(place, f"{NAME}@2").part(WeightsPart)
    assert all("q_proj" in name or "v_proj" in name for name in part.tensors)
    first, second = (
        done(place, "show", f"{NAME}@{number}")["probes"]["probes"] for number in (1, 2)
    )
    for one, other in zip(first, second, strict=True):
        assert one["answer"] == other["answer"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-3)


def test_a_merged_checkpoint_and_back(
    place: Path, tuned: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    flags = ("--labels", "negative,positive", "--instruction", "Good or bad?")
    base = ("--base", tiny_folder, "--dtype", "float32")
    done(place, "import", tuned, NAME, *flags, *base)
    told = done(place, "export", f"{NAME}@1", "--as", "merged", "--out", tmp_path / "out")
    assert told["record"]["parity"]["largest_difference"] <= told["record"]["parity"]["tolerance"]
    version = done(place, "import", tmp_path / "out", NAME, "--like", f"{NAME}@1", *base)
    assert (version["number"], version["kinds"]) == (2, ["prompt_text", "weights"])
    check_merged(place)


CONVERTER = """#!{python}
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.model.test_resolve import write_gguf
from transformers import AutoModelForCausalLM
write_gguf(Path(sys.argv[3]), model=AutoModelForCausalLM.from_pretrained(sys.argv[1]))
"""


def test_a_gguf_file_and_back(
    place: Path, tuned: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the converter's place writes the checkpoint that it is given."""
    program = tmp_path / "bin" / "convert_hf_to_gguf.py"
    program.parent.mkdir()
    root = str(Path(__file__).parents[2])
    program.write_text(CONVERTER.format(python=sys.executable, root=root))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    flags = ("--labels", "negative,positive", "--instruction", "Good or bad?")
    base = ("--base", tiny_folder, "--dtype", "float32")
    done(place, "import", tuned, NAME, *flags, *base)
    told = done(place, "export", f"{NAME}@1", "--as", "gguf", "--out", tmp_path / "out")
    parity = told["record"]["gguf_parity"]
    assert parity["largest_difference"] <= parity["tolerance"]
    file = tmp_path / "out" / "model.gguf"
    version = done(place, "import", file, NAME, "--like", f"{NAME}@1", *base)
    assert version["kinds"] == ["prompt_text", "weights"]
    check_merged(place)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda data: data, "the base itself"),
        (lambda data: data[: len(data) // 2], "cut"),
        (lambda data: b"PK" + data, "GGUF"),
        (lambda data: b"", "GGUF"),
    ],
    ids=["the base", "cut short", "other bytes", "empty"],
)
def test_gguf_files_that_are_not_the_base_changed(
    spoil: Callable[[bytes], bytes], word: str, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file)
    file.write_bytes(spoil(file.read_bytes()))
    flags = ("--labels", "a,b", "--instruction", "Which?", "--base", tiny_folder)
    found = registry(place, "import", file, NAME, *flags, "--dtype", "float32")
    assert found.code == 2, found.out + found.err
    assert word in json.dumps(found.json)
    assert "Traceback" not in found.err
    assert done(place, "list") == []


def test_prompts_in_files(
    place: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    done(place, "add", finished.adaptation("zero_shot"), NAME, "--base", tiny_folder)
    (tmp_path / "prompt.txt").write_text("Does the guest sound content?\n")
    shown = [{"input": "superb", "output": "positive"}, {"input": "sad", "output": "negative"}]
    (tmp_path / "prompt.json").write_text(
        json.dumps({"instruction": "Judge.", "demonstrations": shown})
    )
    for file in ("prompt.txt", "prompt.json"):
        done(place, "import", tmp_path / file, NAME, "--like", f"{NAME}@1", "--base", tiny_folder)
    text = held(place, f"{NAME}@2").part(PromptTextPart).prompt
    assert (text.instruction, text.demonstrations) == ("Does the guest sound content?", ())
    judged = held(place, f"{NAME}@3").part(PromptTextPart).prompt
    assert judged.instruction == "Judge."
    assert [(each.input, each.output) for each in judged.demonstrations] == [
        ("superb", "positive"),
        ("sad", "negative"),
    ]
    told = done(place, "export", f"{NAME}@2", "--as", "text", "--out", tmp_path / "out")
    assert "Does the guest sound content?" in (tmp_path / "out" / "prompt.txt").read_text()
    assert told["version"] == f"{NAME}@2"


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, **changes}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        held = load_file(file)
        change(held)
        save_file(held, file)

    return run


def pickled(folder: Path) -> None:
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (pickled, "pickle"),
    "other kind": (edit("adapter_config.json", peft_type="IA3"), "IA3"),
    "more modules": (edit("adapter_config.json", modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (edit("adapter_config.json", bias="all"), "bias"),
    "pissa": (edit("adapter_config.json", init_lora_weights="pissa"), "pissa"),
    "replication": (edit("adapter_config.json", layer_replication=[[0, 1]]), "layer_replication"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "cannot be read"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
    "other names": (
        tensors(lambda held: held.update({k.replace("q_", "x_"): held.pop(k) for k in [*held]})),
        "does not fit",
    ),
    "too wide": (
        tensors(lambda held: held.update({k: torch.ones(2, 31) for k in held if "lora_A" in k})),
        "does not fit",
    ),
    "zero": (
        tensors(lambda held: held.update({k: 0 * v for k, v in held.items() if "lora_B" in k})),
        "as its base does",
    ),
    "empty": (lambda f: (shutil.rmtree(f), f.mkdir()), "nothing here"),
    "gone": (shutil.rmtree, "does not exist"),
    "no such layers": (edit("adapter_config.json", target_modules=["nowhere"]), "nowhere"),
    "rank 0": (edit("adapter_config.json", r=0), "low-rank"),
    "rank by name": (edit("adapter_config.json", r="two"), "low-rank"),
    "another rank": (edit("adapter_config.json", r=4), "does not fit"),
}


@pytest.mark.parametrize(("spoil", "word"), STRANGE.values(), ids=STRANGE)
def test_strange_checkpoints_are_refused(
    spoil: Callable[[Path], object], word: str, place: Path, tuned: Path, tiny_folder: Path
) -> None:
    spoil(tuned)
    flags = ("--labels", "a,b", "--instruction", "Which?", "--base", tiny_folder)
    found = registry(place, "import", tuned, NAME, *flags)
    assert found.code == 2, found.out + found.err
    assert word in json.dumps(found.json)
    assert "Traceback" not in found.err
    assert done(place, "list") == []


def _merged(tiny: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    shutil.copytree(tiny, folder)
    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda held: None, "the base itself"),
        (lambda held: held.pop("model.norm.weight"), "model.norm.weight"),
        (lambda held: held.update({"more": torch.ones(2)}), "more"),
        (lambda held: held.update({"model.norm.weight": torch.ones(31)}), "31"),
        (lambda held: held.update({"lm_head.weight": torch.ones(261, 32)}), "tied"),
    ],
    ids=["the base", "missing", "more", "shape", "untied"],
)
def test_checkpoints_that_are_not_the_base_changed(
    change: Callable[[Any], object], word: str, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    source = _merged(tiny_folder, tmp_path / "merged", change)
    flags = ("--labels", "a,b", "--instruction", "Which?", "--base", tiny_folder)
    found = registry(place, "import", source, NAME, *flags)
    assert found.code == 2, found.out + found.err
    assert word in json.dumps(found.json)


def test_another_template_is_another_base(place: Path, tiny_folder: Path, tmp_path: Path) -> None:
    source = _merged(
        tiny_folder, tmp_path / "merged", lambda held: held["model.norm.weight"].mul_(2)
    )
    template = source / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    flags = ("--labels", "a,b", "--instruction", "Which?", "--base", tiny_folder)
    found = registry(place, "import", source, NAME, *flags)
    assert found.code == 2
    assert "chat template" in json.dumps(found.json)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ([], "neither"),
        (["--like", "acme/none@1"], "acme/none"),
        (["--like", "acme/x@1", "--labels", "a,b"], "--labels"),
        (["--labels", "a"], "two or more"),
        (["--labels", "a,a"], "two or more"),
        (["--labels", ","], "two or more"),
        (["--labels", "a,b", "--kind", "generation"], "labels"),
        (["--kind", "classification"], "labels"),
        (["--kind", "clasification"], "did you mean"),
        (["--labels", "a,b", "--metric", "rouge"], "rouge"),
        (["--labels", "a,b", "--base", "nothing-like-it"], "nothing-like-it"),
        (["--labels", "a,b", "--prompt", "nowhere.txt"], "nowhere.txt"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else each,
)
def test_what_it_is_for_must_be_clear(
    flags: list[str], word: str, place: Path, tuned: Path, tiny_folder: Path
) -> None:
    base = [] if "--base" in flags else ["--base", tiny_folder]
    found = registry(place, "import", tuned, NAME, *flags, *base)
    assert found.code == 2, found.out + found.err
    assert word in json.dumps(found.json)
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", b""),
        ("p.txt", b"  \n "),
        ("p.txt", b"\xff\xfe\x00"),
        ("p.json", b"{"),
        ("p.json", b'{"instruktion": "x"}'),
        ("p.json", b'{"demonstrations": [{"input": "x"}]}'),
        ("p.json", b"{}"),
    ],
    ids=str,
)
def test_prompts_that_are_none(
    name: str, content: bytes, place: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    flags = ("--labels", "a,b", "--instruction", "Which?", "--base", tiny_folder)
    found = registry(place, "import", tmp_path / name, NAME, *flags)
    assert found.code == 2, found.out + found.err
    assert "prompt" in found.json["what"]


def test_an_export_that_cannot_be_is_refused(
    place: Path, finished: Finished, tiny_folder: Path, tmp_path: Path
) -> None:
    done(place, "add", finished.adaptation("zero_shot"), NAME, "--base", tiny_folder)
    for name, word in (("merged", "merged"), ("nothing", "nothing"), ("peft", "peft")):
        found = registry(place, "export", f"{NAME}@1", "--as", name, "--out", tmp_path / "out")
        assert found.code == 2
        assert word in json.dumps(found.json)
        assert not (tmp_path / "out").exists()
    found = registry(place, "export", f"{NAME}@9", "--as", "text", "--out", tmp_path / "out")
    assert found.code == 2
