"""`/v1/classify`, `/v1/embeddings` and `/v1/feedback`."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import APIRouter, Request

from tunewise.errors import DataError, UnknownNameError
from tunewise.serve.contract import Finished, Ready, Sampling
from tunewise.serve.http.bodies import ClassifyBody, EmbeddingsBody, FeedbackBody
from tunewise.serve.http.calls import call_of, caller_of
from tunewise.serve.http.models import Model
from tunewise.serve.http.rendering import Prompt, prompts_of, texts_render
from tunewise.serve.http.replies import usage_object, vector
from tunewise.serve.http.routes.generate import sticky_key
from tunewise.serve.http.running import attended
from tunewise.serve.http.service import Service
from tunewise.serve.http.work import Render, working

JsonObject = dict[str, Any]


def row_routes(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1")
    tokenizer = service.engine.base.tokenizer
    most = service.settings.inputs

    @routes.post("/classify", tags=["Adaptations"], summary="Labels with their probabilities")
    async def classify(body: ClassifyBody, request: Request) -> JsonObject:
        prompts = prompts_of(body.input, most)
        render = _labels_only(texts_render(tokenizer, prompts, Sampling(), "labels"))
        ends, model = await _run(service, request, body.model, body.user, render, prompts)
        identity = f"cls-{secrets.token_hex(16)}"
        service.answered(identity, caller_of(request).tenant, model)
        return {
            "id": identity,
            "object": "list",
            "model": model.label,
            "data": [_classified(index, end) for index, end in enumerate(ends)],
            "usage": usage_object([end.usage for end in ends]),
        }

    @routes.post("/embeddings", tags=["OpenAI"], summary="Vectors of texts")
    async def embeddings(body: EmbeddingsBody, request: Request) -> JsonObject:
        prompts = prompts_of(body.input, most)
        render = texts_render(tokenizer, prompts, Sampling(), "embedding")
        ends, model = await _run(service, request, body.model, body.user, render, prompts)
        encoding = "float" if body.encoding_format is None else body.encoding_format
        return {
            "object": "list",
            "model": model.label,
            "data": [
                {"object": "embedding", "index": index, "embedding": vector(each, encoding)}
                for index, each in enumerate(end.embedding for end in ends)
            ],
            "usage": usage_object([end.usage for end in ends]),
        }

    @routes.post("/feedback", tags=["Adaptations"], summary="How good an answer was")
    async def feedback(body: FeedbackBody, request: Request) -> JsonObject:
        tenant = caller_of(request).tenant
        try:
            label = await service.outcome(body.id, tenant, body.score)
        except UnknownNameError:
            if service.peers is None:
                raise
            elsewhere = await service.peers.outcome(body.id, tenant, body.score)
            if elsewhere is None:
                raise
            label = elsewhere
        call_of(request).model = label
        return {"id": body.id, "object": "feedback", "model": label, "score": body.score}

    return routes


async def _run(
    service: Service,
    request: Request,
    reference: str,
    user: str | None,
    render: Render,
    prompts: list[Prompt],
) -> tuple[list[Finished], Model]:
    call = call_of(request)
    if service.settings.log_prompts:
        call.texts["prompt"] = prompts
    key = sticky_key(request, user)

    async def run() -> tuple[list[Finished], Model]:
        principal = caller_of(request)
        async with working(service, call, principal, reference, render, key=key) as work:
            return await work.results(), work.model

    left = service.settings.request_seconds - call.seconds
    return await attended(request.receive, run(), left)


def _labels_only(render: Render) -> Render:
    """Refuse what has no labels before it is rendered."""

    def checked(ready: Ready) -> Any:
        if ready.spec is None or not ready.spec.labels:
            raise DataError(
                "this model has no labels to choose from",
                found="the base alone" if ready.spec is None else f"{ready.spec.kind} task",
                expected="an adaptation to a classification task",
                fix="use /v1/chat/completions",
            )
        return render(ready)

    return checked


def _classified(index: int, end: Finished) -> JsonObject:
    labels = [{"label": label, "probability": value} for label, value in end.labels]
    best = max(end.labels, key=lambda each: each[1], default=(end.text, end.probability))
    return {"index": index, "label": best[0], "probability": best[1], "labels": labels}
