"""The solved examples nearest to a row, by the cosine of TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from tunewise.task.prompt import Demonstration


class NearestDemonstrations:
    """Finds the demonstrations most similar to a text.

    Args:
        pool: the demonstrations to choose from.
    """

    def __init__(self, pool: Sequence[Demonstration]) -> None:
        self._pool = tuple(pool)
        # Punctuation and symbols are terms too, so that texts without letters have a vector.
        self._vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
        self._matrix = (
            self._vectorizer.fit_transform([item.input for item in self._pool])
            if any(item.input.strip() for item in self._pool)
            else None
        )

    def find(self, text: str, count: int) -> tuple[Demonstration, ...]:
        """The `count` most similar demonstrations, most similar last.

        A demonstration with the very same input is left out: a row of the pool must not be shown
        its own answer. Ties go to the one that stands first in the pool.

        Args:
            text: the row's input.
            count: how many to return at most.
        """
        own = text.strip()
        allowed = [i for i, item in enumerate(self._pool) if item.input.strip() != own]
        if not allowed or count <= 0:
            return ()
        if self._matrix is None:
            similarity = np.zeros(len(self._pool))
        else:
            query = self._vectorizer.transform([text])
            similarity = np.asarray((self._matrix @ query.T).todense()).ravel()
        order = sorted(allowed, key=lambda i: (-similarity[i], i))[:count]
        return tuple(self._pool[i] for i in reversed(order))
