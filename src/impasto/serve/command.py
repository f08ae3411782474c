"""`impasto serve`: its options, and the process. Heavy imports live inside: --help answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from impasto.command_options import DTYPES, usable_device
from impasto.config import ConfigError, first_line
from impasto.errors import ExpectedError

KEY_VARIABLE = "IMPASTO_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_MODELS = ("aurora-scenes-32", "mars-scenes")


class MissingServerError(ExpectedError):
    """The libraries of the server are not installed."""


def add_serve(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto serve`."""
    verb.description = (
        "An OpenAI-compatible API at /v1 and a web page at /. Stops on Ctrl-C and SIGTERM, after what it "
        "accepted is answered. Needs the extra 'serve': pip install impasto[serve]"
    )
    verb.set_defaults(run=run)
    verb.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="shipped model, directory, hub id or preset; may be repeated, the first answers where a request "
        f"names none (default {' '.join(DEFAULT_MODELS)})",
    )
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    verb.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (default 8000)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    verb.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    verb.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"who may ask; may be repeated. Better in the environment, {KEY_VARIABLE}: ps shows this one",
    )
    verb.add_argument("--no-page", action="store_true", help="the API alone")
    verb.add_argument("--batch-size", type=int, metavar="N", help="pictures per pass (default 8, of MARS 32)")
    verb.add_argument(
        "--queue", type=int, default=128, metavar="N", help="pictures that may wait (default 128)"
    )
    verb.add_argument(
        "--rate",
        type=int,
        default=0,
        metavar="N",
        help="requests a minute of a key or address (default: any)",
    )
    verb.add_argument(
        "--max-prompt", type=int, default=1000, metavar="N", help="characters of a prompt (default 1000)"
    )
    verb.add_argument(
        "--upscaler",
        default="realesrgan",
        metavar="SPEC",
        help="for larger sizes, or 'none' (default realesrgan)",
    )
    verb.add_argument(
        "--safety-filter",
        metavar="MODULE:NAME",
        help="object with check_prompt(prompt) and check_picture(picture, prompt), see docs/serving.md",
    )
    verb.add_argument(
        "--public-url", metavar="URL", help="what addresses of pictures begin with, behind a proxy"
    )


def run(arguments: argparse.Namespace) -> int:
    """`impasto serve`. Raises MissingServerError without the extra's libraries, ConfigError for an option out
    of its range, an address that cannot be listened on, or models that did not load; and as
    `usable_device`, `load_filter` and `Engine` do."""
    _check(arguments)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before its import
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from impasto.serve.api import ApiConfig, create_app, guarded
        from impasto.serve.engine import Engine, EngineConfig
        from impasto.serve.metrics import Metrics
        from impasto.serve.running import make_server
    except ImportError as error:
        raise MissingServerError(f"{first_line(error)}; run: pip install 'impasto[serve]'") from None
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    safety = None if arguments.safety_filter is None else load_filter(arguments.safety_filter)
    metrics = Metrics()
    engine = Engine(
        EngineConfig(
            models=tuple(arguments.model or DEFAULT_MODELS),
            device=usable_device(arguments.device),
            dtype=arguments.dtype,
            queue=arguments.queue,
            batch_size=arguments.batch_size,
            upscaler=None if arguments.upscaler == "none" else arguments.upscaler,
        ),
        safety,
        metrics.batch,
    )
    keys = tuple(arguments.api_key) or tuple(filter(None, [os.environ.get(KEY_VARIABLE)]))
    app = create_app(
        engine,
        ApiConfig(
            keys=keys,
            rate=arguments.rate,
            most_characters=arguments.max_prompt,
            public_url=arguments.public_url,
        ),
        metrics,
    )
    if not arguments.no_page:
        from impasto.serve.page import mount_page

        mount_page(app, engine, arguments.max_prompt)
    if arguments.host not in LOOPBACK and not keys:
        print(f"impasto: anybody who reaches {arguments.host} may ask; set {KEY_VARIABLE}", file=sys.stderr)
    server = make_server(guarded(app), engine.batcher, arguments.host, arguments.port)
    try:
        server.run()
    except SystemExit:
        raise ConfigError(f"--host {arguments.host} --port {arguments.port} cannot be listened on") from None
    except KeyboardInterrupt:
        pass
    if engine.failure is not None:
        raise ConfigError(engine.failure)
    return 0


def load_filter(spec: str) -> Any:
    """The object of MODULE:NAME, called if it is a class. Raises ConfigError where there is none, or it lacks
    a method of `SafetyFilter`."""
    import importlib

    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"--safety-filter {spec} should be MODULE:NAME")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--safety-filter {spec}: {first_line(error)}") from None
    made = found() if isinstance(found, type) else found
    for method in ("check_prompt", "check_picture"):
        if not callable(getattr(made, method, None)):
            raise ConfigError(f"--safety-filter {spec} has no {method}")
    return made


def _check(arguments: argparse.Namespace) -> None:
    from impasto.serve.limits import MOST_PICTURES

    for option, least in (("batch_size", 1), ("rate", 0), ("max_prompt", 1), ("queue", MOST_PICTURES)):
        value = getattr(arguments, option)
        if value is not None and value < least:
            raise ConfigError(f"--{option.replace('_', '-')} {value} should be at least {least}")
    if not 0 <= arguments.port < 65536:
        raise ConfigError(f"--port {arguments.port} should be from 0 to 65535")
    if any(not key for key in arguments.api_key):
        raise ConfigError("--api-key is empty")
