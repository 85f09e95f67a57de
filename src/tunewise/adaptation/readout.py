"""How answers are read out of the model, and how that is chosen on validation rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.adaptation.bundle import Decoding
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.decode import Choose, Constraint, LabelState, decode
from tunewise.model.grammar import JsonGrammar
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import label_log_probabilities
from tunewise.numerics.calibration import (
    Floats,
    batch_bias,
    content_free_bias,
    cross_entropy,
    softmax,
)
from tunewise.numerics.racing import paired_error
from tunewise.numerics.trie import build_trie, prefix_free
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, Row, TaskSpec

# Up to this many labels are all scored; more are decoded greedily through their trie.
MOST_SCORED_LABELS = 12
MOST_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        text: the answer; None where answering failed.
        probability: of the answer, where the readout has one.
        failure: why answering failed.
    """

    text: str | None
    probability: float | None = None
    failure: str = ""


def default_decoding(spec: TaskSpec, renderer: Renderer, train: Sequence[Row]) -> Decoding:
    """The readout that fits the kind of task, before anything is chosen on validation rows."""
    if spec.kind is Kind.CLASSIFICATION:
        return Decoding(mode="score" if len(spec.labels) <= MOST_SCORED_LABELS else "trie")
    longest = max(len(renderer.answer_tokens(row.output)) for row in train)
    limit = min(MOST_NEW_TOKENS, max(8, math.ceil(1.25 * longest)))
    return Decoding(mode="json" if spec.kind is Kind.JSON else "free", max_new_tokens=limit)


def label_sequences(renderer: Renderer) -> tuple[tuple[int, ...], ...]:
    """Tokens of the labels, with the end token only where one label begins another.

    Without need it would add nothing but noise, and another position to compute.
    """
    ended = renderer.label_tokens()
    bare = tuple(tokens[:-1] if tokens[-1] == renderer.end_token_id else tokens for tokens in ended)
    distinct = all(bare) and len(set(bare)) == len(bare)
    return bare if distinct and prefix_free(bare) else ended


@dataclass(frozen=True, slots=True)
class Readout:
    """Reads answers behind one shared prefix, or scores labels behind several.

    Attributes:
        base: the base with whatever is attached to it.
        renderer: turns inputs into tokens.
        prefix: positions before the rows.
        ledger: books the work where given.
        choose: given a row's tokens, what takes the tokens of its answer; None takes the likeliest.
            Scored labels know nothing of it.
        others: of the further prompts of an ensemble; where there are any, only labels are read.
    """

    base: Base
    renderer: Renderer
    prefix: SharedPrefix
    ledger: Ledger | None = None
    choose: Callable[[Sequence[int]], Choose] | None = None
    others: tuple[Readout, ...] = ()

    def label_scores(self, inputs: Sequence[str]) -> Floats:
        """(n, L) sums of token log-probabilities of the labels; of several prompts their mean."""
        found = []
        for each in (self, *self.others):
            rows = [each.renderer.row_tokens(text) for text in inputs]
            labels = label_sequences(each.renderer)
            scores = label_log_probabilities(each.base, each.prefix, rows, labels, each.ledger)
            found.append(np.asarray(scores.double().numpy()))
        return joined_scores(found)

    def answers(self, inputs: Sequence[str], decoding: Decoding) -> list[Answer]:
        """Answers to all inputs, in order. A row that does not fit the context is a failure.

        Raises:
            AdaptationError: several prompts are to generate one answer.
        """
        if self.others and decoding.mode != "score":
            raise AdaptationError(
                "several prompts have no generated answer in common",
                found=f"{1 + len(self.others)} prompts, answers read out as {decoding.mode!r}",
                expected="labels that are scored",
                fix="ask with one prompt",
            )
        long = self.too_long(inputs, decoding)
        fits = [index for index, why in enumerate(long) if not why]
        found = dict(zip(fits, self._answers([inputs[i] for i in fits], decoding), strict=True))
        return [found.get(index) or Answer(None, failure=why) for index, why in enumerate(long)]

    def too_long(self, inputs: Sequence[str], decoding: Decoding) -> list[str]:
        """Why each input does not fit the context, behind whichever prompt; "" where it does."""
        found = [""] * len(inputs)
        for each in (self, *self.others):
            room = each.base.context_length - each.prefix.length - each._answer_room(decoding)
            for index, text in enumerate(inputs):
                length = len(each.renderer.row_tokens(text))
                if length > room and not found[index]:
                    found[index] = f"{length} tokens, and the model's context leaves {room}"
        return found

    def _answer_room(self, decoding: Decoding) -> int:
        if decoding.mode in {"score", "trie"}:
            return max(len(tokens) for tokens in self.renderer.label_tokens())
        return 1

    def _answers(self, inputs: Sequence[str], decoding: Decoding) -> list[Answer]:
        if not inputs:
            return []
        if decoding.mode == "score":
            return self._scored(inputs, decoding)
        if decoding.mode == "trie":
            return self._through_trie(inputs)
        return self._generated(inputs, decoding)

    def _scored(self, inputs: Sequence[str], decoding: Decoding) -> list[Answer]:
        labels = self.renderer.spec.labels
        adjusted = adjusted_scores(self.label_scores(inputs), self.renderer, decoding)
        probabilities = softmax(adjusted)
        best = adjusted.argmax(axis=1)
        return [
            Answer(labels[index], float(row[index]))
            for index, row in zip(best, probabilities, strict=True)
        ]

    def _through_trie(self, inputs: Sequence[str]) -> list[Answer]:
        trie = build_trie(label_sequences(self.renderer))
        depth = max(len(trie.path(leaf)) for leaf in trie.leaf_of)
        states: list[LabelState] = []

        def begin() -> Constraint:
            states.append(LabelState(trie, self.base.vocabulary))
            return states[-1]

        rows = [self.renderer.row_tokens(text) for text in inputs]
        decoded = decode(
            self.base,
            self.prefix,
            rows,
            end_token=self.renderer.end_token_id,
            max_new_tokens=depth,
            constrain=begin,
            ledger=self.ledger,
            choose=self.choose,
        )
        labels = self.renderer.spec.labels
        answers = []
        for each in decoded:
            state = each.constraint
            text = labels[state.label] if isinstance(state, LabelState) else None
            answers.append(Answer(text, each.probability))
        return answers

    def _generated(self, inputs: Sequence[str], decoding: Decoding) -> list[Answer]:
        rows = [self.renderer.row_tokens(text) for text in inputs]
        space = self.base.context_length - self.prefix.length
        # Each row has its own limit, so that no answer depends on its neighbours' lengths.
        limits = [max(1, min(decoding.max_new_tokens, space - len(row))) for row in rows]
        answers: dict[int, Answer] = {}
        for limit in sorted(set(limits)):
            chosen = [index for index, own in enumerate(limits) if own == limit]
            made = self._generated_within(limit, [rows[index] for index in chosen], decoding)
            answers.update(zip(chosen, made, strict=True))
        return [answers[index] for index in range(len(rows))]

    def _generated_within(
        self, limit: int, rows: Sequence[tuple[int, ...]], decoding: Decoding
    ) -> list[Answer]:
        spec, end = self.renderer.spec, self.renderer.end_token_id
        constrain = None
        if decoding.mode == "json":
            vocabulary = self.base.vocabulary
            grammar = JsonGrammar(
                self.base.tokenizer,
                vocabulary,
                spec.schema,
                end_token_id=end,
                max_new_tokens=limit,
            )
            constrain = grammar.start
        decoded = decode(
            self.base,
            self.prefix,
            rows,
            end_token=end,
            max_new_tokens=limit,
            constrain=constrain,
            ledger=self.ledger,
            choose=self.choose,
        )
        return [Answer(self.renderer.decode(each.tokens), each.probability) for each in decoded]


def joined_scores(scores: Sequence[Floats]) -> Floats:
    """Label scores of several prompts as those of one: their mean.

    A number that all labels of a row have in common changes neither answer nor probabilities, so a
    prompt behind which every label is unlikely weighs neither more nor less than another, and
    nothing is to be made equal first.

    Args:
        scores: (n, L) of every prompt.
    """
    return np.asarray(np.mean(np.stack(scores), axis=0))


def adjusted_scores(scores: Floats, renderer: Renderer, decoding: Decoding) -> Floats:
    """Label scores after length normalisation and calibration."""
    if decoding.length_normalised:
        scores = scores / np.array([len(tokens) for tokens in label_sequences(renderer)])
    if decoding.label_bias:
        scores = scores + np.array(decoding.label_bias)
    return scores


def choose_decoding(
    scores: Floats,
    gold: Sequence[int],
    renderer: Renderer,
    frequencies: Sequence[float],
    clusters: Sequence[str] | None = None,
    content_free: Floats | None = None,
) -> Decoding:
    """Choose length normalisation and calibration on validation rows.

    A change of the plain sum is taken only where the rows it wins outnumber the rows it loses by
    more than one standard error of the paired difference.

    Args:
        scores: (n, L) sums of log-probabilities on validation rows.
        gold: index of the right label of each row.
        renderer: knows the labels' tokens.
        frequencies: (L,) share of each label in training rows.
        clusters: (n,) group of each row; None where rows are independent.
        content_free: (m, L) the same sums behind inputs without content; contextual calibration is
            tried where they are given, last.
    """
    answer = np.asarray(gold, dtype=np.int64)
    lengths = {len(tokens) for tokens in label_sequences(renderer)}
    target = np.asarray(frequencies, dtype=float)
    best = Decoding(mode="score")
    right = scores.argmax(axis=1) == answer
    loss = cross_entropy(scores, answer)
    for normalised in (False, True) if len(lengths) > 1 else (False,):
        plain = adjusted_scores(scores, renderer, Decoding("score", length_normalised=normalised))
        biases = [np.zeros(0), batch_bias(plain), batch_bias(plain, target)]
        if content_free is not None:
            same = Decoding("score", length_normalised=normalised)
            biases.append(content_free_bias(adjusted_scores(content_free, renderer, same)))
        for bias in biases:
            option = Decoding("score", normalised, tuple(float(value) for value in bias))
            adjusted = adjusted_scores(scores, renderer, option)
            now_right = adjusted.argmax(axis=1) == answer
            change = now_right.astype(float) - right.astype(float)
            if clusters is None:
                error = float(change.std()) / math.sqrt(len(change))
            else:
                error = paired_error(change, clusters)
            now_loss = cross_entropy(adjusted, answer)
            if change.mean() > error or (change.mean() == error == 0.0 and now_loss < loss - 0.05):
                best, right, loss = option, now_right, now_loss
    return best
