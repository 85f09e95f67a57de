"""The pool of low-rank changes against a loop over rows, through arrivals and departures."""

from __future__ import annotations

import random

import pytest
import torch

from tunewise.adaptation.parts import LowRankPart
from tunewise.errors import AdaptationError
from tunewise.serve.engine.changes import Change, Site, changes_of, stack
from tunewise.serve.engine.low_rank import LowRankPool

LAYERS = 2
SITES = (
    Site("pair", ("l.{}.q", "l.{}.k"), (6, 4), 8),
    Site("one", ("l.{}.o",), (8,), 6),
)
SHAPES = {
    module.format(layer): (width, site.inputs)
    for layer in range(LAYERS)
    for site in SITES
    for module, width in zip(site.modules, site.outputs, strict=True)
}


def changes(seed: int) -> dict[str, Change]:
    """Of some modules, of ranks that differ."""
    draw = torch.Generator().manual_seed(seed)
    chosen = [name for name in SHAPES if seed % 3 == 0 or not name.endswith("o")]
    return {
        name: Change(
            torch.randn(1 + seed % 4, SHAPES[name][1], generator=draw),
            torch.randn(SHAPES[name][0], 1 + seed % 4, generator=draw),
        )
        for name in chosen
    }


def slow(own: dict[str, Change], site: Site, layer: int, row: torch.Tensor) -> torch.Tensor:
    pieces = []
    for module, width in zip(site.modules, site.outputs, strict=True):
        change = own.get(module.format(layer))
        found = torch.zeros(width, dtype=torch.float64)
        if change is not None:
            found = change.up.double() @ (change.down.double() @ row.double())
        pieces.append(found)
    return torch.cat(pieces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_gets_its_own_change_whoever_comes_and_goes(dtype: torch.dtype) -> None:
    # One rounding to bfloat16, half of the last of 8 bits, and nothing in float32.
    rounding = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}[dtype]
    known = [changes(seed) for seed in range(9)]
    stacked = [stack(each, SITES, LAYERS) for each in known]
    pool = LowRankPool(SITES, LAYERS)
    draw = random.Random(0)
    for _ in range(60):
        own = [draw.randrange(9) for _ in range(draw.randint(1, 6))]
        runs = [(draw.randrange(9), draw.randint(1, 5)) for _ in range(draw.randint(0, 2))]
        own = own if runs == [] else own[: draw.randint(0, len(own))]
        batch = pool.arrange(
            [stacked[each] for each in own], [(stacked[each], count) for each, count in runs]
        )
        own = own + [each for each, count in runs for _ in range(count)]
        for site in SITES:
            for layer in range(LAYERS):
                rows = torch.randn(len(own) + 2, site.inputs).to(dtype)
                before = torch.randn(len(own) + 2, sum(site.outputs)).to(dtype)
                result = before.clone()
                batch.add(site.name, layer, rows, result)
                assert result[len(own) :].equal(before[len(own) :])
                for row, number in enumerate(own):
                    wanted = before[row].double() + slow(known[number], site, layer, rows[row])
                    assert torch.allclose(result[row].double(), wanted, rounding, 1e-4)


def test_what_overflows_in_one_row_stays_there() -> None:
    wild = {n: Change(1e38 * torch.ones(1, i), torch.ones(o, 1)) for n, (o, i) in SHAPES.items()}
    both = [stack(each, SITES, LAYERS) for each in (wild, changes(0))]
    batch = LowRankPool(SITES, LAYERS).arrange(both)
    result = torch.zeros(2, 10)
    batch.add("pair", 0, 1e3 * torch.ones(2, 8), result)
    assert not result[0].isfinite().all()
    assert result[1].isfinite().all()


def part(**changed: object) -> LowRankPart:
    config = {"r": 2, "lora_alpha": 4, "use_rslora": False} | changed
    stem = "base_model.model.l.0.q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(6, 2)}
    return LowRankPart(config, tensors)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"q": 6}}, 3.0),
        ({"alpha_pattern": {"l.0.q": 8}}, 4.0),
        ({"alpha_pattern": {"k": 8}}, 2.0),
    ],
)
def test_the_scale_is_peft_s(config: dict[str, object], scale: float) -> None:
    assert changes_of(part(**config), SHAPES)["l.0.q"].up[0, 0] == pytest.approx(scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.config.update(use_dora=True), "DoRA"),
        (lambda p: p.tensors.pop("base_model.model.l.0.q.lora_B.weight"), "does not fit"),
        (lambda p: p.tensors.update({"base_model.model.l.0.q.bias": torch.ones(1)}), "l.0.q.bias"),
        (lambda p: p.tensors.update({"base_model.model.x.lora_A.weight": torch.ones(2, 8)}), "x"),
        (
            lambda p: p.tensors.update(
                {"base_model.model.l.0.q.lora_A.weight": torch.full((2, 8), torch.nan)}
            ),
            "not finite",
        ),
        (
            lambda p: p.tensors.update({"base_model.model.l.0.q.lora_A.weight": torch.ones(2, 9)}),
            "does not fit",
        ),
    ],
)
def test_what_cannot_be_carried_is_refused(change: object, message: str) -> None:
    bad = LowRankPart(dict(part().config), dict(part().tensors))
    change(bad)
    with pytest.raises(AdaptationError, match=message):
        changes_of(bad, SHAPES)
