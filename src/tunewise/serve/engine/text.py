"""An answer's text as it grows: only what no later token can change leaves early."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What decoding gives for the first bytes of a character whose others are still to come.
_PARTIAL = "\ufffd"


class GrowingText:
    """Text of the tokens so far.

    Args:
        decode: text of tokens.
        stop: the text ends before the first of these.
        open_marks: texts that `decode` may cut at later; not let go while one might begin.
        stripped: whether `decode` strips, so that white space at the end is not certain.

    Attributes:
        stopped: whether a stop text was found.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        *,
        open_marks: Sequence[str] = (),
        stripped: bool = False,
    ) -> None:
        self._decode, self._stop, self._stripped = decode, tuple(stop), stripped
        self._marks = (*self._stop, *open_marks)
        self._tokens: list[int] = []
        self._text = ""
        self._given = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token.

        Returns:
            The text that has become certain.
        """
        self._tokens.append(token)
        self._text = self._decode(self._tokens)
        ends = [place for stop in self._stop if (place := self._text.find(stop)) >= 0]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True
        return self._give(len(self._text) if self.stopped else self._certain())

    def rest(self) -> str:
        """What was held back, now that no token follows."""
        return self._give(len(self._text))

    @property
    def text(self) -> str:
        """All of it."""
        return self._text

    def _give(self, end: int) -> str:
        begin = min(self._given, end)
        self._given = max(self._given, end)
        return self._text[begin:end]

    def _certain(self) -> int:
        end = len(self._text)
        for mark in self._marks:
            for size in range(min(len(mark), len(self._text)), 0, -1):
                if self._text.endswith(mark[:size]):
                    end = min(end, len(self._text) - size)
                    break
        text = self._text[:end].rstrip(_PARTIAL)
        # What is stripped at the end now may stand between words later.
        return len(text.rstrip() if self._stripped else text)
