"""Fits above frozen layers whose activations are kept, against fits that run all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.laws.fitting import base_of, context_of, fit, planted_view

from tunewise.adaptation import training
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import save_state
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.store import fingerprint_of
from tunewise.adaptation.training import Training
from tunewise.model.forward import has_plain_head, packable
from tunewise.model.layers import layer_modules
from tunewise.model.lower import LowerActivations

VIEW = planted_view()
ABOVE: dict[str, Any] = {"last_layers": 1, "batch_size": 8}
NAMES = ("lora", "full")


def never(_: Training) -> bool:
    return False


def fitted(name: str, **given: Any) -> tuple[Adaptation, FitContext]:
    context = context_of(base_of(), VIEW)
    return fit(context.base, name, VIEW, context=context, **ABOVE | given), context


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_running_all_layers_finds_at_less_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, context = fitted(name, steps=12)
    monkeypatch.setattr(Training, "_keeping_pays", never)
    wanted, slow = fitted(name, steps=12)
    assert context.log.losses == pytest.approx(slow.log.losses, rel=1e-4)
    for part, other in zip(got.parts, wanted.parts, strict=True):
        for key, tensor in getattr(part, "tensors", {}).items():
            assert (tensor - other.tensors[key]).abs().max() < 1e-3  # type: ignore[union-attr]  # both
    assert context.ledger.backward_tokens == slow.ledger.backward_tokens
    assert context.ledger.forward_tokens < slow.ledger.forward_tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_equals_what_the_layers_ran(name: str) -> None:
    context = context_of(base_of(), VIEW)
    layers = layer_modules(context.base)
    # They run probes of their own, once.
    has_plain_head(context.base)
    packable(context.base)
    ran = 0

    def count(_: Any, __: Any, given: Any) -> None:
        nonlocal ran
        ran += given.shape[0] * given.shape[1]

    handles = [layer.mlp.register_forward_hook(count) for layer in layers]
    try:
        fit(context.base, name, VIEW, context=context, steps=12, **ABOVE)
    finally:
        for handle in handles:
            handle.remove()
    # Every step is rounded by itself.
    assert context.ledger.forward_tokens == pytest.approx(ran / len(layers), abs=0.5 * 13)


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({"steps": 12}, True),
        ({"steps": 5}, True),
        # 24 rows in steps of 8: no row is seen one and a half times.
        ({"steps": 4}, False),
        ({"steps": 12, "last_layers": None}, False),
        ({"steps": 12, "last_layers": 2}, False),
        # The longest rows run in pieces.
        ({"steps": 12, "most_positions": 100}, False),
    ],
)
def test_it_is_kept_where_it_is_used_again(
    given: dict[str, Any], keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = LowerActivations.compute

    def counted(self: LowerActivations, ahead: Any) -> None:
        computed.append(self.layers)
        compute(self, ahead)

    monkeypatch.setattr(LowerActivations, "compute", counted)
    fitted("lora", **given)
    assert computed == ([1] if keeps else [])


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_it_ends_with_the_same_bytes_and_the_same_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = ABOVE | {"epochs": 16.0}
    whole_context = context_of(base_of(), VIEW, limit=10**6)
    whole = fit(whole_context.base, name, VIEW, context=whole_context, **race)

    class KilledError(Exception):
        """Stands for a kill."""

    def store_and_die(*args: Any) -> None:
        save_state(*args)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", store_and_die)
        with pytest.raises(KilledError):
            fit(base_of(), name, VIEW, folder=tmp_path, limit=10**6, **race)
    context = context_of(base_of(), VIEW, limit=10**6, checkpoint_folder=tmp_path)
    resumed = fit(context.base, name, VIEW, context=context, **race)
    assert fingerprint_of(resumed) == fingerprint_of(whole)
    assert context.ledger.forward_tokens == whole_context.ledger.forward_tokens


@pytest.mark.parametrize("limit", range(1_500, 6_000, 250))
def test_what_a_budget_pays_for_is_never_overspent(limit: int) -> None:
    context = context_of(base_of(), VIEW, limit=limit)
    try:
        fit(context.base, "lora", VIEW, context=context, **ABOVE)
    except training.BudgetTooSmallError:
        assert context.log.losses == []
    assert context.ledger.spent <= limit
