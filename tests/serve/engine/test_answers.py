"""Growing text, choosing tokens, waiting in turn, and adaptations in memory."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence

import pytest
import torch
from tests.serve.engine.planted import constant, tiny

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import AdaptationError, BusyError, ConfigError, RunError
from tunewise.serve.contract import Sampling
from tunewise.serve.engine.choose import Chooser, check_sampling, likeliest
from tunewise.serve.engine.residents import Key, Resident, Residents
from tunewise.serve.engine.text import GrowingText
from tunewise.serve.engine.waiting import FairQueue

# Text


def as_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["", "plain words", "é日本 🎉 end", "a\n\nInput: b", "aXSTOPb"])
@pytest.mark.parametrize("stop", [(), ("STOP",), ("zzz", "OP", "n")])
def test_pieces_join_to_the_text_and_show_nothing_that_changes(
    text: str, stop: tuple[str, ...]
) -> None:
    growing = GrowingText(as_bytes, stop)
    pieces = []
    for token in text.encode():
        pieces.append(growing.push(token))
        assert "\ufffd" not in pieces[-1]
        if growing.stopped:
            break
    pieces.append(growing.rest())
    ends = [place for each in stop if (place := text.find(each)) >= 0]
    wanted = text[: min(ends)] if ends else text
    assert "".join(pieces) == growing.text == wanted
    assert growing.stopped == bool(ends)


def test_what_is_cut_later_is_held_back() -> None:
    def cut(tokens: Sequence[int]) -> str:
        return as_bytes(tokens).split("##")[0].strip()

    growing = GrowingText(cut, open_marks=("##",), stripped=True)
    shown = "".join(growing.push(token) for token in b"  yes  # no  ##  x") + growing.rest()
    assert shown == growing.text == "yes  # no"


# Choosing


def test_the_likeliest_are_those_of_a_plain_softmax() -> None:
    logits = torch.randn(5, 40)
    logits[2, 7] = logits[2, 30] = 9.0
    found = likeliest(logits)
    for row, each in zip(logits.double(), found, strict=True):
        assert each.token == int(row.argmax())
        assert each.log_probability == pytest.approx(float(row.log_softmax(0).max()), abs=1e-5)
    assert found[2].token == 7


def draw(sampling: Sampling, logits: torch.Tensor, count: int) -> list[int]:
    chooser = Chooser(sampling)
    best = likeliest(logits[None])[0]
    return [chooser.choose(logits, best, None).token for _ in range(count)]


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampling = Sampling(temperature=0.5, seed=3)
    taken = draw(sampling, logits, 4000)
    assert taken[:50] == draw(sampling, logits, 50)
    assert taken[:50] != draw(Sampling(temperature=0.5, seed=4), logits, 50)
    wanted = (logits / 0.5).softmax(0)
    for token, probability in enumerate(wanted.tolist()):
        error = 4 * math.sqrt(probability * (1 - probability) / 4000)
        assert abs(taken.count(token) / 4000 - probability) < error + 1e-3
    assert set(draw(Sampling(temperature=1.0, top_p=0.7, seed=0), logits, 300)) == {0, 1}
    assert set(draw(Sampling(temperature=1.0, top_p=1e-6, seed=0), logits, 50)) == {0}


@pytest.mark.parametrize("temperature", [1e-37, 1e-40, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([10.0, 9.9, -math.inf])
    assert draw(Sampling(temperature=temperature, seed=0), logits, 20) == [0] * 20


def test_what_is_not_allowed_is_never_taken_and_probabilities_are_over_the_rest() -> None:
    logits = torch.tensor([5.0, 1.0, 3.0, 2.0])
    allowed = torch.tensor([False, True, False, True])
    best = likeliest(logits[None])[0]
    chosen = Chooser(Sampling(logprobs=4)).choose(logits, best, allowed)
    assert chosen.token == 3
    assert chosen.log_probability == pytest.approx(-math.log1p(math.exp(-1)), abs=1e-6)
    assert [token for token, _ in chosen.top] == [3, 1]


def test_numbers_that_are_not_finite_fail() -> None:
    logits = torch.full((4,), torch.nan)
    with pytest.raises(RunError, match="finite"):
        Chooser(Sampling()).choose(logits, likeliest(logits[None])[0], None)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": -3},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"seed": 2**63},
        {"seed": -(2**63) - 1},
        {"logprobs": -1},
        {"logprobs": 21},
        {"ignore_end": True, "json_schema": {}},
        {"stop": ("",)},
        {"stop": ("a", "")},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        check_sampling(Sampling(**bad))


# Waiting


def test_one_that_floods_the_queue_delays_itself() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(50):
        queue.put("flood", f"f{number}")
    queue.put("calm", "c0")
    queue.put("calm", "c1")
    assert [queue.next() for _ in range(5)] == ["f0", "c0", "f1", "c1", "f2"]
    queue.put("late", "l0")
    assert queue.next() == "l0"


def test_nothing_is_lost_and_a_tenant_s_own_order_is_kept() -> None:
    draw = random.Random(0)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    put: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    got: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    running: list[str] = []
    for number in range(2000):
        tenant = draw.choice("abc")
        if draw.random() < 0.5:
            queue.put(tenant, (tenant, number))
            put[tenant].append(number)
        elif (item := queue.next()) is not None:
            got[item[0]].append(item[1])
            running.append(item[0])
        if running and draw.random() < 0.4:
            queue.ended(running.pop())
        if draw.random() < 0.02:
            for who, gone in queue.remove(lambda item: item[1] % 7 == 0):
                put[who].remove(gone)
    while (item := queue.next()) is not None:
        got[item[0]].append(item[1])
    assert len(queue) == 0
    assert got == put


# Memory


def sized(sizes: dict[str, int]) -> Residents:
    return Residents(100, lambda key, _: Resident(key, bytes=sizes[key[1]]))


@pytest.fixture(scope="module")
def anything() -> Adaptation:
    return constant(tiny())


def test_the_least_recently_used_leaves_and_nothing_that_is_in_use(anything: Adaptation) -> None:
    table = sized(dict.fromkeys("abcd", 40) | {"huge": 101})
    a = table.get(("t", "a"), lambda: anything)
    table.get(("t", "b"), lambda: anything)
    assert table.get(("t", "a"), pytest.fail) is a
    table.get(("t", "c"), lambda: anything)
    assert (table.bytes, table.evictions, len(table)) == (80, 1, 2)
    table.use(a, 1)
    table.get(("t", "d"), lambda: anything)
    assert table.get(("t", "a"), pytest.fail) is a
    table.use(table.get(("t", "d"), pytest.fail), 1)
    with pytest.raises(BusyError):
        table.get(("t", "b"), lambda: anything)
    with pytest.raises(AdaptationError, match="larger"):
        table.get(("t", "huge"), lambda: anything)
    assert table.drop(("t", "a"))
    assert not table.drop(("t", "a"))
    table.get(("t", "b"), lambda: anything)
    assert table.bytes == 80


def test_what_finds_no_room_drives_nobody_out_and_is_not_loaded_again(
    anything: Adaptation,
) -> None:
    table = sized({"a": 60, "b": 30, "c": 50})
    a = table.get(("t", "a"), lambda: anything)
    table.use(a, 1)
    b = table.get(("t", "b"), lambda: anything)
    with pytest.raises(BusyError):
        table.get(("t", "c"), lambda: anything)
    with pytest.raises(BusyError):
        table.get(("t", "c"), pytest.fail)
    assert table.get(("t", "b"), pytest.fail) is b
    assert (table.evictions, table.misses) == (0, 3)
    table.use(a, -1)
    table.get(("t", "c"), lambda: anything)
    assert (table.bytes, table.evictions) == (80, 1)


def test_what_two_threads_load_at_once_counts_once(anything: Adaptation) -> None:
    table = sized({"a": 40})

    def load() -> Adaptation:
        # Meanwhile another one had it loaded: it was dropped between its look and this one's.
        table._loading.clear()
        table.get(("t", "a"), lambda: anything)
        return anything

    made = table.get(("t", "a"), load)
    assert table.get(("t", "a"), pytest.fail) is made
    assert (table.bytes, len(table)) == (40, 1)


def test_tenants_share_nothing_though_the_bytes_be_the_same(anything: Adaptation) -> None:
    table = sized({"a": 10})
    one = table.get(("one", "a"), lambda: anything)
    assert table.get(("two", "a"), lambda: anything) is not one
    assert (table.misses, table.hits) == (2, 0)


def test_many_threads_load_once_and_a_failure_is_not_kept(anything: Adaptation) -> None:
    table = sized({"a": 10})
    loads: list[int] = []

    def load() -> Adaptation:
        loads.append(1)
        if len(loads) == 1:
            raise RunError("the disk is away")
        return anything

    with pytest.raises(RunError):
        table.get(("t", "a"), load)
    found: list[Resident] = []
    threads = [
        threading.Thread(target=lambda: found.append(table.get(("t", "a"), load))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 2
    assert len({id(each) for each in found}) == 1


def test_budgets_hold_through_any_order(anything: Adaptation) -> None:
    draw = random.Random(2)
    sizes = {str(number): draw.randint(1, 60) for number in range(12)}
    table = sized(sizes)
    held: list[Resident] = []
    for _ in range(600):
        key: Key = (draw.choice("xy"), draw.choice(list(sizes)))
        try:
            found = table.get(key, lambda: anything)
        except BusyError:
            found = None
        if found is not None and draw.random() < 0.3:
            table.use(found, 1)
            held.append(found)
        if held and draw.random() < 0.4:
            table.use(held.pop(draw.randrange(len(held))), -1)
        if draw.random() < 0.1:
            table.drop(key)
        assert 0 <= table.bytes <= 100
        assert table.bytes == sum(each.bytes for each in table._table.values())
