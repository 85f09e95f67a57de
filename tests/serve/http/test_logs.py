"""What the log tells of every request, and what it never tells."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.serve.http.conftest import Build, House
from tests.serve.http.test_faults import CHAT, Listen, until

from tunewise.errors import RunError
from tunewise.serve.http.logs import JsonLines, fault_fields, handlers_to
from tunewise.serve.http.settings import Settings


class Lines(logging.Handler):
    """Keeps what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[Lines]:
    handler = Lines()
    loggers = [logging.getLogger("tunewise.serve"), logging.getLogger("uvicorn.error")]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG)
    yield handler
    for each in loggers:
        each.removeHandler(handler)


SECRET = "my-mothers-maiden-name"


def ask_all_sorts(house: House, key: str) -> None:
    message = {"messages": [{"role": "user", "content": SECRET}]}
    bodies: list[Any] = [
        {"model": "acme/tickets", **message},
        {"model": "acme/tickets", "stream": True, **message},
        {"model": f"acme/{key}", **message},
        {"model": SECRET, **message},
        {"model": "acme/tickets", "messages": [{"role": SECRET, "content": SECRET}]},
        {"model": "acme/tickets", SECRET: 1, **message},
        {"model": "acme/tickets", "messages": [{"role": "user", "content": f"fail {SECRET}"}]},
        {"model": "acme/tickets", "user": SECRET, "temperature": 9, **message},
    ]
    with house.client(key=key) as client:
        for body in bodies:
            client.post("/v1/chat/completions", json=body, headers={"x-request-id": key})
        client.post("/v1/chat/completions", content=f"{{{SECRET}")
        client.get(f"/v1/{SECRET}/{key}?{SECRET}={key}")
        client.post("/v1/classify", json={"model": "acme/labels", "input": [SECRET]})


def test_logs_hold_no_key_and_no_prompt(
    house: House, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_all_sorts(house, house.keys["acme"])
    ask_all_sorts(house, house.keys["acme"][:-1] + "_")
    real = house.engine.__class__.submit

    def broken(engine: Any, request: Any) -> Any:
        if SECRET in request.text:
            raise ValueError(f"choked on {request.text}")
        return real(engine, request)

    monkeypatch.setattr(house.engine.__class__, "submit", broken)
    ask_all_sorts(house, house.keys["acme"])
    whole = "\n".join(logged.lines)
    until(lambda: len(logged.lines) >= 30)
    assert SECRET not in whole
    assert house.keys["acme"] not in whole
    assert house.keys["acme"].split("_", 2)[2] not in whole
    assert "Bearer" not in whole
    lines = [json.loads(line) for line in logged.lines]
    done = [line for line in lines if line.get("status") == 200]
    assert done[0]["tenant"] == "acme"
    assert done[0]["model"] == "acme/tickets@1"
    assert done[0]["completion_tokens"] > 0
    assert {"ms", "first_ms", "queued_ms", "adaptation_bytes", "request", "key"} <= done[0].keys()


def test_prompts_are_logged_where_asked_for(build: Build, listen: Listen, logged: Lines) -> None:
    house = listen(build(Settings(log_prompts=True)))
    house.publish("acme", "tickets", "acme one")
    with house.client() as client:
        client.post("/v1/chat/completions", json=CHAT)

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in list(logged.lines)]
        return [line for line in lines if line.get("endpoint") == "/v1/chat/completions"]

    # The line is written once the answer has left.
    until(lambda: len(told()) == 1)
    (line,) = told()
    assert line["prompt"] == ["x" * 100]
    assert line["answer"] == ["[acme one] " + "x" * 100]


def test_foreign_messages_are_left_out_of_the_log_and_ours_kept() -> None:
    assert "secret" not in str(fault_fields(ValueError("secret")))
    assert fault_fields(RunError("told", found="where"))["found"] == "where"


def request_lines(logged: Lines) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in list(logged.lines)]
    return [line for line in lines if line.get("event") == "request"]


def test_a_line_tells_why_a_request_was_refused(house: House, logged: Lines) -> None:
    with house.client() as client:
        client.post("/v1/chat/completions", json=CHAT)
        client.post("/v1/chat/completions", json={**CHAT, "model": "acme/nothing"})
        client.post("/v1/chat/completions", json={**CHAT, "n": 2})
        client.get("/v1/nothing")
        client.get("/v1/models", headers={"authorization": "Bearer nobody"})
    until(lambda: len(request_lines(logged)) == 5)
    told = [(line["status"], line["code"]) for line in request_lines(logged)]
    assert told == [
        (200, ""),
        (404, "model_not_found"),
        (400, "invalid_value"),
        (404, "not_found"),
        (401, "invalid_api_key"),
    ]


def test_an_answer_that_is_broken_off_is_told_though_its_status_was_good(
    build: Build, listen: Listen, logged: Lines
) -> None:
    # Begins after a second and would go on for minutes.
    house = listen(build(Settings(request_seconds=12.0), seconds=1.0, context=100_000))
    with house.client() as client:
        body = {"model": "tiny", "prompt": "x" * 1_000, "stream": True}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200
        until(lambda: len(request_lines(logged)) == 1)
        (line,) = request_lines(logged)
        assert (line["status"], line["code"]) == (200, "timeout")
        faults = [each for each in map(json.loads, logged.lines) if each.get("event") == "fault"]
        assert [each["request"] for each in faults] == [line["request"]]
        figures = client.get("/metrics").text
    assert 'tunewise_problems_total{code="timeout",tenant="acme"} 1.0' in figures


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """Everybody's loggers as they were, afterwards."""
    loggers = [logging.getLogger(name) for name in
               ("", "tunewise.serve", "uvicorn", "uvicorn.error", "uvicorn.access")]  # fmt: skip
    before = [(each.handlers, each.level, each.propagate, each.disabled) for each in loggers]
    yield
    for each, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        each.handlers, each.propagate, each.disabled = handlers, propagate, disabled
        each.setLevel(level)


def test_what_others_warn_of_is_a_line_too(plain_logging: None) -> None:
    stream = io.StringIO()
    handlers_to(stream)
    logging.getLogger("opentelemetry.exporter").warning("the collector is away")
    logging.getLogger("asyncio").error("never retrieved\nfuture: ValueError('my secret prompt')")
    logging.getLogger("elsewhere").info("not worth a line")
    logging.getLogger("tunewise.serve").info("ours")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [
        ("opentelemetry.exporter", "the collector is away"),
        ("asyncio", "never retrieved"),
        ("tunewise.serve", "ours"),
    ]
