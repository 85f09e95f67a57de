"""Whatever the logits, a constrained answer is JSON, of the schema, and ends in time."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import torch
from tests.conftest import build_tokenizer

from tunewise.errors import ConfigError, RunError
from tunewise.model.grammar import GrammarState, JsonGrammar

VOCABULARY = 300
END = 256
TOKENIZER = build_tokenizer()
TICKET = {
    "type": "object",
    "properties": {
        "zeta": {"type": "string"},
        "alpha": {"type": "integer"},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
        "inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
    "required": ["zeta", "alpha"],
    "additionalProperties": False,
}
BOUNDED = {
    "type": "array",
    "items": {"enum": ["a", 1, None, {"k": True}]},
    "minItems": 1,
    "maxItems": 4,
}


def grammar(schema: dict[str, Any] | None = None, limit: int | None = None) -> JsonGrammar:
    return JsonGrammar(TOKENIZER, VOCABULARY, schema, end_token_id=END, max_new_tokens=limit)


def take(state: GrammarState, text: str) -> GrammarState:
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        assert state.allowed()[token], text
        state.advance(token)
    return state


def greedy(rules: JsonGrammar, seed: int, limit: int) -> tuple[str, int]:
    """The answer of a model that says anything, and its length in tokens."""
    generator = torch.Generator().manual_seed(seed)
    state, tokens = rules.start(), []
    while not state.finished and len(tokens) < limit:
        logits = torch.randn(VOCABULARY, generator=generator)
        token = int(logits.masked_fill(~state.allowed(), -torch.inf).argmax())
        state.advance(token)
        tokens.append(token)
        if token == END:
            break
    return TOKENIZER.decode([token for token in tokens if token != END]), len(tokens)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("schema", "limit"), [(None, 24), (None, 80), (TICKET, 60), (TICKET, 150)])
def test_a_model_that_says_anything_answers_valid_json_in_time(
    schema: dict[str, Any] | None, limit: int, seed: int
) -> None:
    text, length = greedy(grammar(schema, limit), seed, limit)
    jsonschema.validate(json.loads(text), {} if schema is None else schema)
    assert length <= limit


@pytest.mark.parametrize("seed", range(10))
def test_a_bounded_schema_needs_no_limit(seed: int) -> None:
    text, _ = greedy(grammar(BOUNDED), seed, 10_000)
    value = json.loads(text)
    jsonschema.validate(value, BOUNDED)
    assert text == json.dumps(value, separators=(", ", ": "))


def test_the_end_is_allowed_only_where_the_document_is_complete() -> None:
    state = grammar().start()
    for character in '{"a": [1, 2]':
        assert not state.allowed()[END]
        assert not state.complete
        take(state, character)
    take(state, "}")
    assert state.finished
    assert state.allowed().nonzero().flatten().tolist() == [END]


def test_a_number_may_end_or_go_on() -> None:
    state = take(grammar().start(), "12")
    assert state.complete
    assert not state.finished
    assert state.allowed()[END]
    assert state.allowed()[TOKENIZER.encode("3")[0]]
    state.advance(END)
    assert state.finished


def test_columns_without_a_token_and_other_specials_are_never_allowed() -> None:
    for text in ("", '"', '{"', '{"a": "b'):
        allowed = take(grammar().start(), text).allowed()
        assert allowed.shape == (VOCABULARY,)
        assert allowed.dtype == torch.bool
        assert not allowed[257:].any()


def test_properties_come_in_the_order_of_the_schema() -> None:
    state = take(grammar(TICKET).start(), '{"')
    assert TOKENIZER.decode(state.allowed().nonzero().flatten().tolist()) == "z"
    take(state, 'zeta": "", "alpha": 7}')
    assert state.finished


def test_states_do_not_share_their_place() -> None:
    rules = grammar(TICKET)
    first, second = take(rules.start(), '{"zeta'), rules.start()
    take(second, "{")
    take(first, '": "x", "alpha": 1}')
    assert first.finished
    assert not second.finished


def test_without_need_to_hurry_the_limit_changes_nothing() -> None:
    bounded, free = grammar(TICKET, 4000).start(), grammar(TICKET).start()
    for character in '{"zeta": "two words", "alpha": 12, "colours": ["red", "green"]}':
        assert bounded.allowed().equal(free.allowed())
        take(bounded, character)
        take(free, character)


def test_a_limit_that_no_document_meets_still_follows_the_grammar() -> None:
    text, _ = greedy(grammar(TICKET, 3), 0, 3)
    assert text == '{"z'


@pytest.mark.parametrize("text", ["x", "}", ","])
def test_a_token_that_is_not_allowed_is_refused(text: str) -> None:
    state = grammar().start()
    token = TOKENIZER.encode(text)[0]
    assert not state.allowed()[token]
    with pytest.raises(RunError, match=f"token {token}"):
        state.advance(token)


@pytest.mark.parametrize(
    "schema",
    [{"type": "poem"}, {"type": "string", "pattern": "("}, {"$ref": "#/nowhere"}, {"minimum": "a"}],
    ids=str,
)
def test_a_schema_that_is_no_grammar_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot constrain"):
        grammar(schema)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        eos_token_id = 0

    with pytest.raises(ConfigError, match="Slow"):
        JsonGrammar(Slow(), 10, None)
