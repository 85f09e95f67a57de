"""The engine as a server sees it: streams, aborts, swaps, tenants, limits, and what is refused."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.serve.engine.planted import KINDS, LABELS, constant, planted, provenance, tiny

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import KVPrefixPart, VirtualTokensPart, WeightsPart
from tunewise.adaptation.predict import predictor_for
from tunewise.errors import (
    AdaptationError,
    BusyError,
    ConfigError,
    DataError,
    RequestTooLongError,
    RunError,
    TunewiseError,
    UnavailableError,
    WrongBaseError,
)
from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Piece, Ready, Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import chat_tokens, row_request


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@pytest.fixture
def engine(base: Base) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(base, EngineSettings(slots=4, most_waiting=40, prompt_positions=32))
    yield engine
    engine.close()


def ready(engine: EmbeddedEngine, adaptation: Adaptation, name: str = "a") -> Ready:
    return engine.ready("t", name, lambda: adaptation)


def chat(engine: EmbeddedEngine, text: str, **sampling: Any) -> Request:
    tokens = chat_tokens(engine.base.tokenizer, [("user", text)])
    wanted = {"max_new_tokens": 12} | sampling
    return Request(engine.base_alone("t"), tokens, sampling=Sampling(**wanted))


def greedy(base: Base, tokens: tuple[int, ...], count: int) -> list[int]:
    """The slow twin: the whole text again for every token, without any cache."""
    ids = list(tokens)
    for _ in range(count):
        logits = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == 256:
            break
    return ids[len(tokens) :]


def test_the_base_alone_generates_what_its_own_forward_does(
    engine: EmbeddedEngine, base: Base
) -> None:
    requests = [chat(engine, text, logprobs=3) for text in ("a", "bcd " * 30, "é")]
    streams = [engine.submit(request) for request in requests]
    for request, stream in zip(requests, streams, strict=True):
        choices = [choice for piece in stream for choice in piece.choices]
        wanted = greedy(base, request.tokens, 12)
        assert [choice.token for choice in choices] == [t for t in wanted if t != 256]
        ids = torch.tensor([[*request.tokens, *wanted]])
        plain = base.model(input_ids=ids).logits[0].log_softmax(-1)[len(request.tokens) - 1 :]
        for place, choice in enumerate(choices):
            assert choice.log_probability == pytest.approx(
                float(plain[place, choice.token]), abs=1e-3
            )
            assert [each[0] for each in choice.top] == plain[place].topk(3).indices.tolist()
        finished = stream.result(0)
        assert finished.usage.completion_tokens == len(wanted)
        assert finished.usage.prompt_tokens == len(request.tokens)


def test_a_listener_hears_every_event_once_whenever_it_comes(engine: EmbeddedEngine) -> None:
    stream = engine.submit(chat(engine, "hello"))
    early: list[Piece | Finished] = []
    stream.subscribe(early.append)
    finished = stream.result(20)
    assert early[-1] is finished
    texts = [each.text for each in early if isinstance(each, Piece)]
    assert "".join(texts) == finished.text
    with pytest.raises(RunError):
        stream.subscribe(early.append)
    late: list[Piece | Finished] = []
    other = engine.submit(chat(engine, "hello"))
    other.result(20)
    other.subscribe(late.append)
    assert [type(each) for each in late] == [type(each) for each in early]


def test_a_listener_that_raises_stops_nothing(engine: EmbeddedEngine) -> None:
    def gone(event: Piece | Finished) -> None:
        raise RuntimeError("Event loop is closed")

    streams = [engine.submit(chat(engine, "hello")) for _ in range(3)]
    for stream in streams[:2]:
        stream.subscribe(gone)
    assert len({stream.result(20).text for stream in streams}) == 1
    assert engine.submit(chat(engine, "next")).result(20).error is None


def test_a_seed_decides_whatever_runs_beside_it(engine: EmbeddedEngine) -> None:
    request = chat(engine, "x", temperature=1.5, seed=7, max_new_tokens=20)
    alone = engine.submit(request).result(20).text
    beside = [engine.submit(chat(engine, f"{n}", temperature=2.0)) for n in range(6)]
    again = engine.submit(request)
    other = engine.submit(chat(engine, "x", temperature=1.5, seed=8, max_new_tokens=20))
    assert again.result(20).text == alone
    assert other.result(20).text != alone
    assert all(stream.result(20).error is None for stream in beside)


def test_a_stop_text_ends_the_answer_before_it(engine: EmbeddedEngine) -> None:
    whole = engine.submit(chat(engine, "stop", max_new_tokens=30)).result(20).text
    stop = whole[8:10]
    stream = engine.submit(chat(engine, "stop", max_new_tokens=30, stop=(stop, "zzzz")))
    finished = stream.result(20)
    assert finished.text == whole[: whole.index(stop)]
    assert finished.reason == "stop"
    assert "".join(piece.text for piece in stream) == finished.text
    assert finished.usage.completion_tokens < 30


def test_json_under_a_request_s_own_schema(engine: EmbeddedEngine, base: Base) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    adapted = ready(engine, planted(base, "low_rank", 0))
    requests = [
        chat(engine, "x", json_schema=schema, max_new_tokens=24),
        row_request(adapted, "y", Sampling(24, json_schema=schema)),
        chat(engine, "x", json_schema=schema, max_new_tokens=24, temperature=1.0, seed=1),
    ]
    for stream in [engine.submit(request) for request in requests]:
        assert isinstance(json.loads(stream.result(30).text)["n"], int)
    bad = chat(engine, "x", json_schema={"type": "no such type"})
    with pytest.raises(ConfigError, match="schema"):
        engine.submit(bad)


def test_labels_and_embeddings(engine: EmbeddedEngine, base: Base) -> None:
    scored = planted(base, "kv_prefix", 1, "score")
    with predictor_for(base, scored) as predictor:
        answer = predictor.answers(["abc"])[0]
    adapted = ready(engine, scored)
    found = engine.submit(row_request(adapted, "abc", readout="labels")).result(20)
    assert [label for label, _ in found.labels] == list(LABELS)
    assert sum(probability for _, probability in found.labels) == pytest.approx(1.0)
    assert dict(found.labels)[str(answer.text)] == pytest.approx(answer.probability, rel=1e-3)
    free = engine.submit(row_request(adapted, "abc", readout="text")).result(20)
    assert free.labels == ()
    one, again, other = (
        engine.submit(row_request(adapted, text, readout="embedding")).result(20).embedding
        for text in ("abc " * 30, "abc " * 30, "zzz")
    )
    assert len(one) == base.width
    assert sum(each * each for each in one) == pytest.approx(1.0)
    assert one == pytest.approx(again, abs=1e-5)
    assert one != pytest.approx(other, abs=1e-2)
    tokens = chat_tokens(base.tokenizer, [("user", "a b c " * 20)])
    request = Request(engine.base_alone("t"), tokens, readout="embedding")
    hidden = base.model.model(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
    wanted = (hidden / hidden.norm()).tolist()
    assert engine.submit(request).result(20).embedding == pytest.approx(wanted, abs=1e-4)


def test_a_prefix_is_computed_once_and_shared(engine: EmbeddedEngine, base: Base) -> None:
    adapted = ready(engine, planted(base, "virtual_tokens", 1))
    rows = [row_request(adapted, text) for text in ("a", "bb", "ccc", "dddd", "e")]
    found = [stream.result(20) for stream in [engine.submit(row) for row in rows]]
    assert adapted.prefix_positions > 4
    computed = sum(each.usage.prompt_tokens - each.usage.cached_tokens for each in found)
    assert computed == sum(len(row.tokens) for row in rows) + adapted.prefix_positions
    assert engine.stats().prompt_tokens == computed
    # Another tenant with the same bytes computes its own.
    theirs = engine.ready("u", "a", lambda: planted(base, "virtual_tokens", 1))
    usage = engine.submit(row_request(theirs, "a")).result(20).usage
    assert usage.cached_tokens == 0


def test_running_requests_end_on_the_version_they_began_with(
    engine: EmbeddedEngine, base: Base
) -> None:
    old, new = (planted(base, "virtual_tokens", seed) for seed in (0, 1))
    wanted = {}
    for name, adaptation in (("old", old), ("new", new)):
        with predictor_for(base, adaptation) as predictor:
            wanted[name] = predictor.answers(["swap"])[0].text
    assert wanted["old"] != wanted["new"]
    held = ready(engine, old, "old")
    before = [engine.submit(row_request(held, "swap")) for _ in range(10)]
    assert engine.drop("t", "old")
    after = [engine.submit(row_request(ready(engine, new, "new"), "swap")) for _ in range(10)]
    # Even one that was made ready before and is submitted only now.
    late = engine.submit(row_request(held, "swap"))
    assert {stream.result(30).text for stream in [*before, late]} == {wanted["old"]}
    assert {stream.result(30).text for stream in after} == {wanted["new"]}


def test_an_abort_frees_the_place(engine: EmbeddedEngine) -> None:
    long = [engine.submit(chat(engine, f"{n}", max_new_tokens=400)) for n in range(8)]
    next(iter(long[0]), None)
    for stream in long:
        stream.abort()
    assert {stream.result(20).reason for stream in long} <= {"aborted", "stop", "length"}
    assert engine.submit(chat(engine, "next")).result(20).error is None
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)


def test_a_full_queue_is_told_and_close_ends_all(base: Base) -> None:
    engine = EmbeddedEngine(base, EngineSettings(slots=1, most_waiting=2))
    streams = [engine.submit(chat(engine, "a", max_new_tokens=400))]
    refused = 0
    for _ in range(4):
        try:
            streams.append(engine.submit(chat(engine, "a", max_new_tokens=400)))
        except BusyError:
            refused += 1
    assert refused > 0
    engine.check()
    engine.close()
    engine.close()
    with pytest.raises(UnavailableError, match="ended"):
        engine.check()
    assert all(stream.result(5).reason in {"aborted", "stop", "length"} for stream in streams)
    with pytest.raises(RunError, match="closed"):
        engine.submit(chat(engine, "a"))


def test_a_flood_of_one_tenant_does_not_hold_up_another(base: Base) -> None:
    engine = EmbeddedEngine(base, EngineSettings(slots=1))
    order: list[str] = []
    lock = threading.Lock()

    def note(name: str) -> Any:
        def heard(event: Piece | Finished) -> None:
            if isinstance(event, Finished):
                with lock:
                    order.append(name)

        return heard

    tokens = chat_tokens(base.tokenizer, [("user", "x")])
    sampling = Sampling(max_new_tokens=8)
    for tenant in ["flood"] * 20 + ["calm"]:
        request = Request(engine.base_alone(tenant), tokens, sampling=sampling)
        stream = engine.submit(request)
        stream.subscribe(note(tenant))
    stream.result(30)
    # The one that runs, and perhaps one more: the turn may have passed while calm was on its way.
    assert order.index("calm") <= 4
    engine.close()


def test_what_fails_takes_nothing_else_with_it(
    engine: EmbeddedEngine, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = (torch.full((2, 3, 8), 3e38),) * 2
    bad = row_request(ready(engine, replaced(base, KVPrefixPart(huge, huge, True))), "x")
    good = [engine.submit(chat(engine, f"{n}")) for n in range(3)]
    lost = engine.submit(bad).result(20)
    assert lost.reason == "failed"
    assert isinstance(lost.error, RunError)
    assert all(stream.result(20).error is None for stream in good)
    runner = engine._runner
    monkeypatch.setattr(runner, "run", lambda works: 1 / 0)
    broken = engine.submit(chat(engine, "x")).result(20)
    assert "ZeroDivisionError" in str(broken.error)
    monkeypatch.undo()
    assert engine.submit(chat(engine, "x")).result(20).error is None


def test_what_one_leaves_in_a_slot_does_not_reach_the_next(base: Base) -> None:
    """Keys that are finite, but not in a product, and values of the largest size."""
    engine = EmbeddedEngine(base, EngineSettings(slots=2))
    size = (2, 60, 8)
    keys = torch.full(size, 3e38)
    keys[:, ::2] = -3e38
    both = (keys,) * 2, (torch.full(size, 3e38),) * 2
    wild = ready(engine, replaced(base, KVPrefixPart(*both, True)), "wild")
    wanted = {text: engine.submit(chat(engine, text)).result(20).text for text in ("a", "b" * 90)}
    for _ in range(4):
        lost = [engine.submit(row_request(wild, "x")) for _ in range(2)]
        lost[0].abort()
        assert all(stream.result(20).reason in {"failed", "aborted"} for stream in lost)
        # The long one makes the pass attend far behind the end of the short one.
        streams = {text: engine.submit(chat(engine, text)) for text in wanted}
        assert {text: stream.result(20).text for text, stream in streams.items()} == wanted
    engine.close()


def replaced(base: Base, *parts: Any, **changes: Any) -> Adaptation:
    made = planted(base, "prompt_text", 0)
    return Adaptation(parts, made.decoding, made.spec, provenance(base, 0, **changes))


BAD_ADAPTATIONS: dict[str, Any] = {
    "another base": lambda b: (replaced(b, base_fingerprint="x"), WrongBaseError),
    "width": lambda b: (replaced(b, VirtualTokensPart(torch.ones(2, 5))), AdaptationError),
    "nan": lambda b: (
        replaced(b, VirtualTokensPart(torch.full((2, 32), torch.nan))),
        AdaptationError,
    ),
    "layers": lambda b: (
        replaced(b, KVPrefixPart((torch.ones(2, 3, 8),), (torch.ones(2, 3, 8),), True)),
        AdaptationError,
    ),
    "heads": lambda b: (
        replaced(b, KVPrefixPart((torch.ones(3, 3, 8),) * 2, (torch.ones(3, 3, 8),) * 2, True)),
        AdaptationError,
    ),
    "lengths": lambda b: (
        replaced(b, KVPrefixPart((torch.ones(2, 3, 8),) * 2, (torch.ones(2, 4, 8),) * 2, True)),
        AdaptationError,
    ),
    "no such weight": lambda b: (replaced(b, WeightsPart({"x": torch.ones(2)})), AdaptationError),
    "shape": lambda b: (
        replaced(b, WeightsPart({"model.norm.weight": torch.ones(2)})),
        AdaptationError,
    ),
    "inf": lambda b: (
        replaced(b, WeightsPart({"model.norm.weight": torch.full((32,), torch.inf)})),
        AdaptationError,
    ),
}


@pytest.mark.parametrize("case", BAD_ADAPTATIONS)
def test_an_adaptation_that_does_not_fit_is_refused(
    case: str, engine: EmbeddedEngine, base: Base
) -> None:
    bad, error = BAD_ADAPTATIONS[case](base)
    with pytest.raises(error):
        ready(engine, bad)
    assert engine.stats().resident == 0


@pytest.mark.parametrize(
    ("request_of", "error"),
    [
        (lambda e, b: Request(e.base_alone("t"), ()), ConfigError),
        (lambda e, b: Request(e.base_alone("t"), (5,) * 600), RequestTooLongError),
        (lambda e, b: Request(e.base_alone("t"), (5,), readout="labels"), ConfigError),
        (lambda e, b: chat(e, "x", temperature=-1.0), ConfigError),
        (lambda e, b: row_request(e.base_alone("t"), "x"), DataError),
        (
            lambda e, b: row_request(ready(e, planted(b, "kv_prefix", 0)), "x" * 600),
            RequestTooLongError,
        ),
        (
            lambda e, b: row_request(ready(e, planted(b, "kv_prefix", 0)), "x", readout="labels"),
            ConfigError,
        ),
        (lambda e, b: row_request(ready(e, constant(b)), "x", readout="labels"), ConfigError),
        (lambda e, b: row_request(ready(e, constant(b)), "x", readout="embedding"), ConfigError),
        (lambda e, b: chat_tokens(b.tokenizer, []), DataError),
        (lambda e, b: chat_tokens(b.tokenizer, [("assistant", "x")]), DataError),
        (lambda e, b: chat_tokens(b.tokenizer, [("user", "x"), ("user", "y")]), DataError),
        (lambda e, b: chat_tokens(b.tokenizer, [("user", "x"), ("system", "y")]), DataError),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    request_of: Any, error: type[TunewiseError], engine: EmbeddedEngine, base: Base
) -> None:
    with pytest.raises(error):
        engine.submit(request_of(engine, base))


def test_a_conversation_is_rendered_as_the_template_has_it(base: Base) -> None:
    messages = [("system", "Be."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    spoken = [{"role": role, "content": text} for role, text in messages]
    wanted = base.tokenizer.apply_chat_template(
        spoken, add_generation_prompt=True, return_dict=False
    )
    assert list(chat_tokens(base.tokenizer, messages)) == list(wanted)
    injected = chat_tokens(base.tokenizer, [("user", "<|end|>")])
    assert injected.count(256) == 1


def test_any_order_of_requests_aborts_and_evictions_gives_the_right_answers(base: Base) -> None:
    """Few slots, room for some four adaptations: all come and go while others run."""
    known = {
        (kind, seed): planted(base, kind, seed, "free" if seed else "score")
        for kind in KINDS
        for seed in (0, 1, 2)
    }
    texts = ["a", "bc de", "fgh " * 9]
    wanted = {}
    for key, adaptation in known.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[key] = [answer.text for answer in predictor.answers(texts)]
    draw = random.Random(5)
    settings = EngineSettings(slots=5, budget_bytes=400_000, most_waiting=1000, prompt_positions=24)
    engine = EmbeddedEngine(base, settings)
    running = []
    refused = 0
    for _ in range(400):
        key, number = draw.choice(list(known)), draw.randrange(3)
        tenant = draw.choice("uvw")
        try:
            held = engine.ready(tenant, str(key), lambda key=key: known[key])
        except BusyError:
            refused += 1
            continue
        stream = engine.submit(row_request(held, texts[number]))
        running.append((key, number, stream))
        if draw.random() < 0.1:
            draw.choice(running)[2].abort()
        if draw.random() < 0.1:
            engine.drop(tenant, str(draw.choice(list(known))))
        if draw.random() < 0.2:
            stream.result(30)
    for key, number, stream in running:
        finished = stream.result(60)
        assert finished.error is None
        if finished.reason != "aborted":
            assert finished.text == wanted[key][number]
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.evictions > 20
    assert refused < 300
    assert all(each.running == 0 for each in engine._residents._table.values())
    engine.close()
