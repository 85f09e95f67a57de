"""From a request to the reader of its answer; what cannot be answered is refused here."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from tunewise.adaptation.readout import label_sequences
from tunewise.errors import ConfigError, RequestTooLongError
from tunewise.model.decode import Constraint, LabelState
from tunewise.model.grammar import JsonGrammar
from tunewise.numerics.trie import build_trie
from tunewise.serve.contract import Request
from tunewise.serve.engine.choose import Chooser, check_sampling
from tunewise.serve.engine.readers import Embedding, Generation, Reader, Scoring
from tunewise.serve.engine.residents import Resident
from tunewise.serve.engine.text import GrowingText
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.tokens import PieceTokenizer
from tunewise.task.types import Kind, TaskSpec

# Grammars of schemas that came with requests, per tenant.
_MOST_GRAMMARS = 64


class Readers:
    """Makes the reader of a request; safe from any thread.

    Args:
        tokenizer: of the base.
        vocabulary: V, columns of its output head.
        context: most positions of a request, prefix and answer included.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, context: int) -> None:
        self._tokenizer, self._vocabulary, self._context = tokenizer, vocabulary, context
        self._pieces = PieceTokenizer(tokenizer)
        spec = TaskSpec("chat", Kind.GENERATION, "", (), "rouge_l")
        chat = Renderer(tokenizer, spec, PromptText(""))
        self._end = chat.end_token_id
        self._ends = frozenset({chat.end_token_id, self._pieces.fallback_end.token})
        self._grammars: OrderedDict[tuple[str, str, int, int], JsonGrammar] = OrderedDict()
        self._lock = Lock()

    def reader(self, request: Request, resident: Resident) -> Reader:
        """The reader of a request.

        Raises:
            ConfigError: a setting is out of range, or the readout does not fit the adaptation.
            RequestTooLongError: the context is too short.
        """
        check_sampling(request.sampling)
        if not request.tokens:
            raise ConfigError("a request has no tokens", expected="one token or more")
        if request.readout == "embedding":
            self._room(request, resident, 0)
            return Embedding()
        decoding = resident.decoding
        scored = decoding is not None and decoding.mode == "score"
        if request.readout == "labels" or (request.readout == "own" and scored):
            return self._scoring(request, resident)
        if request.readout == "own" and decoding is not None and decoding.mode == "trie":
            return self._through_trie(request, resident)
        return self._generation(request, resident)

    def _scoring(self, request: Request, resident: Resident) -> Reader:
        if resident.tree is None or resident.renderer is None:
            raise ConfigError(
                "this adaptation has no labels to give probabilities of",
                found="the base alone" if resident.spec is None else resident.spec.kind.value,
                expected="an adaptation of a task with labels",
            )
        self._room(request, resident, self._longest_label(resident.renderer))
        return Scoring(resident, request.readout == "own", tree=resident.tree)

    def _through_trie(self, request: Request, resident: Resident) -> Reader:
        renderer, spec = resident.renderer, resident.spec
        if renderer is None or spec is None:
            raise ConfigError("only an adaptation has labels")
        self._room(request, resident, self._longest_label(renderer))
        trie = build_trie(label_sequences(renderer))
        return Generation(
            Chooser(request.sampling),
            GrowingText(renderer.decode),
            frozenset({renderer.end_token_id}),
            max(len(trie.path(leaf)) for leaf in trie.leaf_of),
            constraint=LabelState(trie, self._vocabulary),
            labels=spec.labels,
            rated=True,
        )

    def _generation(self, request: Request, resident: Resident) -> Reader:
        sampling, renderer, decoding = request.sampling, resident.renderer, resident.decoding
        room = self._room(request, resident, 1)
        asked = sampling.max_new_tokens
        if asked is None and decoding is not None:
            asked = decoding.max_new_tokens
        limit = room if asked is None else min(asked, room)
        own = request.readout == "own" and decoding is not None
        schema = sampling.json_schema
        if schema is None and own and decoding is not None and decoding.mode == "json":
            schema = (
                {}
                if resident.spec is None or resident.spec.schema is None
                else (resident.spec.schema)
            )
        ends = self._ends if renderer is None else frozenset({renderer.end_token_id})
        constraint: Constraint | None = None
        if schema is not None:
            end = self._end if renderer is None else renderer.end_token_id
            constraint = self._grammar(resident.key[0], schema, end, limit).start()
        if sampling.ignore_end:
            ends = frozenset()
        return Generation(
            Chooser(sampling),
            self._text(resident, sampling.stop),
            ends,
            limit,
            token_text=None if sampling.logprobs is None else self._one_token,
            constraint=constraint,
            rated=own,
        )

    def _text(self, resident: Resident, stop: Sequence[str]) -> GrowingText:
        renderer = resident.renderer
        if renderer is None:
            return GrowingText(lambda tokens: self._pieces.decode(list(tokens)), stop)
        return GrowingText(renderer.decode, stop, open_marks=renderer.cut_marks, stripped=True)

    def _one_token(self, token: int) -> str:
        return self._pieces.decode([token])

    def _longest_label(self, renderer: Renderer) -> int:
        return max(len(tokens) for tokens in renderer.label_tokens())

    def _room(self, request: Request, resident: Resident, answer: int) -> int:
        """Tokens that the context leaves for an answer."""
        ahead = resident.positions
        room = self._context - ahead - len(request.tokens)
        if room < answer:
            raise RequestTooLongError(
                "the request does not fit the model's context",
                found=f"{len(request.tokens)} tokens behind a prefix of {ahead}, "
                f"and {answer} or more for the answer",
                expected=f"{self._context} tokens at most, all together",
                fix="send a shorter text",
            )
        return room

    def _grammar(self, tenant: str, schema: Mapping[str, Any], end: int, limit: int) -> JsonGrammar:
        # By tenant: how long a grammar takes to come must not tell what others use.
        key = (tenant, json.dumps(schema, sort_keys=False), end, limit)
        with self._lock:
            found = self._grammars.pop(key, None)
        if found is None:
            found = JsonGrammar(
                self._tokenizer,
                self._vocabulary,
                schema,
                end_token_id=end,
                max_new_tokens=limit,
            )
        with self._lock:
            self._grammars[key] = found
            while len(self._grammars) > _MOST_GRAMMARS:
                self._grammars.popitem(last=False)
        return found
