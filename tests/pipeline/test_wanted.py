"""What a configuration asks for."""

from __future__ import annotations

from tunewise.compare.priorities import Priorities
from tunewise.config import RunConfig
from tunewise.task.options import TaskOptions
from tunewise.wanted import questions_of


def test_the_price_of_the_machine_reaches_what_a_fit_costs() -> None:
    asked = ("cost_to_fit", "fragility")
    config = RunConfig(source="rows.jsonl", options=TaskOptions(), questions=asked)
    (fit, fragile) = questions_of(config, Priorities(price_an_hour=1.5))
    assert fit.settings.model_dump()["price_per_hour"] == 1.5
    assert "price_per_hour" not in fragile.settings.model_dump()
    (unpriced, _) = questions_of(config)
    assert unpriced.settings.model_dump()["price_per_hour"] is None
    told = config.model_copy(update={"question_settings": {"cost_to_fit": {"price_per_hour": 0.5}}})
    assert (
        questions_of(told, Priorities(price_an_hour=1.5))[0].settings.model_dump()["price_per_hour"]
        == 0.5
    )
