"""Outcomes decide a split: what is worse leaves by itself, what is not stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.serve.registry.samples import Clock, registered

from tunewise.errors import ConfigError, NotRegisteredError
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.registry import Registry
from tunewise.serve.registry.trials import Rule, Trial


def split(registry: Registry, tmp_path: Path, share: float = 0.5, **rule: float) -> int:
    """Version 2 beside version 1; the trial's id."""
    for answer in ("good", "bad"):
        registered(registry, tmp_path, "acme/x", answer)
    registry.promote("acme/x@1", "ann")
    registry.promote(
        "acme/x@2", "ann", Promotion(share=share, reason="let us see", rule=Rule(**rule))
    )
    (trial,) = registry.trials_of("acme/x")
    return trial.id


def serve(registry: Registry, rates: dict[int, float], units: int, seed: int) -> Trial | None:
    """Requests through the alias, each with an outcome; the last state of the trial."""
    random = np.random.default_rng(seed)
    last = None
    for number in range(units):
        found = registry.choose("acme/x", f"user {number}")
        if found.trial is None:
            break
        value = float(random.random() < rates[found.version.number])
        last = registry.record_outcome(
            found.trial, f"user {number}", [(found.version.number, value)], "server"
        )
    return last


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_what_is_worse_leaves_by_itself(registry: Registry, tmp_path: Path, share: float) -> None:
    split(registry, tmp_path, share)
    before = registry.changes()
    last = serve(registry, {1: 0.9, 2: 0.4}, 600, 0)
    assert last is not None
    assert (last.verdict, last.ended_at is not None) == ("worse", True)
    assert last.difference < -0.2
    assert last.worse_evidence >= 20
    assert registry.changes() > before
    (alias,) = registry.aliases_of("acme/x")
    assert [(each.number, each.share) for each in alias.targets] == [(1, 1.0)]
    entry = registry.audit_trail("acme/x")[-1]
    assert (entry.action, entry.actor) == ("automatic", "server")
    assert entry.detail["trial"]["worse_evidence"] >= 20
    assert registry.history("acme/x", "production")[-1]["action"] == "automatic"
    assert registry.choose("acme/x", "user 1").trial is None


def test_what_is_as_good_stays(registry: Registry, tmp_path: Path) -> None:
    split(registry, tmp_path, 0.5)
    last = serve(registry, {1: 0.8, 2: 0.8}, 250, 1)
    assert last is not None
    assert (last.verdict, last.ended_at) == ("open", None)
    assert len(registry.aliases_of("acme/x")[0].targets) == 2


def test_what_is_better_is_told_and_stays(registry: Registry, tmp_path: Path) -> None:
    trial = split(registry, tmp_path)
    for number in range(60):
        found = registry.record_outcome(trial, f"u{number}", [(1, 0.0), (2, 1.0)], "server")
    assert found.verdict == "better"
    assert found.pairs == 60
    assert len(registry.aliases_of("acme/x")[0].targets) == 2
    registry.promote("acme/x@2", "ann", Promotion(reason="its outcomes are better"))
    (ended,) = registry.trials_of("acme/x")
    assert (ended.verdict, ended.ended_at is not None) == ("better", True)


def test_what_was_better_and_turns_worse_leaves_by_itself(
    registry: Registry, tmp_path: Path
) -> None:
    trial = split(registry, tmp_path)
    for number in range(60):
        found = registry.record_outcome(trial, f"early {number}", [(1, 0.0), (2, 1.0)], "server")
    assert found.verdict == "better"
    for number in range(200):
        found = registry.record_outcome(trial, f"late {number}", [(1, 1.0), (2, 0.0)], "server")
    assert (found.verdict, found.ended_at is not None) == ("worse", True)
    assert len(registry.aliases_of("acme/x")[0].targets) == 1


def test_the_limits_are_those_of_the_differences(registry: Registry, tmp_path: Path) -> None:
    from tunewise.numerics.sequential import Pairing, confidence_sequence

    trial = split(registry, tmp_path)
    assert registry.trial_limits(registry.trials_of("acme/x")[0]) == (-1.0, 1.0)
    random = np.random.default_rng(3)
    pairing, differences = Pairing(), []
    for number in range(60):
        if number % 3 == 0:
            values = [(1, float(random.random())), (2, float(random.random()))]
            differences.append(values[1][1] - values[0][1])
        else:
            values = [(1 + int(random.random() < 0.3), float(random.random()))]
            pairing, found = pairing.with_outcome(values[0][1], is_new=values[0][0] == 2)
            differences += [] if found is None else [found]
        last = registry.record_outcome(trial, f"u{number}", values, "server")
    assert last.pairs == len(differences)
    assert registry.trial_limits(last) == confidence_sequence(differences)


def test_a_loss_that_is_borne_is_no_loss(registry: Registry, tmp_path: Path) -> None:
    trial = split(registry, tmp_path, margin=0.3)
    for number in range(150):
        values = [(1, 1.0), (2, 0.8)]
        found = registry.record_outcome(trial, f"u{number}", values, "server")
    assert found.verdict == "open"


def test_a_unit_counts_once(registry: Registry, tmp_path: Path) -> None:
    trial = split(registry, tmp_path)
    for _ in range(40):
        registry.record_outcome(trial, "one user", [(1, 1.0)], "server")
        found = registry.record_outcome(trial, "one user", [(2, 0.0)], "server")
    assert found.pairs == 1
    for _ in range(40):
        found = registry.record_outcome(trial, "other", [(1, 1.0), (2, 0.0)], "server")
    assert found.pairs == 2
    assert found.verdict == "open"


def test_a_growing_share_goes_on_with_its_trial(
    registry: Registry, tmp_path: Path, clock: Clock
) -> None:
    trial = split(registry, tmp_path, 0.1)
    registry.record_outcome(trial, "u", [(1, 1.0), (2, 0.0)], "server")
    registry.promote("acme/x@2", "ann", Promotion(share=0.5, reason="more"))
    (same,) = registry.trials_of("acme/x")
    assert (same.id, same.pairs, same.ended_at) == (trial, 1, None)
    clock.now += 9
    registry.rollback("acme/x", "ann")
    (ended,) = registry.trials_of("acme/x")
    assert (ended.verdict, ended.ended_at) == ("ended", clock.now)
    after = registry.record_outcome(trial, "late", [(2, 0.0)], "server")
    assert after == ended


def test_two_beside_one_are_two_trials(registry: Registry, tmp_path: Path) -> None:
    split(registry, tmp_path, 0.2)
    registered(registry, tmp_path, "acme/x", "so so")
    registry.promote("acme/x@3", "ann", Promotion(share=0.2, reason="also"))
    third, second = registry.trials_of("acme/x")
    assert (second.candidate, third.candidate) == (2, 3)
    serve(registry, {1: 0.9, 2: 0.1, 3: 0.9}, 400, 2)
    third, second = registry.trials_of("acme/x")
    assert (second.verdict, third.verdict) == ("worse", "open")
    (alias,) = registry.aliases_of("acme/x")
    assert [(each.number, round(each.share, 9)) for each in alias.targets] == [(1, 0.8), (3, 0.2)]


@pytest.mark.parametrize(
    "values",
    [
        [],
        [(1, 1.1)],
        [(1, -0.1)],
        [(1, float("nan"))],
        [(1, float("inf"))],
        [(1, "1")],
        [(3, 1.0)],
        [(1, 1.0), (1, 0.0)],
        [(1, 1.0), (3, 0.0)],
        [(1, None)],
    ],
    ids=str,
)
def test_what_is_no_outcome(
    values: list[tuple[int, float]], registry: Registry, tmp_path: Path
) -> None:
    trial = split(registry, tmp_path)
    with pytest.raises(ConfigError):
        registry.record_outcome(trial, "u", values, "server")
    assert registry.trials_of("acme/x")[0].pairs == 0


def test_a_trial_that_is_not_there(registry: Registry, tmp_path: Path) -> None:
    split(registry, tmp_path)
    with pytest.raises(NotRegisteredError):
        registry.record_outcome(99, "u", [(1, 1.0)], "server")
