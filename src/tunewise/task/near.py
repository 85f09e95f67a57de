"""Texts that are nearly the same: equal when folded, or alike in their runs of characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

_BLOCK = 256
_PAIRS = 16384
# From so many distinct runs of characters on a text is long.
_LONG = 400
_BUCKETS = 2048
_MARGIN = 0.25
# Longer texts are compared by their beginning, to bound time and memory.
_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Which texts are near-duplicates of which.

    Attributes:
        classes: for each text the number of its class; texts of one class are equal when case,
            white space and punctuation are folded.
        neighbours: classes that are alike though not equal, both ways, with their similarity.
    """

    classes: tuple[int, ...]
    neighbours: dict[int, dict[int, float]] = field(repr=False)

    def near(self, index: int) -> set[int]:
        """The text's own class and those alike."""
        own = self.classes[index]
        return {own, *self.neighbours.get(own, ())}


def fold(text: str) -> str:
    """Case, white space and punctuation folded; texts of punctuation alone keep it.

    Args:
        text: any text.
    """
    lower = text.casefold()
    words = " ".join(re.sub(r"[\W_]+", " ", lower).split())
    return words if words else " ".join(lower.split())


def find_near_duplicates(texts: Sequence[str], similarity: float) -> NearDuplicates:
    """Find near-duplicates: the pairs whose similarity reaches `similarity`.

    The similarity is the smaller of two cosines over runs of 3 to 5 characters. The plain one
    tells paraphrases that share one rare word apart; the TF-IDF one tells rows apart that share a
    template. A pair with a TF-IDF cosine of at least s shares a feature of the rarest ones of
    each, those before the rest has a norm below s (the prefix filter of Bayardo et al. 2007,
    section 3, with L2 norms); only such pairs are computed, so none is missed.

    Args:
        texts: the inputs of rows.
        similarity: cosine from which two texts are one, above 0 and at most 1.
    """
    number: dict[str, int] = {}
    classes = tuple(number.setdefault(fold(text), len(number)) for text in texts)
    neighbours: dict[int, dict[int, float]] = {}
    if len(number) > 1:
        for i, j, cosine in _alike([key[:_CHARACTERS] for key in number], similarity):
            neighbours.setdefault(i, {})[j] = cosine
            neighbours.setdefault(j, {})[i] = cosine
    return NearDuplicates(classes, neighbours)


def _alike(texts: list[str], similarity: float) -> list[tuple[int, int, float]]:
    """Pairs of positions with their similarity."""
    counts = HashingVectorizer(
        analyzer="char", ngram_range=(3, 5), alternate_sign=False, norm=None
    ).transform([f" {text} " for text in texts])
    plain: Any = normalize(counts).tocsr()
    matrix: Any = TfidfTransformer().fit_transform(counts).tocsr()
    prefixes = _prefixes(matrix, similarity)
    transposed = prefixes.T.tocsr()
    sketch = _Sketch(matrix)
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(texts), _BLOCK):
        shared = (prefixes[start : start + _BLOCK] @ transposed).tocoo()
        rows, columns = shared.row + start, shared.col
        keep = rows < columns
        rows, columns = rows[keep], columns[keep]
        keep = sketch.may_reach(similarity, start, rows, columns)
        rows, columns = rows[keep], columns[keep]
        for part in range(0, len(rows), _PAIRS):
            i, j = rows[part : part + _PAIRS], columns[part : part + _PAIRS]
            weighted = _cosines(matrix, i, j)
            alike = weighted >= similarity - 1e-9
            i, j, weighted = i[alike], j[alike], weighted[alike]
            both = np.minimum(weighted, _cosines(plain, i, j))
            found = np.nonzero(both >= similarity - 1e-9)[0]
            pairs += [(int(i[k]), int(j[k]), float(both[k])) for k in found]
    return pairs


class _Sketch:
    """Cosines of long texts, roughly: signed sums of features in few buckets.

    The inner product of two sketches has the mean of the true one and a standard deviation of at
    most sqrt(2 / buckets), 0.03 here (Weinberger et al. 2009, section 3), as long as no single
    feature weighs much. So it is asked about long texts only, where exact products are dear, and
    with a margin of eight deviations.
    """

    def __init__(self, matrix: Any) -> None:
        self._long = np.diff(matrix.indptr) > _LONG
        self._place = np.cumsum(self._long) - 1
        generator = np.random.default_rng(0)
        features = matrix.shape[1]
        bucket = generator.integers(0, _BUCKETS, size=features)
        sign = generator.choice(np.asarray([-1.0, 1.0], dtype=np.float32), size=features)
        projection = sparse.csr_matrix(
            (sign, bucket, np.arange(features + 1)), shape=(features, _BUCKETS)
        )
        kept = matrix[np.nonzero(self._long)[0]].astype(np.float32)
        self._rows = np.asarray((kept @ projection).todense(), dtype=np.float32)

    def may_reach(self, similarity: float, start: int, i: Any, j: Any) -> Any:
        """False for pairs of long texts whose cosine is far below; i from one block on `start`."""
        both = self._long[i] & self._long[j]
        if not both.any():
            return np.ones(len(i), dtype=bool)
        first = self._place[start] if self._long[start] else self._place[start] + 1
        block = self._rows[first : first + _BLOCK] @ self._rows.T
        rough = np.full(len(i), np.inf)
        rough[both] = block[self._place[i[both]] - first, self._place[j[both]]]
        return rough >= similarity - _MARGIN


def _cosines(matrix: Any, i: Any, j: Any) -> Any:
    return np.asarray(matrix[i].multiply(matrix[j]).sum(axis=1)).ravel()


def _prefixes(matrix: Any, similarity: float) -> Any:
    """A 0/1 matrix with the rarest features of each row, until the rest has a norm below s."""
    frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
    indices: list[Any] = []
    lengths = [0]
    for row in range(matrix.shape[0]):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        features, weights = matrix.indices[begin:end], matrix.data[begin:end]
        # One order for all rows, else a shared feature could be missed: rarity, then number.
        order = np.lexsort((features, frequency[features]))
        rest = 1.0 - np.cumsum(weights[order] ** 2)
        # A little more than needed, against rounding.
        count = int(np.searchsorted(-rest, -(similarity**2 - 1e-6))) + 1
        indices.append(features[order[:count]])
        lengths.append(lengths[-1] + len(indices[-1]))
    flat = np.concatenate(indices)
    ones = np.ones(len(flat), dtype=np.int32)
    return sparse.csr_matrix((ones, flat, np.asarray(lengths)), shape=matrix.shape)
