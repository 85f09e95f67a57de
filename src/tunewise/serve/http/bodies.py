"""What requests may hold. A field that could not take effect is refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from tunewise.serve.contract import MOST_LOGPROBS, Sampling

MOST_STOPS, MOST_MESSAGES, MOST_TOKENS = 4, 1024, 2**31 - 1


def _whole(text: str) -> str:
    """A text, which no tokenizer reads where half of a surrogate pair stands in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no character") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Token = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Label = Annotated[str, StringConstraints(max_length=512)]


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Body):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class Generating(Body):
    """Fields that all generating requests have.

    `temperature` is 0 where it is left out: an adaptation answers as it was measured.
    """

    model: Reference = Field(description="tenant/name, with @version or @alias; or the base")
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: Label | None = Field(None, description="keeps its version where an alias is split")

    def sampling(
        self, *, most: int | None, logprobs: int | None, schema: dict[str, Any] | None
    ) -> Sampling:
        """How tokens are chosen.

        Args:
            most: length of the answer in tokens, or None.
            logprobs: log-probabilities of so many tokens at each place, or None.
            schema: of a JSON answer, or None.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            max_new_tokens=most,
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=() if stops is None else tuple(stops),
            logprobs=logprobs,
            json_schema=schema,
        )


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: Label | None = None
    refusal: Literal[None] = None

    @property
    def text(self) -> str:
        """Its text in one piece."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class PlainFormat(Body):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class JsonSchema(Body):
    """A schema that answers follow."""

    name: Label
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON under a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatBody(Generating):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    response_format: PlainFormat | SchemaFormat | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The schema of a JSON answer; None for text."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        if self.response_format is not None and self.response_format.type == "json_object":
            return {"type": "object"}
        return None


class CompletionBody(Generating):
    """`POST /v1/completions`."""

    prompt: Text | list[Text] | list[Token] | list[list[Token]]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[None] = None


class ClassifyBody(Body):
    """`POST /v1/classify`."""

    model: Reference
    input: Text | list[Text]
    user: Label | None = None


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`."""

    model: Reference
    input: Text | list[Text] | list[Token] | list[list[Token]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Literal[None] = None
    user: Label | None = None


class FeedbackBody(Body):
    """`POST /v1/feedback`: how good an answer was in the end."""

    id: Label = Field(description="the id of the answer")
    score: Annotated[float, Field(ge=0, le=1)] = Field(description="0 wrong, 1 right")


class PromoteBody(Body):
    """`POST /v1/adaptations/{name}/promote`."""

    version: Label = Field(description="a number, an alias, or digits of a hash")
    alias: Name = "production"
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="of requests; below 1 it is tried beside the version in place"
    )
    reason: Label = Field("", description="overrides a gate that refuses; kept in the audit trail")


class RollbackBody(Body):
    """`POST /v1/adaptations/{name}/rollback`."""

    alias: Name = "production"


class RetireBody(Body):
    """`POST /v1/adaptations/{name}/retire`."""

    version: Label
