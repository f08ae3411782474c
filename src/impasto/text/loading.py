"""What the frozen encoders share: quiet loading, exact running, a hash, a directory for a name."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.config import first_line

# What a CLIP text tower needs from a hub repository; the weights only as safetensors.
HUB_FILES = ["*.json", "merges.txt", "model.safetensors", "model-*.safetensors"]


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' bars, reports and warnings, and leaves the global random state as it was."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def read_pretrained(directory: Path, loader: Any, kinds: Sequence[str], wanted: str) -> Any:
    """transformers' model in fp32 from a local directory, every weight from the file: a missing one would be
    random. `loader` is its class, `kinds` the model types it may be, `wanted` what those are called. Raises
    FileNotFoundError or ValueError, in one line, where the directory holds something else."""
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"no config.json in {directory}")
    kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    if kind not in kinds:
        raise ValueError(f"{directory} holds a {kind} model, not {wanted}")
    if not any(directory.glob("model*.safetensors")):
        raise FileNotFoundError(f"no model.safetensors in {directory}")
    try:
        with quiet_loading():
            model, report = loader.from_pretrained(
                directory,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not the weights of its config.json, {directory}: {first_line(error)}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            key = min(report[problem])
            raise ValueError(f"not the weights of its config.json, {directory}: {problem}, such as {key}")
    return model


@contextmanager
def exact_inference(device: torch.device) -> Iterator[None]:
    """No gradient, and float32 also inside a caller's autocast."""
    with torch.no_grad(), torch.autocast(device_type=device.type, enabled=False):
        yield


def fingerprint(state: Mapping[str, Tensor], conventions: Mapping[str, object]) -> str:
    """64 hexadecimal digits over the conventions and every tensor [...] (name, type, shape, bytes)."""
    digest = hashlib.sha256(json.dumps(conventions, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits over the weights [...] alone: the same however pictures are prepared for them."""
    return fingerprint(state, {})


def resolve_directory(name: str) -> Path:
    """A local directory as it is, or the downloaded (or cached) files of a hub name "owner/model".

    Raises FileNotFoundError, in one line, where neither exists.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no such directory, and not a hub name (owner/model): {name}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"no directory {name}, and the hub cannot give it ({reason})") from error
