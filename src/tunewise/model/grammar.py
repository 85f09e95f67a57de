"""Answers that are JSON by construction: which tokens may come next.

llguidance turns a JSON schema into a grammar and tells, after every token, which tokens keep the
text a beginning of some valid document. Documents are written as the task writes its answers:
", " and ": " between items, properties in the order of the schema.

A grammar alone does not end a document in time: a long text is cut off at the length limit and is
no JSON any more. With a limit, a way to close the document is kept at hand, and taken as soon as
the room left is only just enough for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor

from tunewise.errors import ConfigError, GrammarError

STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MARGIN = 8
"""Tokens by which closing begins early: one token may make the shortest ending longer."""
LOOKAHEAD = 64
"""Tokens before the latest ending from which on each choice is tried, where the choices are few."""
FEW = 32

# What ends a document soonest, first. Outside a text at most one of "}" and "]" can come next.
_CLOSERS = '}]",: 0123456789ntfealsru[{-'

_TOKENIZERS: WeakKeyDictionary[Any, dict[tuple[int, int], Any]] = WeakKeyDictionary()


class JsonGrammar:
    """The grammar of one task's answers over one vocabulary.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        vocabulary: V, columns of the output head; may exceed the tokenizer's own size.
        schema: JSON schema of a document; None admits any JSON value.
        end_token_id: ends an answer; allowed only where the document is complete. The
            tokenizer's own where not given.
        max_new_tokens: length limit of an answer, its end token included. Where given, documents
            are closed in time. A limit that the shortest document exceeds is not kept.

    Raises:
        ConfigError: the schema cannot be a grammar, or the tokenizer cannot be constrained.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: int,
        schema: Mapping[str, Any] | None,
        *,
        end_token_id: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.end_token_id: int = tokenizer.eos_token_id if end_token_id is None else end_token_id
        self.max_new_tokens = max_new_tokens
        self._tokenizer = _bridge(tokenizer, vocabulary, self.end_token_id)
        text = json.dumps({} if schema is None else dict(schema))
        try:
            self._grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=STYLE)
            failed, notes = llguidance.LLMatcher.validate_grammar_with_warnings(
                self._grammar, self._tokenizer
            )
        except ValueError as error:
            failed, notes = True, [str(error)]
        if failed:
            raise ConfigError(
                "the JSON schema cannot constrain decoding",
                found=f"{text[:200]}: {'; '.join(notes)}",
                expected="a JSON schema that llguidance supports",
                fix="simplify the schema, or leave it out",
            )
        self._start = llguidance.LLMatcher(self._tokenizer, self._grammar, log_level=0)
        # Characters that are one token, with that token; all of them in a byte-level vocabulary.
        self._closers: dict[str, int] = {
            character: tokens[0]
            for character in _CLOSERS
            if len(tokens := self._tokenizer.greedy_tokenize(character)) == 1
        }

    def start(self) -> GrammarState:
        """The state before the first token of an answer."""
        return GrammarState(self, self._start.deep_copy())


@dataclass(slots=True)
class GrammarState:
    """How far one answer is; made by `JsonGrammar.start`."""

    _grammar: JsonGrammar
    _matcher: Any
    _taken: int = 0

    @property
    def finished(self) -> bool:
        """Whether the document is complete and nothing can follow it."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """Whether the document is complete, though more may follow (12 may become 123)."""
        return bool(self._matcher.is_accepting()) or self.finished

    def allowed(self) -> Tensor:
        """Tokens that may come next.

        Returns:
            (V,) bool on the CPU; True at the end token only where the document is complete.

        Raises:
            GrammarError: nothing can follow, or the grammar became too complex to follow.
        """
        mask = self._mask(self._matcher)
        limit = self._grammar.max_new_tokens
        if limit is None or self.finished:
            return mask
        left = limit - self._taken
        ending = self._ending(self._matcher, left)
        if not ending:
            return mask
        if len(ending) + LOOKAHEAD >= left and mask.sum() <= FEW:
            # Between values one token can open a property with many forced ones behind it.
            for token in mask.nonzero().flatten().tolist():
                mask[token] = self._fits(token, left)
            mask[ending[0]] = True
        elif len(ending) + min(MARGIN, limit // 4) >= left:
            mask = torch.zeros_like(mask)
            mask[ending[0]] = True
        return mask

    def advance(self, token_id: int) -> None:
        """Take this token.

        Raises:
            GrammarError: it is not an allowed one, or the grammar became too complex to follow.
        """
        if not self._matcher.consume_token(token_id):
            raise GrammarError(
                "a token does not fit the JSON grammar",
                found=f"token {token_id} after {self._taken} tokens; {self._error(self._matcher)}",
                expected="a token among the allowed ones",
                fix="simplify the schema",
            )
        self._taken += 1

    def _mask(self, matcher: Any) -> Tensor:
        """(V,) what the grammar itself allows."""
        grammar = self._grammar
        if matcher.is_stopped() and not matcher.is_error():
            mask = torch.zeros(grammar.vocabulary, dtype=torch.bool)
            mask[grammar.end_token_id] = True
            return mask
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, count=grammar.vocabulary, bitorder="little")
        if matcher.is_error() or not flags.any():
            raise GrammarError(
                "the JSON grammar cannot go on",
                found=f"after {self._taken} tokens: {self._error(matcher)}",
                fix="simplify the schema",
            )
        return torch.from_numpy(flags.astype(bool))

    def _fits(self, token: int, left: int) -> bool:
        """Whether the document can still be completed within `left` tokens, this one the first."""
        if token == self._grammar.end_token_id:
            return True
        matcher = self._matcher.deep_copy()
        return bool(matcher.consume_token(token)) and bool(self._ending(matcher, left - 1))

    def _ending(self, matcher: Any, most: int) -> list[int]:
        """A short way to complete a document, its end token included.

        Forced text first, then what closes most; greedy, so not always the shortest.

        Returns:
            The tokens; empty where none of at most `most` tokens was found.
        """
        matcher = matcher.deep_copy()
        ending: list[int] = []
        while len(ending) < most:
            if matcher.is_accepting() or matcher.is_stopped():
                return [*ending, self._grammar.end_token_id]
            step = matcher.compute_ff_tokens() or [self._closer(self._mask(matcher))]
            if not matcher.consume_tokens(step):
                return []
            ending += step
        return []

    def _closer(self, mask: Tensor) -> int:
        fitting = {c: token for c, token in self._grammar._closers.items() if mask[token]}
        # Both closing brackets at once can only be characters of a text, which a quote ends.
        if fitting.keys() >= {"}", "]", '"'}:
            return fitting['"']
        return next(iter(fitting.values()), int(mask.nonzero()[0]))

    @staticmethod
    def _error(matcher: Any) -> str:
        return str(matcher.get_error()).split("\n", maxsplit=1)[0] or "no token is allowed"


def _bridge(tokenizer: Any, vocabulary: int, end_token_id: int) -> Any:
    """llguidance's view of a tokenizer, made once for each (about a second for 50,000 tokens)."""
    made = _TOKENIZERS.setdefault(tokenizer, {})
    key = (vocabulary, end_token_id)
    if key not in made:
        try:
            made[key] = llguidance.hf.from_tokenizer(tokenizer, vocabulary, end_token_id)
        except Exception as error:  # ValueError and errors of the Rust side alike
            raise ConfigError(
                "this base's tokenizer cannot be constrained to JSON",
                found=f"{type(tokenizer).__name__}: {error}",
                expected="a fast Hugging Face tokenizer",
                fix="use a base with a fast tokenizer, or decode freely",
            ) from error
    return made[key]
