"""The described interface, driven by what its description admits and by what it does not."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis.generation import GenerationMode
from tests.serve.http.conftest import House

KNOWN = {  # values that lead further in than random ones
    "model": ["acme/tickets", "acme/labels", "tiny", "acme/tickets@1"],
    "name": ["tickets", "labels"],
    "version": ["1"],
}
EXAMPLES = 8


@schemathesis.serializer("application/zip")
def zipped(_: Any, value: Any) -> bytes:
    """Bytes are sent as they are."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def steer(case: Any, number: int) -> None:
    """Put known names into every second request."""
    if number % 2:
        return
    for where in (case.path_parameters, case.body):
        if isinstance(where, dict):
            for name, values in KNOWN.items():
                if name in where:
                    where[name] = values[number // 2 % len(values)]


def drive(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> set[int]:
    """Send requests to one address; the statuses that came back."""
    seen: list[int] = []

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        steer(case, len(seen))
        answer = case.call(headers=headers)
        seen.append(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # an address that takes nothing
        check()
    return set(seen)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_server_fail(house: House, mode: GenerationMode) -> None:
    headers = {"authorization": f"Bearer {house.keys['acme']}"}
    schema = schemathesis.openapi.from_url(f"{house.url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    asked = {f"{each.method} {each.path}": drive(each, mode, headers) for each in operations}
    assert len(asked) >= 16
    if mode is GenerationMode.POSITIVE:
        reached = {name for name, statuses in asked.items() if 200 in statuses}
        assert len(reached) >= 8, asked
    with house.client() as client:
        assert client.get("/readyz").status_code == 200
