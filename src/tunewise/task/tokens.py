"""Tokenising one piece of a prompt at a time, so that pieces can be joined and shared."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tunewise.errors import ConfigError

# Whether control tokens are split is a state of the tokenizer: a thread that sets it between
# another's setting and encoding would turn a user's text into control tokens.
_LOCKS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class EndToken:
    """A token that ends answers, and its text."""

    token: int
    text: str


class PieceTokenizer:
    """A tokenizer for pieces: no tokens of its own at the edges, and no space put in front.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._lock = _LOCKS.setdefault(tokenizer, threading.Lock())
        self._fixed: dict[str, tuple[int, ...]] = {}
        self._controls = frozenset(int(token) for token in tokenizer.all_special_ids)
        texts = sorted((str(t) for t in tokenizer.all_special_tokens), key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, texts))) if texts else None
        # SentencePiece models put a space in front of every text; pieces must not get one.
        self._guard = ""
        one = self._encode("a", split=True)
        if self.decode([*one, *one]) != "aa":
            self._guard = "\n"

    def fixed(self, text: str) -> tuple[int, ...]:
        """Tokens of a template's text: control tokens count as such."""
        # The same few texts stand around every row.
        if text not in self._fixed:
            self._fixed[text] = self._guarded(text, split=False)
        return self._fixed[text]

    def plain(self, text: str) -> tuple[int, ...]:
        """Tokens of a user's text: what looks like a control token is plain text."""
        tokens = self._guarded(text, split=True)
        if self._control_text is None or self._controls.isdisjoint(tokens):
            return tokens
        if not self._control_text.search(text):
            return tokens
        # This tokenizer cannot split control tokens: cut the text inside each of them.
        cut: list[int] = []
        end = 0
        for match in self._control_text.finditer(text):
            cut += self._guarded(text[end : match.start() + 1], split=True)
            end = match.start() + 1
        return tuple(cut) + self._guarded(text[end:], split=True)

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens, without control tokens and without tidying of spaces."""
        with self._lock:
            text = self.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return str(text)

    def begin_text(self, shared_text: str) -> str:
        """Text of the token that this tokenizer puts before a text, or nothing.

        Args:
            shared_text: the prompt's first piece; nothing is added where it holds the token.
        """
        begin = self.tokenizer.bos_token
        if not begin or shared_text.startswith(begin):
            return ""
        with self._lock:  # this call sets that state, too
            with_own = list(self.tokenizer("a").input_ids)
        return str(begin) if with_own[:1] == [self.tokenizer.bos_token_id] else ""

    @property
    def fallback_end(self) -> EndToken:
        """The end-of-text token, else the line feed's.

        Raises:
            ConfigError: the tokenizer has neither.
        """
        if self.tokenizer.eos_token_id is not None:
            return EndToken(int(self.tokenizer.eos_token_id), str(self.tokenizer.eos_token))
        line_feed = self._guarded("\n", split=True)
        if len(line_feed) != 1:
            raise ConfigError(
                "this base model's tokenizer has no token that could end an answer",
                found="no end-of-text token and no single token for a line feed",
                expected="a tokenizer with an end-of-text token",
                fix="set eos_token in the tokenizer's configuration",
            )
        return EndToken(line_feed[0], "\n")

    def _guarded(self, text: str, *, split: bool) -> tuple[int, ...]:
        if not text:
            return ()
        if self._guard:
            guard = self._encode(self._guard, split=True)
            tokens = self._encode(self._guard + text, split=split)
            if tokens[: len(guard)] == guard:
                return tokens[len(guard) :]
        return self._encode(text, split=split)

    def _encode(self, text: str, *, split: bool) -> tuple[int, ...]:
        with self._lock:
            encoded = self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split, verbose=False
            )
        return tuple(encoded.input_ids)
