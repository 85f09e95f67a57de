"""Which answers are remembered for an outcome, and whose are forgotten."""

from __future__ import annotations

import pytest

from tunewise.errors import UnknownNameError
from tunewise.serve.http.models import Model
from tunewise.serve.http.outcomes import Answers


def model(tenant: str) -> Model:
    return Model(tenant, f"{tenant}/x@1", f"{tenant}/x")


def test_who_gets_many_answers_forgets_its_own_only() -> None:
    answers = Answers(100)
    for number in range(10):
        answers.put(f"quiet {number}", "quiet", model("quiet"))
    for number in range(1000):
        answers.put(f"loud {number}", "loud", model("loud"))
    for number in range(10):
        assert answers.take(f"quiet {number}", "quiet").model.tenant == "quiet"
    assert answers.take("loud 910", "loud").model.tenant == "loud"
    with pytest.raises(UnknownNameError):
        answers.take("loud 909", "loud")


def test_many_tenants_share_and_the_oldest_go_first() -> None:
    answers = Answers(30)
    for number in range(40):
        for tenant in "abc":
            answers.put(f"{tenant}{number}", tenant, model(tenant))
    for tenant in "abc":
        for number in range(30, 40):
            answers.take(f"{tenant}{number}", tenant)
        with pytest.raises(UnknownNameError):
            answers.take(f"{tenant}28", tenant)


def test_an_answer_is_its_own_tenants_and_takes_one_outcome() -> None:
    answers = Answers(2)
    answers.put("one", "acme", model("acme"))
    for tenant in ("beta", ""):
        with pytest.raises(UnknownNameError, match="answer"):
            answers.take("one", tenant)
    held = answers.take("one", "acme")
    with pytest.raises(UnknownNameError, match="without an outcome"):
        answers.take("one", "acme")
    held.told = False  # it could not be stored
    answers.take("one", "acme")
