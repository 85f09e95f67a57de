"""Which token comes next."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewise.errors import ConfigError, RunError
from tunewise.serve.contract import MOST_LOGPROBS, Sampling


@dataclass(frozen=True, slots=True)
class Likeliest:
    """The likeliest token of one place, and its log-probability over the whole vocabulary."""

    token: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, its log-probability, and the likeliest ones: (token, log-probability)."""

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


def likeliest(logits: Tensor) -> list[Likeliest]:
    """The likeliest token of every place of a batch.

    Args:
        logits: (N, V) float32.

    Returns:
        N of them; a log-probability that is not finite tells that the logits are not.
    """
    # NumPy's argmax is several times PyTorch's on one core; both take the first of equals.
    tokens = logits.cpu().numpy().argmax(axis=1)
    index = torch.from_numpy(tokens).to(logits.device)
    taken = logits.gather(1, index[:, None])[:, 0] - logits.logsumexp(dim=1)
    return [
        Likeliest(int(token), probability)
        for token, probability in zip(tokens, taken.tolist(), strict=True)
    ]


class Chooser:
    """Chooses the tokens of one answer; no draw depends on other requests.

    Args:
        sampling: how.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0.0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(seed)

    def choose(self, logits: Tensor, best: Likeliest, allowed: Tensor | None) -> Chosen:
        """The next token.

        Args:
            logits: (V,) float32.
            best: the likeliest of all tokens.
            allowed: (V,) True at allowed tokens; None allows all.

        Raises:
            RunError: the logits are not finite numbers.
        """
        if not math.isfinite(best.log_probability):
            raise RunError(
                "the model gave no finite numbers for this request",
                fix="serve the adaptation in float32, or fit it again",
            )
        plain = self._generator is None and self._sampling.logprobs in (None, 0)
        if plain and allowed is None:
            return Chosen(best.token, best.log_probability)
        if allowed is not None:
            logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
        log_probability = logits.log_softmax(dim=-1)
        token = int(logits.argmax()) if self._generator is None else self._draw(logits)
        top: tuple[tuple[int, float], ...] = ()
        if self._sampling.logprobs:
            values, indices = log_probability.topk(min(self._sampling.logprobs, len(logits)))
            pairs = zip(indices.tolist(), values.tolist(), strict=True)
            top = tuple((index, value) for index, value in pairs if value > -math.inf)
        return Chosen(token, float(log_probability[token]), top)

    def _draw(self, logits: Tensor) -> int:
        # From the best down: over a tiny temperature the others become minus infinity, and nothing
        # the difference of two infinities. One that float32 takes for 0 counts as its least.
        temperature = max(self._sampling.temperature, torch.finfo(logits.dtype).tiny)
        probability = ((logits - logits.max()) / temperature).softmax(dim=-1)
        if self._sampling.top_p < 1.0:
            ordered, order = probability.sort(descending=True, stable=True)
            # What stands before a token must fall short of the mass that is asked.
            kept = ordered.cumsum(dim=0) - ordered < self._sampling.top_p
            probability = torch.zeros_like(probability)
            probability[order[kept]] = ordered[kept]
        return int(torch.multinomial(probability, 1, generator=self._generator))


def check_sampling(sampling: Sampling) -> None:
    """Refuse what cannot take effect.

    Raises:
        ConfigError: says which setting, what was found, and its range.
    """
    seed, most = sampling.seed, sampling.max_new_tokens
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("max_new_tokens", most, most is None or most >= 1, "1 or more"),
        (
            "temperature",
            sampling.temperature,
            _within(sampling.temperature, 0.0, 100.0),
            "0 to 100",
        ),
        (
            "top_p",
            sampling.top_p,
            _within(sampling.top_p, 0.0, 1.0) and sampling.top_p > 0.0,
            "above 0, up to 1",
        ),
        ("seed", seed, seed is None or -(2**63) <= seed < 2**63, "a whole number of 64 bits"),
        (
            "logprobs",
            sampling.logprobs,
            sampling.logprobs is None or 0 <= sampling.logprobs <= MOST_LOGPROBS,
            f"0 to {MOST_LOGPROBS}",
        ),
        (
            "ignore_end",
            sampling.ignore_end,
            not sampling.ignore_end or sampling.json_schema is None,
            "an answer that may go on: JSON ends",
        ),
        ("stop", list(sampling.stop), all(sampling.stop), "texts that are not empty"),
    )
    for name, found, right, expected in rules:
        if not right:
            raise ConfigError(f"{name} is out of range", found=str(found), expected=expected)


def _within(value: float, least: float, most: float) -> bool:
    # Not a number is within nothing.
    return least <= value <= most
