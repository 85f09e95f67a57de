"""The official client, unchanged, against the server."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from tests.serve.http.conftest import House, adaptation

from tunewise.adaptation.store import save


@pytest.fixture
def client(house: House) -> openai.OpenAI:
    return openai.OpenAI(api_key=house.keys["acme"], base_url=f"{house.url}/v1", max_retries=0)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_chat_is_answered_by_the_adaptation(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="acme/tickets", messages=user("hello"))
    assert answer.choices[0].message.content == "[acme one] hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "acme/tickets@1"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 4


def test_a_streamed_chat_is_the_same_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="acme/tickets",
        messages=user("hello"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "[acme one] hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 4
    assert len({c.id for c in chunks}) == 1


def test_the_base_reads_a_conversation(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "system", "content": "be short"},
            *user("one"),
            {"role": "assistant", "content": "two"},
            *user("three"),
        ],
        max_tokens=100,
    )
    told = answer.choices[0].message.content
    assert told == (
        "[base] <|system|>be short<|end|><|user|>one<|end|><|assistant|>two<|end|>"
        "<|user|>three<|end|><|assistant|>"
    )


def test_completions_of_several_prompts_keep_their_order(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="acme/tickets", prompt=["a", "b", "c"])
    assert [c.text for c in answer.choices] == [f"[acme one] {t}" for t in "abc"]
    assert [c.index for c in answer.choices] == [0, 1, 2]


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="acme/tickets", prompt="a", stream=True)
    assert "".join(c.choices[0].text for c in stream) == "[acme one] a"


def test_the_base_continues_text_and_tokens(client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="ab <|end|>", max_tokens=50)
    assert text.choices[0].text == "[base] ab <|end|>"
    tokens = client.completions.create(model="tiny", prompt=[66, 67], max_tokens=50)
    assert tokens.choices[0].text.startswith("[base] ")
    assert tokens.usage.prompt_tokens == 2


def test_log_probabilities_come_with_their_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="acme/tickets", messages=user("hi"), logprobs=True, top_logprobs=1
    )
    content = answer.choices[0].logprobs.content
    assert "".join(each.token for each in content) == answer.choices[0].message.content
    assert content[0].logprob == -0.5
    assert content[0].top_logprobs[0].token == content[0].token
    texts = client.completions.create(model="acme/tickets", prompt="hi", logprobs=1)
    assert texts.choices[0].logprobs.text_offset[:2] == [0, 4]


def test_the_length_limit_is_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="acme/tickets", messages=user("hello"), max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "[acme on"


def test_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    # The client asks for base64 by itself and decodes it.
    packed = client.embeddings.create(model="tiny", input=["ab", "abc"])
    plain = client.embeddings.create(model="tiny", input=["ab", "abc"], encoding_format="float")
    assert [e.embedding for e in packed.data] == [e.embedding for e in plain.data]
    assert packed.data[0].embedding == [0.5, -1.0, 2.0]


def test_models_are_the_base_and_the_tenants_own(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny", "acme/labels", "acme/tickets"]
    assert client.models.retrieve("acme/tickets").owned_by == "acme"
    assert client.models.retrieve("tiny").id == "tiny"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    nothing: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "logit_bias": None,
        "frequency_penalty": 0,
        "stop": None,
        "n": 1,
    }
    good = {"model": "acme/tickets", "messages": user("hello")}
    plain = client.chat.completions.create(**good)
    asked = client.chat.completions.create(**good, **nothing)
    assert asked.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "acme/nothing"}, openai.NotFoundError),
        ({"model": "beta/tickets"}, openai.NotFoundError),
        ({"model": "acme/tickets@99"}, openai.NotFoundError),
        ({"model": "../../etc/passwd"}, openai.NotFoundError),
        ({"model": "acme/tickets@"}, openai.NotFoundError),
        ({"temperature": 3.0}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"top_p": 0}, openai.BadRequestError),
        ({"max_tokens": 0}, openai.BadRequestError),
        ({"max_tokens": 5, "max_completion_tokens": 5}, openai.BadRequestError),
        ({"stop": ["a"] * 5}, openai.BadRequestError),
        ({"stop": ""}, openai.BadRequestError),
        ({"n": 2}, openai.BadRequestError),
        ({"top_logprobs": 3}, openai.BadRequestError),
        ({"tools": [TOOL]}, openai.BadRequestError),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError),
        ({"tool_choice": "auto"}, openai.BadRequestError),
        ({"extra_body": {"unknown": 1}}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "fail"}]}, openai.InternalServerError),
        ({"response_format": {"type": "xml"}}, openai.BadRequestError),
        ({"seed": 2**70}, openai.BadRequestError),
    ],
)
def test_what_is_wrong_is_told_in_the_clients_own_errors(
    client: openai.OpenAI, change: dict[str, object], error: type[openai.APIStatusError]
) -> None:
    good = {"model": "acme/tickets", "messages": user("hello")}
    with pytest.raises(error) as told:
        client.chat.completions.create(**{**good, **change})  # type: ignore[call-overload]  # bad
    assert told.value.body["message"]
    with pytest.raises(error):
        client.chat.completions.create(**{**good, **change, "stream": True})  # type: ignore[call-overload]  # bad


def test_a_name_without_a_promoted_version_says_what_is_missing(house: House) -> None:
    folder = house.folder / "made" / "new"
    save(adaptation("new"), folder)
    house.shelf.publish("acme", "new", folder, actor="test", notes="")
    client = openai.OpenAI(api_key=house.keys["acme"], base_url=f"{house.url}/v1", max_retries=0)
    with pytest.raises(openai.NotFoundError, match=r"name one, such as tenant/name@1, or promote"):
        client.chat.completions.create(model="acme/new", messages=user("hi"))
    client.chat.completions.create(model="acme/new@1", messages=user("hi"))


def test_a_wrong_key_is_told(house: House) -> None:
    for key in ("sk-nothing", "tw_" + "0" * 12 + "_" + "a" * 43):
        client = openai.OpenAI(api_key=key, base_url=f"{house.url}/v1", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_many_asynchronous_streams_at_once(house: House) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        stream = await client.chat.completions.create(
            model="acme/tickets", messages=user(f"n{number}"), stream=True
        )
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == f"[acme one] n{number}"

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(
            api_key=house.keys["acme"], base_url=f"{house.url}/v1", max_retries=0
        ) as client:
            await asyncio.gather(*(one(client, number) for number in range(40)))

    asyncio.run(all_of_them())
    assert house.service.turnstile.working == 0
    assert house.service.limiter.streams() == {}
