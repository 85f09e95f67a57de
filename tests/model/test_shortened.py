"""A base cut short tells what the whole base does, and is whole again behind it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES
from tests.model.deep import deep

from tunewise.model.base import Base
from tunewise.model.calibrate import WHOLE
from tunewise.model.checksum import weights_checksum
from tunewise.model.kept import KeptBytes
from tunewise.model.layers import layer_modules
from tunewise.model.ledger import Ledger
from tunewise.model.shortened import Shortened, shortened

TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


def hidden(base: Base, *, at: int) -> Any:
    """What the layer of this number gives, from the first on."""
    states = base.model(TOKENS, output_hidden_states=True).hidden_states
    return states[at]


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_the_first_layers_run_as_they_do_in_the_whole_base(architecture: str) -> None:
    base = deep(architecture)
    before = weights_checksum(base)
    with torch.no_grad():
        wanted, logits = hidden(base, at=6), base.model(TOKENS).logits
        with shortened(base) as short:
            assert (short.layers, short.kept) == (20, 7)
            assert len(layer_modules(base)) == base.layers == 7
            assert torch.equal(hidden(base, at=6), wanted)
            assert not torch.equal(base.model(TOKENS).logits, logits)
        assert torch.equal(base.model(TOKENS).logits, logits)
    assert base.layers == len(layer_modules(base)) == 20
    assert weights_checksum(base) == before


def test_it_is_whole_again_after_an_error() -> None:
    base = deep()
    with pytest.raises(ZeroDivisionError), shortened(base):
        raise ZeroDivisionError
    assert base.layers == len(layer_modules(base)) == 20


@pytest.mark.parametrize(("layers", "kept"), [(2, 2), (6, 6), (7, 6), (18, 6), (19, 7), (30, 10)])
def test_a_third_of_the_layers_stays_and_six_at_least(layers: int, kept: int) -> None:
    base = deep(layers=layers)
    with shortened(base) as short:
        assert (short.kept, base.layers) == (kept, kept)
        assert short.times == pytest.approx(layers / kept)
        assert (short.missing_parameters == 0) == (layers == kept)


def test_layers_that_stand_in_no_list_all_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    base = deep()
    monkeypatch.setattr("tunewise.model.shortened.layer_modules", lambda _: [])
    with shortened(base) as short:
        assert short == Shortened(20, 20)


def test_work_is_scaled_as_it_is_counted() -> None:
    base = deep()
    whole = Ledger(base.body_parameters, base.head_parameters)
    with shortened(base) as short:
        ledger = Ledger(base.body_parameters, base.head_parameters)
    for each in (whole, ledger):
        each.charge(forward=100, backward=60, head=30)
    assert ledger.work().flops * short.whole(ledger) == pytest.approx(whole.work().flops)
    # The output head is there once in either.
    assert 1.0 < short.whole(ledger) < short.times
    assert WHOLE.whole(ledger) == 1.0


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_kept_bytes_are_those_of_the_whole_base(architecture: str) -> None:
    base = deep(architecture)
    found = []
    for cut in (nullcontext(WHOLE), shortened(base)):
        kept = KeptBytes(base)
        with cut as short, kept.watched():
            given = base.model.get_input_embeddings()(TOKENS).requires_grad_(True)
            base.model(inputs_embeds=given).logits.sum().backward()
        found.append(kept.outside + short.times * kept.inside)
    assert found[1] == pytest.approx(found[0], rel=0.02)
