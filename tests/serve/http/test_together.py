"""An adaptation with several prompts over HTTP: `predict`'s answer, and all of it counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.serve.engine.planted import tiny
from tests.serve.engine.test_together import ensemble
from tests.serve.http.conftest import Build, House
from tests.serve.http.test_chaos_real import real

from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.store import save
from tunewise.errors import RequestTooLongError
from tunewise.serve.http.work import _facts, _row
from tunewise.serve.requests import row_request


def test_what_is_asked_over_http(build: Build, listen: Callable[[House], House]) -> None:
    base = tiny()
    adaptation = ensemble(base)
    with predictor_for(base, adaptation) as predictor:
        (wanted,) = predictor.answers(["abc0"])
    house = listen(real(build, base, 2**28))
    save(adaptation, house.folder / "made")
    made = house.shelf.publish("acme", "three", house.folder / "made", actor="test", notes="")
    house.shelf.promote(
        "acme", "three", str(made.number), alias="production", actor="test", reason="a test"
    )
    body = {"model": "acme/three", "messages": [{"role": "user", "content": "abc0"}]}
    with house.client() as client:
        chat = client.post("/v1/chat/completions", json=body).json()
        labels = client.post("/v1/classify", json={"model": "acme/three", "input": "abc0"}).json()
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
        refused = client.post("/v1/chat/completions", json=body | {"response_format": schema})
    assert chat["choices"][0]["message"]["content"] == wanted.text
    best = labels["data"][0]
    assert best["label"] == wanted.text
    assert best["probability"] == pytest.approx(wanted.probability, rel=2e-3)
    assert refused.status_code == 400
    engine = house.service.engine
    ready = engine.ready("acme", made.digest, lambda: adaptation)
    request = row_request(ready, "abc0")
    every = sum(each.prefix_positions for each in (ready, *ready.others))
    every += sum(len(tokens) for tokens in (request.tokens, *request.others))
    assert chat["usage"]["prompt_tokens"] == labels["usage"]["prompt_tokens"] == every
    # What a tenant's tokens are held against before it runs.
    facts = _facts(ready)
    assert all(each.held is each.renderer is None for each in (facts, *facts.others))
    row = _row(request, facts, 16, 512)
    assert row.most_tokens == every + 16
    longest = max(
        each.prefix_positions + len(tokens)
        for each, tokens in zip(
            (ready, *ready.others), (request.tokens, *request.others), strict=True
        )
    )
    assert _row(request, facts, 16, longest + 1).most_tokens == every + 1
    with pytest.raises(RequestTooLongError):
        _row(request, facts, 16, longest)
    engine.close()
