"""One pass over slots against plain attention in float64; products of 8 bits; kept memory."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.serve.engine.planted import tiny

from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.engine.attention import SlotAttention
from tunewise.serve.engine.int8 import (
    Kernel,
    fbgemm,
    halves,
    int8_lay,
    kernel_here,
    onednn,
)
from tunewise.serve.engine.slots import KeyValueSlots, PlaceShape, place_shape
from tunewise.serve.engine.work import Work

SHAPE = PlaceShape(layers=2, heads=2, width=4)
HEADS = 6


def slow(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One query (H, W) over (S, K, W), head by head."""
    out = []
    for head, query in enumerate(queries.double()):
        own = head * keys.shape[1] // len(queries)
        weights = (keys[:, own].double() @ query / keys.shape[2] ** 0.5).softmax(dim=0)
        out.append(weights @ values[:, own].double())
    return torch.cat(out)


def test_any_mix_of_steps_prompts_and_trees_attends_to_its_own_places() -> None:
    draw = random.Random(1)
    slots = KeyValueSlots(SHAPE, 7, 400, torch.float32)
    for layer in slots.layers:
        layer.normal_()
    for _ in range(40):
        works = []
        for slot in draw.sample(range(7), draw.randint(1, 7)):
            begin = draw.choice([1, 5, 20, 300])
            count = draw.choice([1, 1, 1, 4])
            allowed = None
            if draw.random() < 0.2:
                allowed = torch.rand(count, begin + count) < 0.5
                allowed[:, 0] = True
            embeddings = torch.zeros(count, 1)
            works.append(Work(slot, begin, embeddings, torch.arange(count), (), allowed=allowed))
        total = sum(work.count for work in works)
        queries = torch.randn(total, HEADS, SHAPE.width)
        kept = torch.randn(total, 2 * SHAPE.heads * SHAPE.width)
        found = SlotAttention(slots, HEADS, works, torch.float32)(1, queries, kept)
        begin = 0
        for work in works:
            own = slots.layers[1][work.slot, :, : work.end].transpose(0, 1)
            written = kept[begin : begin + work.count].view(work.count, -1, SHAPE.width)
            assert own[work.begin :].equal(written)
            for offset in range(work.count):
                seen = torch.arange(work.end) <= work.begin + offset
                if work.allowed is not None:
                    seen = work.allowed[offset]
                wanted = slow(queries[begin + offset], own[seen, :2], own[seen, 2:])
                assert torch.allclose(found[begin + offset].double(), wanted, atol=1e-5)
            begin += work.count


def test_slots_keep_what_is_put_and_give_copies() -> None:
    slots = KeyValueSlots(SHAPE, 3, 10, torch.float32)
    assert not slots.take(0, 0, 10).any()
    prefix = torch.randn(2, 4, 4, 4)  # layers, keys and values of 2 heads, places, width
    slots.put(1, prefix)
    taken = slots.take(1, 0, 4)
    assert taken.equal(prefix)
    slots.write(0, slots.index([(1, 2, 3)]), torch.zeros(1, 16))
    assert taken.equal(prefix)
    assert not slots.take(1, 2, 3)[0].any()
    assert slots.take(1, 2, 3)[1].any()
    assert slots.take(1, 0, 2)[0].all()
    assert not slots.take(0, 0, 10).any()


def test_what_a_position_keeps_is_found_by_running_one() -> None:
    assert place_shape(tiny()) == PlaceShape(2, 2, 8)
    assert place_shape(tiny("gpt2")) == PlaceShape(2, 4, 8)
    assert PlaceShape(2, 2, 8).bytes(torch.bfloat16) == 2 * 2 * 2 * 8 * 2


@pytest.mark.parametrize("kernel", [onednn, fbgemm])
@pytest.mark.parametrize("levels", [127, 63])
def test_products_of_8_bits_are_those_of_rounded_numbers(kernel: Kernel, levels: int) -> None:
    if levels > kernel_here()[1]:
        pytest.skip("sums overflow on this processor")
    whole = torch.randint(-127, 128, (48, 96), dtype=torch.int8)
    scale, numbers = torch.rand(48) + 0.1, torch.randint(-levels, levels + 1, (9, 96)).float()
    found = kernel(whole, scale, levels)(numbers)
    wanted = numbers.double() @ whole.double().t() * scale.double()
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-3)


def test_weights_are_rounded_and_inputs_hardly() -> None:
    lay, levels = int8_lay(tiny()), kernel_here()[1]
    weight, bias, rows = torch.randn(48, 96), torch.randn(48), torch.randn(9, 96)
    rows[3] *= 1000
    rows[4] = 0
    # One column a hundred times as large as the others, as activations have them.
    rows[5, 7] = 100
    found = lay(weight, bias).multiply(rows)
    scale = weight.abs().amax(dim=1, keepdim=True).double() / 127
    whole = torch.round(weight / scale.float()).double() * scale
    wanted = rows.double() @ whole.t() + bias.double()
    most = rows.abs().amax(dim=1, keepdim=True).double() / (4 * levels**2)
    # Half a step of the second half at each input.
    assert (found.double() - wanted).abs().le(most * whole.abs().sum(dim=1) * 1.01 + 1e-3).all()
    numbers, one = halves(rows, levels)
    first, second = numbers.double().round().chunk(2)
    shown = (first + second / (2 * levels)) * one.double()
    assert (shown - rows.double()).abs().le(most * 1.01).all()
    assert numbers.abs().le(levels).all()
    # No row depends on its neighbours.
    for index in range(len(rows)):
        assert torch.allclose(lay(weight, bias).multiply(rows[index : index + 1])[0], found[index])


def test_products_of_8_bits_do_not_overflow() -> None:
    # The largest numbers there are, all of one sign.
    weight, rows = torch.full((40, 576), 0.5), torch.full((5, 576), 2.0)
    found = int8_lay(tiny())(weight, None).multiply(rows)
    assert torch.allclose(found, torch.full((5, 40), 576.0), rtol=1e-4)


def test_what_a_process_packs_with_is_left_as_it_was() -> None:
    before = torch.backends.quantized.engine
    lay, weight, rows = int8_lay(tiny()), torch.randn(8, 16), torch.randn(2, 16)
    with ThreadPoolExecutor(8) as threads:
        laid = list(threads.map(lambda _: lay(weight, None), range(200)))
    assert torch.backends.quantized.engine == before
    assert all(each.multiply(rows).equal(laid[0].multiply(rows)) for each in laid)


def test_8_bits_want_a_float32_base() -> None:
    base = tiny()
    half = Base.from_model(base.model, base.tokenizer, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="float32"):
        int8_lay(half)
