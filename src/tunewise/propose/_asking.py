"""The model that proposes: an OpenAI-compatible endpoint, or the base itself. All is recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tunewise.errors import ConfigError, RunError, UnavailableError
from tunewise.model.base import Base
from tunewise.model.decode import decode
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import EMPTY_PREFIX, compute_prefix, token_embeddings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, TaskSpec

LOCAL = "local"
_MOST_NEW_TOKENS = 160
_TIMEOUT_SECONDS = 120.0
_KEY_VARIABLE = "OPENAI_API_KEY"


class LanguageModel(Protocol):
    """Answers one question."""

    def answer(self, question: str) -> tuple[str, dict[str, int]]:
        """The answer, and what it took: counts by name."""
        ...


@dataclass(slots=True)
class Asker:
    """Asks a model and keeps a record; an empty answer stands in it like any other.

    Attributes:
        name: of the model.
        model: the model.
        calls: for every question its length, the answer and what it took.
    """

    name: str
    model: LanguageModel
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, question: str) -> str:
        """Ask.

        Args:
            question: the whole of it, as one message of a user.
        """
        answer, took = self.model.answer(question)
        told = {"question_characters": len(question), "answer": answer, **took}
        self.calls.append(told | ({} if answer.strip() else {"empty": True}))
        return answer

    def told(self) -> dict[str, Any]:
        """What the record of a fit says; JSON values."""
        empty = sum("empty" in call for call in self.calls)
        return {"model": self.name, "calls": self.calls, "empty_answers": empty}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint, through the `openai` client.

    Attributes:
        url: of the API, "http://127.0.0.1:8000/v1".
        model: its name there.
        seed: sent with every question, for servers that heed it.
    """

    url: str
    model: str
    seed: int

    def answer(self, question: str) -> tuple[str, dict[str, int]]:
        """See `LanguageModel.answer`.

        Raises:
            UnavailableError: it cannot be reached, or the client is not installed.
            RunError: it refuses.
        """
        openai = _client()
        # Servers of one's own ask for no key, but the client does.
        key = os.environ.get(_KEY_VARIABLE, "none")
        client = openai.OpenAI(base_url=self.url, api_key=key, timeout=_TIMEOUT_SECONDS)
        try:
            made = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=0.0,
                seed=self.seed,
                max_tokens=4 * _MOST_NEW_TOKENS,
            )
        except openai.APIConnectionError as error:
            raise UnavailableError(
                "the model that proposes cannot be reached",
                found=f"{self.url}: {error}",
                expected="an OpenAI-compatible endpoint",
                fix="start it, correct --proposer, or leave it out",
            ) from error
        except openai.APIError as error:
            raise RunError(
                "the model that proposes refuses",
                found=f"{self.model} at {self.url}: {error}",
                fix=f"check the model's name and {_KEY_VARIABLE}, or leave --proposer out",
            ) from error
        finally:
            client.close()
        usage = made.usage
        took = {} if usage is None else {"their_tokens": int(usage.total_tokens)}
        content = made.choices[0].message.content if made.choices else None
        return ("" if content is None else str(content)), took


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The base itself, with whatever is attached to it; its work is booked like any other.

    Attributes:
        base: the base.
        ledger: pays.
    """

    base: Base
    ledger: Ledger

    def answer(self, question: str) -> tuple[str, dict[str, int]]:
        """See `LanguageModel.answer`.

        Raises:
            BudgetExceededError: the ledger does not cover it.
        """
        base, ledger = self.base, self.ledger
        spec = TaskSpec("propose", Kind.GENERATION, "", (), "rouge_l")
        renderer = Renderer(base.tokenizer, spec, PromptText(""))
        before, shared = ledger.spent, renderer.shared_tokens
        own = renderer.row_tokens(question)
        room = base.context_length - len(shared) - _MOST_NEW_TOKENS
        if len(own) > room:
            return "", {"too_long_tokens": len(own)}
        ledger.charge(forward=len(shared))
        with torch.no_grad():
            prefix = (
                compute_prefix(base, token_embeddings(base, shared)) if shared else EMPTY_PREFIX
            )
        (made,) = decode(
            base,
            prefix,
            [own],
            end_token=renderer.end_token_id,
            max_new_tokens=_MOST_NEW_TOKENS,
            ledger=ledger,
        )
        return renderer.decode(made.tokens), {"token_passes": ledger.spent - before}


def asker_for(text: str, base: Base, ledger: Ledger, seed: int) -> Asker:
    """The model that a setting names.

    Args:
        text: "local", or "URL#NAME" of an endpoint.
        base: of the fit.
        ledger: pays for a local model.
        seed: of the fit.

    Raises:
        ConfigError: it is neither.
        UnavailableError: the client is not installed.
    """
    if text == LOCAL:
        return Asker(base.name, LocalModel(base, ledger))
    url, mark, model = text.partition("#")
    if not url.startswith(("http://", "https://")) or not mark or not model:
        raise ConfigError(
            "the model that proposes is not clear",
            found=f"--proposer {text}",
            expected="local, or an endpoint and a model such as http://127.0.0.1:8000/v1#NAME",
            fix="--proposer local",
        )
    _client()
    return Asker(model, Endpoint(url, model, seed))


def _client() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UnavailableError(
            "the OpenAI client is not installed",
            found=str(error),
            expected="it, to ask an endpoint",
            fix="pip install 'tunewise[propose]'",
        ) from error
    return openai
