"""What requests may say. Numbers are numbers, unknown names are refused, and parameters of OpenAI's API that
mean nothing here may be given only as what happens anyway."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from impasto.serve.limits import MOST_PICTURES

LARGEST_SEED = 2**32 - 1


def _whole(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Request(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Text | None = None
    user: Text | None = None  # whose request this is; not kept


class Sampling(BaseModel):
    """Options of the families, by their names on the command line."""

    model_config = ConfigDict(extra="forbid", strict=True)

    truncation: Annotated[Number, Field(ge=-1, le=1)] | None = None
    truncation_mode: Literal["average", "prompt"] | None = None
    guidance: Annotated[Number, Field(ge=0, le=100)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None

    def options(self) -> dict[str, Any]:
        """Those that were given."""
        names = Sampling.model_fields
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class ImagesRequest(Request, Sampling):
    """POST /v1/images/generations."""

    prompt: Text
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = None
    size: Text | None = None
    seed: Seed | None = None
    response_format: Literal["url", "b64_json"] | None = None
    # OpenAI's, of which there is one kind here.
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    output_compression: Literal[100] | None = None
    moderation: Literal["auto"] | None = None
    partial_images: Literal[0] | None = None
    stream: Literal[False] | None = None


class ImageUrl(BaseModel):
    """A picture in a message: a data: URL, never an address to fetch."""

    model_config = ConfigDict(extra="ignore", strict=True)

    url: str


class ContentPart(BaseModel):
    """A part of a message: text, or a picture."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(max_length=32)]


class ChatRequest(Request):
    """POST /v1/chat/completions: one picture, described. `language` is ours."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=64)]
    language: Literal["en", "zh"] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=256)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=256)] | None = None
    n: Literal[1] | None = None
    temperature: Number | None = None  # descriptions are the likeliest words, whatever this says
    top_p: Number | None = None
    seed: int | None = None
    stream: Literal[False] | None = None


class InterleavedRequest(Request):
    """POST /v1/interleaved: text and pictures in the order that a model of MARS chooses."""

    prompt: Text
    seed: Seed | None = None
    max_words: Annotated[int, Field(ge=1, le=256)] = 64
    max_pictures: Annotated[int, Field(ge=0, le=4)] = 1
    temperature: Annotated[Number, Field(ge=0, le=100)] = 1.0
