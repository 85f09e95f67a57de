"""Answers of adaptations that never call the base: at once, without a place in the batch."""

from __future__ import annotations

import numpy as np

from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import AdaptationError, ConfigError
from tunewise.serve.contract import Finished, Piece, Request, Usage
from tunewise.serve.engine.choose import check_sampling
from tunewise.serve.stream import EventStream
from tunewise.task.types import TaskSpec


def answered(request: Request, predictor: ShallowPredictor, spec: TaskSpec | None) -> EventStream:
    """The whole answer.

    Args:
        request: its text is read, not its tokens.
        predictor: answers it.
        spec: the task; its labels give those of the readout "labels".

    Raises:
        ConfigError: the readout does not fit.
    """
    check_sampling(request.sampling)
    if request.readout == "embedding":
        raise ConfigError(
            "an adaptation that never calls the base has no embeddings",
            expected="an adaptation of the base, or the base alone",
        )
    stream = EventStream(lambda: None)
    usage = Usage(0, 0, 0)
    if request.readout == "labels":
        stream.put(Finished("stop", "", usage, labels=_labels(request, predictor, spec)))
        return stream
    answer = predictor.predict([request.text])[0]
    stream.put(Piece(answer.answer))
    stream.put(Finished("stop", answer.answer, usage, answer.probability))
    return stream


def _labels(
    request: Request, predictor: ShallowPredictor, spec: TaskSpec | None
) -> tuple[tuple[str, float], ...]:
    try:
        scores = predictor.scores([request.text])[0]
    except AdaptationError as error:
        raise ConfigError(
            "this adaptation has no probabilities of labels", found=error.found
        ) from error
    labels = () if spec is None else spec.labels
    return tuple(zip(labels, np.exp(scores).tolist(), strict=True))
