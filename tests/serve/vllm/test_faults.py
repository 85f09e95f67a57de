"""A server that fails, is gone, has another base or was started otherwise; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conftest import build_model, build_tokenizer
from tests.laws.fitting import base_of
from tests.serve.engine.planted import constant, low_rank, parts_of, planted, provenance, tiny
from tests.serve.vllm.fake import FakeVllm
from tests.serve.vllm.test_answers import chat

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import LowRankPart, VirtualTokensPart
from tunewise.errors import (
    AdaptationError,
    ConfigError,
    RequestTooLongError,
    RunError,
    TunewiseError,
    UnavailableError,
    WrongBaseError,
)
from tunewise.model.base import Base
from tunewise.serve.contract import Request
from tunewise.serve.engine.engine import EmbeddedEngine
from tunewise.serve.requests import row_request
from tunewise.serve.vllm.engine import VllmEngine, VllmSettings


@pytest.fixture
def settings() -> VllmSettings:
    return VllmSettings(slots=4, silence_seconds=1.0)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("500", UnavailableError, "failed"),
        ("garbage", RunError, "cannot be read"),
        ("no ids", RunError, "cannot be read"),
        ("error event", UnavailableError, "failed"),
        ("broken", UnavailableError, "broke off"),
        ("silent", UnavailableError, "does not answer"),
    ],
)
def test_a_fault_fails_its_requests_and_no_later_ones(
    fault: str, error: type[TunewiseError], said: str, engine: VllmEngine, fake: FakeVllm
) -> None:
    wanted = engine.submit(chat(engine, "x", max_new_tokens=40)).result(20).text
    fake.fault = fault
    streams = [engine.submit(chat(engine, "x", max_new_tokens=40)) for _ in range(3)]
    for stream in streams:
        finished = stream.result(20)
        assert finished.reason == "failed"
        assert type(finished.error) is error or isinstance(finished.error, error)
        assert said in str(finished.error)
        assert fake.url in str(finished.error)
    fake.fault = ""
    assert engine.submit(chat(engine, "x", max_new_tokens=40)).result(20).text == wanted
    assert engine.stats().running == 0


def test_a_server_that_is_gone(engine: VllmEngine, fake: FakeVllm, base: Base) -> None:
    fake.stop()
    lost = engine.submit(chat(engine, "x")).result(20)
    assert isinstance(lost.error, UnavailableError)
    with pytest.raises(UnavailableError):
        engine.ready("t", "l", lambda: planted(base, "low_rank", 0))
    assert engine.stats().resident == 0
    engine.close()


WRONG: dict[str, Any] = {
    "other weights": lambda: base_of("llama", seed=1),
    "weights a little different": lambda: base_of("llama", scale=4.05),
    "another architecture": lambda: base_of("qwen3"),
    "a smaller vocabulary": lambda: Base.from_model(
        build_model("llama", vocabulary=258), build_tokenizer()
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_base_is_found_out_before_the_first_request(case: str, base: Base) -> None:
    with FakeVllm(WRONG[case]()) as fake, pytest.raises(WrongBaseError, match="fingerprint"):
        VllmEngine(base, fake.url)


def test_what_cannot_be_met() -> None:
    base = tiny()
    for url in ("", "nonsense", "ftp://127.0.0.1:1", "http://"):
        with pytest.raises(ConfigError, match="address"):
            VllmEngine(base, url)
    with pytest.raises(UnavailableError):
        VllmEngine(base, "http://127.0.0.1:9")
    with FakeVllm(tiny(), key="secret") as fake:
        with pytest.raises(RunError, match="401"):
            VllmEngine(base, fake.url)
        engine = VllmEngine(base, fake.url + "/v1/", VllmSettings(key="secret"))
        assert engine.submit(chat(engine, "x")).result(20).error is None
        engine.close()


def test_a_server_that_was_started_otherwise(base: Base) -> None:
    with FakeVllm(tiny(), embeds=False, loras=False, max_model_len=300) as fake:
        engine = VllmEngine(base, fake.url)
        assert engine.base.context_length == 300
        with pytest.raises(AdaptationError, match="--enable-prompt-embeds"):
            engine.ready("t", "v", lambda: planted(base, "virtual_tokens", 0))
        with pytest.raises(AdaptationError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            engine.ready("t", "l", lambda: planted(base, "low_rank", 0))
        text = engine.ready("t", "p", lambda: planted(base, "prompt_text", 0))
        assert engine.submit(row_request(text, "x")).result(20).error is None
        assert engine.stats().resident == 1
        engine.close()


def replaced(base: Base, *parts: Any, **changes: Any) -> Adaptation:
    made = planted(base, "prompt_text", 0)
    return Adaptation(parts, made.decoding, made.spec, provenance(base, 0, **changes))


def lora(base: Base, **config: Any) -> LowRankPart:
    made = low_rank(base, 0)
    return replace(made, config={**made.config, **config})


def lora_of(base: Base, module: str) -> LowRankPart:
    made = low_rank(base, 0)
    stem = f"base_model.model.{module}"
    more = {f"{stem}_A.weight": torch.ones(4, 32), f"{stem}_B.weight": torch.ones(261, 4)}
    return replace(made, tensors={**made.tensors, **more})


REFUSED: dict[str, Any] = {
    "keys and values": lambda b: planted(b, "kv_prefix", 0),
    "weights": lambda b: planted(b, "weights", 0),
    "weights beside others": lambda b: planted(b, "hybrid", 0),
    "DoRA": lambda b: replaced(b, lora(b, use_dora=True)),
    "embeddings": lambda b: replaced(b, lora_of(b, "model.embed_tokens.lora_embedding")),
    "the head": lambda b: replaced(b, lora_of(b, "lm_head.lora")),
    "a bias": lambda b: replaced(
        b,
        replace(
            low_rank(b, 0),
            tensors={**low_rank(b, 0).tensors, "base_model.model.x.bias": torch.ones(2)},
        ),
    ),
    "no such layer": lambda b: replaced(b, lora_of(b, "model.layers.9.mlp.up_proj.lora")),
    "a rank beyond the server's": lambda b: replaced(b, low_rank(b, 0, rank=65)),
    "numbers that are none": lambda b: replaced(
        b,
        replace(
            low_rank(b, 0),
            tensors={n: t * torch.nan for n, t in low_rank(b, 0).tensors.items()},
        ),
    ),
    "virtual tokens of another width": lambda b: replaced(b, VirtualTokensPart(torch.ones(2, 5))),
    "virtual tokens that are none": lambda b: replaced(
        b, VirtualTokensPart(torch.full((2, 32), torch.nan))
    ),
    "another base": lambda b: replaced(b, *parts_of(b, "low_rank", 0), base_fingerprint="x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_adaptation_that_cannot_be_carried_is_refused(
    case: str, engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    bad = REFUSED[case](base)
    with pytest.raises(AdaptationError) as refused:
        engine.ready("t", "a", lambda: bad)
    assert "\n  " in str(refused.value) or "finite" in str(refused.value)
    assert engine.stats().resident == 0
    assert fake.loras == {}


def test_ranks_and_scales_that_differ_by_module_are_carried(engine: VllmEngine, base: Base) -> None:
    """vLLM reads one of each, so they are written into the numbers."""
    from tunewise.adaptation.predict import predictor_for

    small, large = low_rank(base, 1, rank=2, only="q_proj"), low_rank(base, 2, rank=5, only="up_")
    names = [*small.config["target_modules"], *large.config["target_modules"]]
    config = {
        **small.config,
        "target_modules": names,
        "rank_pattern": {"up_proj": 5},
        "alpha_pattern": {"up_proj": 3, "layers.1.self_attn.q_proj": 7},
        "use_rslora": True,
    }
    both = LowRankPart(config, {**small.tensors, **large.tensors})
    adaptation = replaced(base, *parts_of(base, "prompt_text", 0), both)
    with predictor_for(base, adaptation) as predictor:
        wanted = [answer.text for answer in predictor.answers(["a", "bcd"])]
    ready = engine.ready("t", "p", lambda: adaptation)
    found = [engine.submit(row_request(ready, text)).result(20) for text in ("a", "bcd")]
    assert [each.text for each in found] == wanted


@pytest.mark.parametrize(
    ("request_of", "error"),
    [
        (lambda e, b: Request(e.base_alone("t"), ()), ConfigError),
        (lambda e, b: Request(e.base_alone("t"), (5,) * 600), RequestTooLongError),
        (lambda e, b: Request(e.base_alone("t"), (5,), readout="labels"), ConfigError),
        (lambda e, b: Request(e.base_alone("t"), (5,), readout="embedding"), ConfigError),
        (lambda e, b: chat(e, "x", temperature=-1.0), ConfigError),
        (lambda e, b: chat(e, "x", json_schema={}, logprobs=1), ConfigError),
        (lambda e, b: chat(e, "x", json_schema={}, temperature=1.0, top_p=0.5), ConfigError),
        (lambda e, b: chat(e, "x", json_schema={"type": "no such type"}), ConfigError),
        (
            lambda e, b: row_request(
                e.ready("t", "c", lambda: constant(b)), "x", readout="embedding"
            ),
            ConfigError,
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    request_of: Any, error: type[TunewiseError], engine: VllmEngine, base: Base
) -> None:
    with pytest.raises(error):
        engine.submit(request_of(engine, base))


def test_what_another_engine_made_ready_is_refused(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    embedded, other = EmbeddedEngine(base), VllmEngine(base, fake.url)
    for stranger in (embedded, other):
        with pytest.raises(RunError, match="another engine"):
            engine.submit(chat(stranger, "x"))
        stranger.close()


def test_numbers_that_are_none_fail_their_request(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    fake.fault = "no numbers"
    ready = engine.ready("t", "h", lambda: planted(base, "prompt_text", 0))
    lost = engine.submit(row_request(ready, "x")).result(20)
    assert lost.reason == "failed"
    assert "finite" in str(lost.error)


def test_a_server_that_cannot_compute_is_not_ready(engine: VllmEngine, fake: FakeVllm) -> None:
    engine.check()
    fake.fault = "500"
    with pytest.raises(UnavailableError, match="failed"):
        engine.check()
    fake.fault, fake.gone = "", True
    with pytest.raises(UnavailableError, match="does not answer"):
        engine.check()
    fake.gone = False
    engine.check()
    engine.close()
    with pytest.raises(UnavailableError, match="closed"):
        engine.check()
