"""The official client against the embedded engine with a tiny model: what only an engine can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx2 as httpx
import openai
import pytest
from tests.laws.fitting import base_of
from tests.serve.http.conftest import Build, House

from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "level": {"enum": ["low", "high"]}},
    "required": ["ok", "level"],
    "additionalProperties": False,
}
TEXT = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(base_of("llama"), EngineSettings(slots=4))
    yield made
    made.close()


@pytest.fixture
def client(
    build: Build, listen: Callable[[House], House], engine: EmbeddedEngine
) -> Iterator[openai.OpenAI]:
    house = build()
    house.service.engine = engine
    # The server closes what it was given when it stops; this engine serves several tests.
    house.service._close = house.store.close  # type: ignore[method-assign]  # see above
    url = listen(house).url
    with openai.OpenAI(api_key=house.keys["acme"], base_url=f"{url}/v1", max_retries=0) as made:
        yield made


def test_a_schema_is_followed(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for temperature in (0.0, 1.5):
        answer = client.chat.completions.create(
            model="base",
            messages=TEXT,
            max_tokens=60,
            temperature=temperature,
            response_format=form,  # type: ignore[arg-type]  # a plain dictionary of it
        )
        content = json.loads(answer.choices[0].message.content)
        assert set(content) == {"ok", "level"}
        assert content["level"] in ("low", "high")


def test_any_object_is_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="base", messages=TEXT, max_tokens=60, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_stream_is_the_same_text_and_a_seed_the_same_draw(client: openai.OpenAI) -> None:
    asked = {"model": "base", "prompt": "abc", "max_tokens": 40, "temperature": 1.0, "seed": 7}
    whole = client.completions.create(**asked)  # type: ignore[call-overload]  # as above
    again = client.completions.create(**asked)  # type: ignore[call-overload]  # as above
    stream = client.completions.create(**asked, stream=True)  # type: ignore[call-overload]  # as above
    assert again.choices[0].text == whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_a_stop_ends_before_its_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="base", prompt="abc", max_tokens=40).choices[0].text
    assert len(whole) > 6
    stop = whole[4:6]
    cut = client.completions.create(model="base", prompt="abc", max_tokens=40, stop=stop)
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities_are_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="base", messages=TEXT, max_tokens=8, logprobs=True, top_logprobs=5
    )
    for each in answer.choices[0].logprobs.content:
        assert each.logprob <= 0
        assert len(each.top_logprobs) == 5
        assert each.top_logprobs[0].logprob == pytest.approx(each.logprob)


def test_embeddings_have_the_bases_width(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="base", input=["one", "two"])
    assert [len(each.embedding) for each in found.data] == [32, 32]
    assert found.data[0].embedding != found.data[1].embedding


@pytest.mark.parametrize(
    "change",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "nonsense"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "string", "pattern": "(" * 50}}}},
        # No document ends.
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "$ref": "#"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "array", "items": {"$ref": "#"}, "minItems": 1}}}},
        {"messages": [{"role": "user", "content": "x" * 5000}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
    ],
)  # fmt: skip
def test_what_the_engine_cannot_do_is_the_callers_fault(
    client: openai.OpenAI, change: dict[str, object]
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{"model": "base", "messages": TEXT, **change})  # type: ignore[call-overload]  # bad


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", '{"model": "base", "messages": [{"role": "user", '
                             '"content": "\\ud800"}]}'),
        ("chat/completions", '{"model": "base", "messages": [{"role": "user", "content": [{"type": '
                             '"text", "text": "\\ud800"}]}]}'),
        ("completions", '{"model": "base", "prompt": "\\ud800"}'),
        ("embeddings", '{"model": "base", "input": ["x", "\\udfff"]}'),
        ("classify", '{"model": "base", "input": "\\udfff"}'),
        ("completions", '{"model": "base", "prompt": "x", "seed": ' + "9" * 5000 + "}"),
        ("completions", '{"model": "base", "prompt": '),
    ],
)  # fmt: skip
def test_what_json_can_say_and_no_tokenizer_read_is_the_callers_fault(
    client: openai.OpenAI, path: str, body: str
) -> None:
    headers = {"authorization": f"Bearer {client.api_key}", "content-type": "application/json"}
    answer = httpx.post(f"{client.base_url}{path}", content=body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_value"
