"""The HTTP API: OpenAI's images, models and chat with pictures, one endpoint of our own, health, metrics."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from PIL import Image

from impasto.config import nearest
from impasto.pictures import decode_picture, encode_png
from impasto.serve import errors
from impasto.serve.batching import ClosedError, QueueFullError
from impasto.serve.engine import Engine, RefusedError
from impasto.serve.errors import ApiError, AsciiResponse, busy, shown
from impasto.serve.guard import Guard, GuardConfig
from impasto.serve.limits import MOST_PICTURES, Keys, RateLimiter
from impasto.serve.metrics import Metrics
from impasto.serve.schemas import ChatRequest, ImagesRequest, InterleavedRequest
from impasto.serve.served import AS_DRAWN, Served, Size
from impasto.serve.store import PictureStore

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
MOST_PIXELS = 4096 * 4096  # of a picture to describe


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """keys: who may ask, anybody if there are none. rate: requests a minute of one key or address, 0 without
    limit. most_characters of a prompt. public_url: what addresses of pictures begin with, if not with the
    address that the request came to."""

    keys: tuple[str, ...] = ()
    rate: int = 0
    most_characters: int = 1000
    public_url: str | None = None
    guard: GuardConfig = field(default_factory=GuardConfig)


@dataclass
class State:
    """What every request needs."""

    engine: Engine
    config: ApiConfig
    metrics: Metrics
    store: PictureStore

    def served(self, name: str | None, *, family: str | None = None) -> Served:
        """The model of a request. Raises ApiError: 503 before all have answered, 404 for another name, 400
        for another family."""
        if not self.engine.ready.is_set():
            raise ApiError(503, "the models are being loaded", code="loading", headers={"Retry-After": "2"})
        known = self.engine.models
        if name is None:
            fitting = [one for one in known.values() if family in (None, one.family)]
            if not fitting:
                raise ApiError(400, f"no model of the family {family} is served", param="model")
            return fitting[0]
        if name not in known:
            hint = nearest(name[: errors.SHOWN], known)
            raise ApiError(404, f"no model '{shown(name)}'; {hint}", code="model_not_found", param="model")
        if family not in (None, known[name].family):
            raise ApiError(400, f"'{name}' does not do this; a model of {family} does", param="model")
        return known[name]

    def checked_prompt(self, prompt: str) -> str:
        """The prompt. Raises ApiError 400 for none, or one that is too long."""
        most = self.config.most_characters
        if not prompt:
            raise ApiError(400, "the prompt is empty", param="prompt")
        if len(prompt) > most:
            told = f"the prompt has {len(prompt):,} characters; at most {most:,}"
            raise ApiError(400, told, code="prompt_too_long", param="prompt")
        return prompt

    async def answered(self, request: Request, submit: Callable[[], Future]) -> Any:
        """What the models' thread gives. Who hangs up leaves the queue. Raises ApiError: 429 where the queue
        is full (`errors.busy`), 503 when shutting down, 400 for what the filter refuses (its reason) or the
        pipeline does not take, 499 for who hung up."""
        try:
            future = submit()
        except QueueFullError as error:
            told = f"too much is waiting; try again in {error.retry_after} s"
            raise busy(error.retry_after, told, "server_busy") from None
        except ClosedError:
            raise ApiError(503, "shutting down", code="shutting_down") from None
        except RefusedError as error:
            self.metrics.refused.labels("prompt").inc()
            raise _policy(str(error)) from None
        waiting = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                raise ApiError(499, "the client hung up")
            return waiting.result()
        except RefusedError as error:
            self.metrics.refused.labels("picture").inc()
            raise _policy(str(error)) from None
        except ValueError as error:  # the pipeline's own, in one line, of this request
            raise ApiError(400, str(error)[:400], code="invalid_value") from None
        finally:
            gone.cancel()


def create_app(engine: Engine, config: ApiConfig, metrics: Metrics) -> FastAPI:
    """The application. It starts the engine; whoever runs it closes the engine's batcher, see
    `running.GracefulServer`. Its answers to what goes wrong are ApiError's, 404 for an unknown address."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.batcher.close()

    app = FastAPI(title="Impasto", docs_url=None, redoc_url=None, lifespan=lifespan)
    state = State(engine, config, metrics, PictureStore())
    app.state.impasto = state
    errors.install(app)
    _add_images(app, state)
    _add_models(app, state)
    _add_chat(app, state)
    _add_interleaved(app, state)
    _add_health(app, state)

    @app.api_route("/v1/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def unknown(rest: str) -> Response:
        raise ApiError(404, "no such address", code="unknown_url")

    return app


def guarded(app: FastAPI) -> Guard:
    """The application inside its guard: what is served."""
    state: State = app.state.impasto
    return Guard(
        app,
        keys=Keys(state.config.keys),
        rates=RateLimiter(state.config.rate),
        metrics=state.metrics,
        config=state.config.guard,
    )


def _add_images(app: FastAPI, state: State) -> None:
    @app.post("/v1/images/generations")
    async def generate(body: ImagesRequest, request: Request) -> Response:
        served = state.served(body.model)
        prompt, options = state.checked_prompt(body.prompt), body.options()
        for name in options:
            if name not in served.options:
                known = ", ".join(served.options)
                told = f"'{name}' means nothing to '{served.name}'; it knows {known}"
                raise ApiError(400, told, code="unknown_parameter", param=name)
        name, size = _size(served, body.size)
        first = secrets.randbelow(2**31) if body.seed is None else body.seed
        seeds = range(first, first + (body.n or 1))
        pictures = await state.answered(
            request, lambda: state.engine.draw(served, prompt, seeds, options, size)
        )
        refused = next((one.refused for one in pictures if one.refused), None)
        if refused is not None:
            state.metrics.refused.labels("picture").inc()
            raise _policy(refused)
        return AsciiResponse(
            {
                "created": int(time.time()),
                "data": [_datum(state, request, body.response_format, one) for one in pictures],
                "model": served.name,
                "size": name,
                "output_format": "png",
                "background": "opaque",
            }
        )

    @app.get("/v1/pictures/{name}.png")
    async def picture(name: str) -> Response:
        png = state.store.get(name)
        if png is None:
            raise ApiError(404, "no such picture, or no longer", code="picture_expired")
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _size(served: Served, asked: str | None) -> tuple[str, Size]:
    sizes = served.sizes
    if asked in (None, "auto"):
        return f"{served.sides[0]}x{served.sides[0]}", AS_DRAWN
    if asked not in sizes:
        told = f"'{served.name}' draws {', '.join(sizes)}, not '{shown(asked)}'"
        raise ApiError(400, told, code="invalid_size", param="size")
    return str(asked), sizes[str(asked)]


def _datum(state: State, request: Request, response_format: str | None, one: Any) -> dict[str, Any]:
    if response_format == "b64_json":
        return {"b64_json": base64.b64encode(one.png).decode("ascii"), "seed": one.seed}
    base = state.config.public_url or str(request.base_url)
    return {"url": f"{base.rstrip('/')}/v1/pictures/{state.store.put(one.png)}.png", "seed": one.seed}


def _add_models(app: FastAPI, state: State) -> None:
    def told(served: Served) -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "impasto",
            "family": served.family,
            "sizes": list(served.sizes),
            "options": list(served.options),
            "most_pictures": MOST_PICTURES,
        }

    @app.get("/v1/models")
    async def models() -> Response:
        return AsciiResponse({"object": "list", "data": [told(one) for one in state.engine.models.values()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return AsciiResponse(told(state.served(name)))


def _add_chat(app: FastAPI, state: State) -> None:
    @app.post("/v1/chat/completions")
    async def describe(body: ChatRequest, request: Request) -> Response:
        served = state.served(body.model, family="mars")
        urls = [
            part.image_url.url
            for message in body.messages
            if not isinstance(message.content, str)
            for part in message.content
            if part.image_url is not None
        ]
        if len(urls) != 1:
            told = f"{len(urls)} pictures in the messages; this describes one, as image_url with a data: URL"
            raise ApiError(400, told, param="messages")
        picture = await asyncio.to_thread(_picture, urls[0])
        most = body.max_completion_tokens or body.max_tokens or 64
        (text,) = await state.answered(
            request, lambda: state.engine.describe(served, picture, body.language, most)
        )
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
        return AsciiResponse(
            {
                "id": f"chatcmpl-{secrets.token_hex(12)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": served.name,
                "choices": [choice],
            }
        )


def _picture(url: str) -> Image.Image:
    """Of a data: URL; nothing is ever fetched."""
    found = DATA_URL.match(url)
    if not found:
        told = "image_url should be data:image/png;base64,...; nothing is fetched"
        raise ApiError(400, told, param="messages")
    try:
        data = io.BytesIO(base64.b64decode(url[found.end() :], validate=True))
        return decode_picture(data, most_pixels=MOST_PIXELS)
    except ValueError as error:  # of either
        told = "the data of image_url is no readable picture"
        if str(error) == "picture too large":
            told = f"the picture has more than {MOST_PIXELS:,} pixels"
        raise ApiError(400, told, param="messages") from None


def _add_interleaved(app: FastAPI, state: State) -> None:
    @app.post("/v1/interleaved")
    async def write(body: InterleavedRequest, request: Request) -> Response:
        served, prompt = state.served(body.model, family="mars"), state.checked_prompt(body.prompt)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        parts = await state.answered(request, lambda: _submit_document(state, served, prompt, seed, body))
        told = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": _data_url(part)}}
            for part in parts[0]
        ]
        return AsciiResponse({"created": int(time.time()), "model": served.name, "seed": seed, "parts": told})


def _submit_document(
    state: State, served: Served, prompt: str, seed: int, body: InterleavedRequest
) -> Future[list[Any]]:
    state.engine.check_prompt(prompt)

    def written() -> list[Any]:
        parts = served.pipe.write(
            prompt,
            seed=seed,
            max_words=body.max_words,
            max_pictures=body.max_pictures,
            temperature=body.temperature,
        )
        for part in parts:
            reason = state.engine.refusal(part, prompt)
            if reason is not None:
                raise RefusedError(reason)
        return parts

    return state.engine.alone(served, written, max(1, body.max_pictures))


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode("ascii")


def _add_health(app: FastAPI, state: State) -> None:
    @app.get("/health/live")
    async def live() -> Response:
        return AsciiResponse({"status": "live"})

    @app.get("/health/ready")
    async def ready() -> Response:
        engine = state.engine
        if not engine.ready.is_set():
            return AsciiResponse({"status": "failed" if engine.failure else "loading"}, 503)
        return AsciiResponse({"status": "ready", "models": list(engine.models)})

    @app.get("/metrics")
    async def metrics() -> Response:
        text = state.metrics.text(state.engine, state.store.bytes)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _policy(reason: str) -> ApiError:
    return ApiError(400, shown(reason), code="content_policy_violation", param="prompt")


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
