"""The prefix along with its rows in one pass, against the prefix by itself and then the rows.

Loss and gradients of every trainable, through this path and the other, are held against a slow twin
in test_prefix.py.
"""

from __future__ import annotations

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.laws.fitting import ALL_ARCHITECTURES, base_of
from tests.model.test_prefix import loop_gradients, renderer_of, trainable_of

from tunewise.model import answers
from tunewise.model.forward import pad_rows, row_inputs, selected_logits
from tunewise.model.joined import joinable, joined_logits
from tunewise.model.prefix import PrefixInputs, SharedPrefix, compute_prefix

ROWS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13)]


@pytest.mark.parametrize("begin", [0, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_logits_at_every_position(architecture: str, begin: int) -> None:
    base = base_of(architecture)
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(1, begin + 6, base.width, generator=generator) * 0.1
    with torch.no_grad():
        after = compute_prefix(base, embeddings[:, :begin]) if begin else SharedPrefix()
        ahead = PrefixInputs(embeddings[:, begin:], after)
        assert ahead.length == begin + 6
        rows = pad_rows(ROWS, base.device, left=False)
        select = rows.mask.nonzero(as_tuple=True)
        prefix = ahead.lower(base)
        wanted = selected_logits(base, prefix, row_inputs(base, prefix.length, rows), select)
        got = joined_logits(base, ahead, rows, select)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_layers_that_see_a_window_do_not_join(architecture: str) -> None:
    assert joinable(base_of(architecture)) == (architecture != "gemma3")


@pytest.mark.parametrize(("most_positions", "joined"), [(4096, 1), (40, 0)])
def test_one_pass_where_the_rows_fit_into_memory(
    most_positions: int, joined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    taken = answers.joined_logits

    def spy(*given: object) -> object:
        calls.append(given)
        return taken(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "joined_logits", spy)
    base = base_of()
    renderer = renderer_of(base)
    with trainable_of("virtual", base, renderer) as trainable:
        loop_gradients(base, renderer, trainable, most_positions)
    assert len(calls) == joined
