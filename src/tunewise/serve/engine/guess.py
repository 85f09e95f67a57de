"""Guesses at an answer's next tokens, which cost little to check.

A pass with one position reads all weights of the base for it; a few positions more take hardly
longer. Answers repeat: the field names of JSON, names and phrases of the input, the form of the
examples before it. So what followed the last tokens when they stood in the row before is guessed to
follow again (Saxena 2023, prompt lookup decoding), run in the same pass, and kept as far as the
tokens that are chosen are those (Leviathan et al. 2023, Speculative Decoding, section 2, with
guesses that have no probabilities of their own). Each token is chosen from the logits that it would
have been chosen from, with the same draw, so that answers are what they are without guessing.
"""

from __future__ import annotations

from collections.abc import Iterable

# So many tokens that stand behind one another are looked for.
_LOOKED_FOR = 2
_LONGEST_PAUSE = 16


class Guesser:
    """Guesses for one row.

    Args:
        tokens: what stands in the row so far.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        # Where the token stands that followed these when they were there last.
        self._behind: dict[tuple[int, ...], int] = {}
        self._most = _LOOKED_FOR
        self._pause = self._resting = 0
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """One token more."""
        place = len(self._tokens)
        if place >= _LOOKED_FOR:
            self._behind[tuple(self._tokens[-_LOOKED_FOR:])] = place
        self._tokens.append(token)

    def guess(self, most: int) -> tuple[int, ...]:
        """What may come next.

        Args:
            most: tokens at most.

        Returns:
            Guesses, in order; often none.
        """
        if self._resting > 0:
            self._resting -= 1
            return ()
        tokens, place = self._tokens, len(self._tokens)
        begin = self._behind.get(tuple(tokens[-_LOOKED_FOR:]))
        if begin is None or most <= 0:
            return ()
        found: list[int] = []
        for number in range(begin, begin + min(most, self._most)):
            # Behind the end stands what is guessed there.
            found.append(tokens[number] if number < place else found[number - place])
        return tuple(found)

    def checked(self, right: int, guessed: int) -> None:
        """Learn from how the last guesses fared.

        Args:
            right: of them that came, from the first on.
            guessed: how many there were.
        """
        if guessed == 0:
            return
        if right == 0:
            # Wrong ones are run for nothing: after each, wait twice as long.
            self._pause = min(max(1, 2 * self._pause), _LONGEST_PAUSE)
            self._resting, self._most = self._pause, _LOOKED_FOR
            return
        self._pause = 0
        self._most = 2 * guessed if right == guessed else right + 1
