"""Figures of many tenants: each its own, all together; one's own as cheap as if it were alone."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.serve.http.stand_ins import StandInEngine

from tunewise.serve.http.figures import Figures, text_of
from tunewise.serve.http.turnstile import Turnstile

SPENT = {"first_ms": 3.0, "prompt_tokens": 5, "cached_tokens": 2, "completion_tokens": 4}


def figures(tokenizer: Any, tenants: int) -> Figures:
    queue = Turnstile(1, waiting=1, waiting_per_tenant=1)
    made = Figures(StandInEngine(tokenizer), queue, queue)  # type: ignore[arg-type]  # as `Engine`
    for number in range(tenants):
        for endpoint in ("/v1/completions", "/v1/models"):
            made.count(f"t{number}", endpoint, 200, "", 0.1, SPENT)
    return made


def samples(made: Figures, tenant: str | None) -> dict[tuple[str, str, str], float]:
    text = text_of(made.metrics(tenant)).decode()
    # Each name once, as Prometheus wants it.
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    return {
        (each.name, each.labels.get("tenant", ""), each.labels.get("endpoint", "")): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def test_all_is_what_each_has_and_the_engines(tokenizer: Any) -> None:
    made = figures(tokenizer, 3)
    made.count("t0", "/v1/models", 404, "not_found", 0.1, {})
    whole, own = samples(made, None), [samples(made, f"t{number}") for number in range(3)]
    for number, each in enumerate(own):
        assert {tenant for _, tenant, _ in each} == {f"t{number}"}
        assert each.items() <= whole.items()
    assert {key for key in whole if key[1]} == {key for each in own for key in each}
    assert ("tunewise_engine_slots", "", "") in whole
    assert own[1]["tunewise_first_piece_seconds_count", "t1", ""] == 2
    assert ("tunewise_problems_total", "t0", "") in own[0]
    assert ("tunewise_problems_total", "t1", "") not in whole
    assert samples(made, "nobody") == {}


def test_ones_own_cost_the_same_among_thousands(tokenizer: Any) -> None:
    def seconds(made: Figures) -> float:
        began = time.process_time()
        for _ in range(20):
            text_of(made.metrics("t1"))
        return time.process_time() - began

    alone, among = figures(tokenizer, 2), figures(tokenizer, 2000)
    assert min(seconds(among) for _ in range(3)) < 5 * min(seconds(alone) for _ in range(3))
