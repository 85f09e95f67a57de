"""What production means: the gate, splits, going back, and who said so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.serve.registry.samples import OVERRIDDEN, Clock, registered, scores

from tunewise.errors import ConfigError, GateRefusedError, NotRegisteredError, RegistryError
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.lookup import draw
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.records import Alias, Target
from tunewise.serve.registry.registry import Registry
from tunewise.serve.registry.trials import Rule

ROWS = [f"row{number}" for number in range(400)]


def three(registry: Registry, tmp_path: Path) -> None:
    for answer in ("good", "bad", "so so"):
        registered(registry, tmp_path, "acme/x", answer)


def measured(registry: Registry, number: int, right: np.ndarray, rows: str = "r") -> None:
    values = dict(zip(ROWS, right.astype(float).tolist(), strict=False))
    registry.attach(registry.version(f"acme/x@{number}"), scores(values, rows), "ann")


def test_production_moves_and_versions_do_not(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    with pytest.raises(NotRegisteredError):
        registry.resolve("acme/x")
    before = registry.changes()
    alias, verdict = registry.promote("acme/x@1", "ann")
    assert verdict.passed
    assert alias.targets == (Target(1, 1.0),)
    assert registry.changes() > before
    found = registry.resolve("acme/x")
    assert (found.version.number, found.alias, found.revision) == (1, "production", 1)
    assert found.folder is not None
    assert found.folder.is_dir()
    registry.promote("acme/x@2", "bob", OVERRIDDEN)
    assert registry.resolve("acme/x").version.number == 2
    assert registry.resolve("acme/x@1").version.number == 1


def test_going_back_again_and_again(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    for number in (1, 2, 3):
        registry.promote(f"acme/x@{number}", "ann", OVERRIDDEN)
    assert registry.rollback("acme/x", "bob", reason="it stammers").stable == 2
    assert registry.rollback("acme/x", "bob").stable == 1
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback("acme/x", "bob")
    registry.promote("acme/x@3", "ann", OVERRIDDEN)
    assert registry.rollback("acme/x", "bob").stable == 1
    actions = [(each["action"], each["by"]) for each in registry.history("acme/x", "production")]
    assert actions == [("promote", "ann")] * 3 + [("rollback", "bob")] * 2 + [
        ("promote", "ann"),
        ("rollback", "bob"),
    ]
    assert "it stammers" in [each.detail.get("reason") for each in registry.audit_trail("acme/x")]


def test_a_retired_version_is_not_gone_back_to(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", OVERRIDDEN)
    registry.retire("acme/x@1", "ann")
    with pytest.raises(RegistryError, match="retired"):
        registry.rollback("acme/x", "ann")
    assert registry.resolve("acme/x").version.number == 2


def test_what_is_in_use_is_not_retired(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", Promotion(share=0.2, reason="let us see"))
    for number in (1, 2):
        with pytest.raises(RegistryError, match="in use"):
            registry.retire(f"acme/x@{number}", "ann")
    registry.rollback("acme/x", "ann")
    registry.retire("acme/x@2", "ann")
    registry.drop_alias("acme/x", "production", "ann")
    registry.retire("acme/x@1", "ann")
    with pytest.raises(NotRegisteredError):
        registry.resolve("acme/x")


def right(share: float, seed: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def test_the_gate_lets_pass_what_is_as_good(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    old = right(0.8, 0)
    new = old.copy()
    new[np.flatnonzero(~old)[:20]] = True
    measured(registry, 1, old)
    measured(registry, 2, new)
    registry.promote("acme/x@1", "ann")
    _, verdict = registry.promote("acme/x@2", "ann")
    assert verdict.passed
    assert verdict.difference == pytest.approx(0.05)
    assert verdict.n == 400


def test_the_gate_refuses_what_is_worse(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    old = right(0.8, 0)
    new = old.copy()
    new[np.flatnonzero(old)[:12]] = False  # 3 points, far within what would be borne, but shown
    measured(registry, 1, old)
    measured(registry, 2, new)
    registry.promote("acme/x@1", "ann")
    with pytest.raises(GateRefusedError, match="not promoted") as caught:
        registry.promote("acme/x@2", "ann")
    assert "worse" in caught.value.found
    assert registry.resolve("acme/x").version.number == 1
    assert [each.action for each in registry.audit_trail("acme/x")].count("promote") == 1


def test_few_rows_show_nothing(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    measured(registry, 1, right(0.8, 0, 30))
    measured(registry, 2, right(0.8, 1, 30))
    registry.promote("acme/x@1", "ann")
    with pytest.raises(GateRefusedError):
        registry.promote("acme/x@2", "ann")
    _, verdict = registry.promote("acme/x@2", "ann", Promotion(margin=0.9))
    assert verdict.passed


def test_scores_on_other_rows_show_nothing(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    measured(registry, 1, right(0.8, 0), "r")
    measured(registry, 2, right(0.9, 1), "s")
    registry.promote("acme/x@1", "ann")
    with pytest.raises(GateRefusedError) as caught:
        registry.promote("acme/x@2", "ann")
    assert "same rows" in caught.value.found


def test_the_newest_scores_count(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    measured(registry, 1, right(0.8, 0))
    measured(registry, 2, right(0.2, 1))
    measured(registry, 2, right(0.99, 2))
    registry.promote("acme/x@1", "ann")
    assert registry.promote("acme/x@2", "ann")[1].passed


def test_what_was_not_tried_on_its_base_does_not_pass(registry: Registry, tmp_path: Path) -> None:
    registered(registry, tmp_path, "acme/x", probed=False)
    with pytest.raises(GateRefusedError) as caught:
        registry.promote("acme/x@1", "ann")
    assert "tried on its base" in caught.value.found
    assert "register it again" in caught.value.fix
    registered(registry, tmp_path, "acme/x")  # registered again, and asked this time
    assert registry.promote("acme/x@1", "ann")[1].passed


@pytest.mark.parametrize("reason", ["", "   ", "\n"])
def test_no_words_are_no_reason(reason: str, registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    with pytest.raises(GateRefusedError):
        registry.promote("acme/x@2", "ann", Promotion(reason=reason))


def test_an_override_is_kept(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", Promotion(reason=" the customer asked for it "))
    last = registry.audit_trail("acme/x")[-1]
    assert last.detail["overridden"] is True
    assert last.detail["reason"] == "the customer asked for it"
    assert last.detail["gate"]["passed"] is False
    assert registry.history("acme/x", "production")[-1]["reason"] == "the customer asked for it"


@pytest.mark.parametrize(
    "promotion",
    [
        Promotion(share=0.0),
        Promotion(share=-0.1),
        Promotion(share=1.1),
        Promotion(share=float("nan")),
        Promotion(margin=-0.1),
        Promotion(margin=1.0),
        Promotion(alias="3"),
        Promotion(alias="Prod"),
        Promotion(alias=""),
        Promotion(alias="deadbeef"),
        Promotion(rule=Rule(alpha=0.0)),
        Promotion(rule=Rule(alpha=1.0)),
        Promotion(rule=Rule(margin=1.0)),
    ],
    ids=str,
)
def test_a_promotion_that_makes_no_sense(
    promotion: Promotion, registry: Registry, tmp_path: Path
) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    with pytest.raises(ConfigError):
        registry.promote("acme/x@2", "ann", promotion)
    assert len(registry.history("acme/x", "production")) == 1


def test_there_must_be_something_to_try_it_beside(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    share = Promotion(share=0.1, reason="r")
    with pytest.raises(RegistryError, match="nothing to try it beside"):
        registry.promote("acme/x@1", "ann", share)
    registry.promote("acme/x@1", "ann")
    with pytest.raises(RegistryError, match="nothing to try it beside"):
        registry.promote("acme/x@1", "ann", share)
    registry.promote("acme/x@2", "ann", Promotion(share=0.6, reason="r"))
    with pytest.raises(ConfigError, match="leave nothing"):
        registry.promote("acme/x@3", "ann", Promotion(share=0.4, reason="r"))
    alias, _ = registry.promote("acme/x@3", "ann", Promotion(share=0.3, reason="r"))
    assert [(each.number, round(each.share, 9)) for each in alias.targets] == [
        (1, 0.1),
        (2, 0.6),
        (3, 0.3),
    ]


def test_a_split_gives_each_key_one_version(registry: Registry, tmp_path: Path) -> None:
    three(registry, tmp_path)
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", Promotion(share=0.2, reason="r"))
    keys = [f"user {number}" for number in range(300)]
    first = {key: registry.choose("acme/x", key).version.number for key in keys}
    assert first == {key: registry.choose("acme/x", key).version.number for key in keys}
    assert 0.1 < Counter(first.values())[2] / 300 < 0.3
    registry.promote("acme/x@2", "ann", Promotion(share=0.6, reason="r"))
    more = {key: registry.choose("acme/x", key).version.number for key in keys}
    assert all(more[key] == 2 for key in keys if first[key] == 2)
    assert 0.5 < Counter(more.values())[2] / 300 < 0.7


def test_shares_are_met_with_keys_and_without() -> None:
    alias = Alias(Name("a", "b"), "p", 1, (Target(1, 0.7), Target(2, 0.1), Target(3, 0.2)), 0.0)
    for keys in ([str(n) for n in range(20_000)], [None] * 20_000):
        counted = Counter(draw(alias, key) for key in keys)
        for number, share in ((1, 0.7), (2, 0.1), (3, 0.2)):
            assert counted[number] / 20_000 == pytest.approx(share, abs=0.015)


def test_aliases_do_not_meet(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    three(registry, tmp_path)
    registered(registry, tmp_path, "zeta/x")
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", Promotion(alias="canary"))
    clock.now += 1
    assert registry.resolve("acme/x").version.number == 1
    assert registry.resolve("acme/x@canary").version.number == 2
    assert [each.alias for each in registry.aliases_of("acme/x")] == ["canary", "production"]
    assert registry.aliases_of("zeta/x") == ()
    with pytest.raises(NotRegisteredError):
        registry.rollback("zeta/x", "ann")
    with pytest.raises(NotRegisteredError):
        registry.drop_alias("zeta/x", "production", "ann")
