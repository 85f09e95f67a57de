"""Guessed tokens: where the guesses come from, and that no answer depends on them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.serve.engine.planted import KINDS, SCHEMA, planted, tiny

from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.engine.guess import Guesser
from tunewise.serve.requests import chat_tokens, row_request


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


def slow(tokens: list[int], most: int) -> list[int]:
    """What followed the last two tokens when they stood there last, token by token."""
    known, found = list(tokens), []
    for place in range(len(tokens) - 1, 1, -1):
        if tokens[place - 2 : place] == tokens[-2:]:
            for number in range(most):
                found.append(known[place + number])
                known.append(found[-1])
            break
    return found


def test_guesses_are_what_followed_before() -> None:
    draw = random.Random(0)
    some = 0
    for _ in range(300):
        tokens = [draw.randint(0, 3) for _ in range(draw.randint(0, 30))]
        guesser = Guesser(tokens[:7])
        for token in tokens[7:]:
            guesser.push(token)
        guesser.checked(4, 4)
        most = draw.randint(0, 8)
        found = guesser.guess(most)
        assert list(found) == slow(tokens, most)
        some += len(found) > 2
    assert some > 50


def test_wrong_guesses_are_made_less_and_less_often_and_right_ones_grow() -> None:
    guesser = Guesser([1, 2, 3, 1, 2])
    asked = []
    for _ in range(60):
        found = guesser.guess(8)
        asked.append(bool(found))
        guesser.checked(0, len(found))
    assert sum(asked[:4]) == 2
    assert 1 <= sum(asked[20:]) <= 3
    while not (found := guesser.guess(8)):
        pass
    lengths = []
    for _ in range(3):
        guesser.checked(len(found), len(found))
        found = guesser.guess(8)
        lengths.append(len(found))
    assert lengths == [4, 8, 8]


def requests(engine: EmbeddedEngine, base: Base) -> list[Request]:
    """Answers of every kind that are chosen token by token, and some that are not."""
    found = []
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.3, "seed": 5},
        {"temperature": 1.5, "seed": 6, "top_p": 0.9},
        {"stop": ("a", "q")},
        {"logprobs": 2},
        {"json_schema": SCHEMA},
        {"json_schema": SCHEMA, "temperature": 1.0, "seed": 2},
    ]
    for number, kind in enumerate(KINDS):
        for mode in ("free", "json", "trie", "score"):
            made = planted(base, kind, number, mode)
            ready = engine.ready("t", f"{kind} {mode}", lambda made=made: made)
            found.append(row_request(ready, "ab ab ab", Sampling(None)))
    for number, setting in enumerate(settings):
        tokens = chat_tokens(engine.base.tokenizer, [("user", f"x{number} yx yx yx")])
        sampling = Sampling(**({"max_new_tokens": 40} | setting))
        found.append(Request(engine.base_alone("t"), tokens, sampling=sampling))
    return found


def answers(base: Base, within: int, together: int) -> tuple[list[Finished], int]:
    """What comes, and in how many passes."""
    settings = EngineSettings(slots=4, prompt_positions=32, guessed_within=within)
    engine = EmbeddedEngine(base, settings)
    try:
        asked = requests(engine, base)
        found: list[Finished] = []
        for begin in range(0, len(asked), together):
            streams = [engine.submit(each) for each in asked[begin : begin + together]]
            for stream in streams:
                finished = stream.result(60)
                assert "".join(piece.text for piece in stream) == finished.text
                found.append(finished)
        return found, engine.stats().steps
    finally:
        engine.close()


@pytest.mark.parametrize("together", [1, 3])
def test_answers_are_what_they_are_without_guesses(base: Base, together: int) -> None:
    plain, steps = answers(base, 0, together)
    guessed, fewer = answers(base, 8, together)
    # Shared passes get fewer guesses.
    assert fewer < (0.8 if together == 1 else 0.9) * steps
    for one, other in zip(plain, guessed, strict=True):
        assert (one.text, one.reason, one.usage) == (other.text, other.reason, other.usage)
        assert one.error is other.error is None
        assert (one.probability is None) == (other.probability is None)
        if one.probability is not None:
            assert one.probability == pytest.approx(other.probability, rel=1e-3)
