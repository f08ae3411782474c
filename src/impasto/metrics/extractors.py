"""The networks that sets of pictures are measured with, behind one protocol and found by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from impasto.config import ConfigError, first_line, nearest
from impasto.metrics.features import EXTRACTOR, SIDE
from impasto.text.loading import exact_inference, fingerprint, weights_hash
from impasto.vision.efficientnet import ImageFeatures
from impasto.vision.features import SeesPictures

INCEPTION_FEATURES = "2048"
INCEPTION_HASH = "6726825d"  # how the sha256 of torch-fidelity's file of 2015-12-05 begins; its name says so


@runtime_checkable
class Extractor(Protocol):
    """name: what to ask `load_extractor` for, without a path; distance: what the Frechet distance of its
    features is called; fingerprint: 64 hexadecimal digits over the weights and the conventions;
    networks: {name: hash of the weights alone}; settings: what it does to a picture, ready for JSON."""

    @property
    def name(self) -> str: ...
    @property
    def distance(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def networks(self) -> Mapping[str, str]: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    def features(self, images: Tensor) -> Tensor:
        """images [B,3,H,W] in [-1,1] at any size -> [B,D] float32 on the CPU, without gradient."""
        ...


class _Hashes(NamedTuple):
    fingerprint: str
    networks: dict[str, str]


class _Wrapped:
    """An extractor from a function of pictures on a device."""

    def __init__(
        self,
        name: str,
        distance: str,
        network: SeesPictures,
        settings: Mapping[str, Any],
        function: Callable[[Tensor], Tensor],
        device: torch.device | str,
    ) -> None:
        self.name, self.distance, self.fingerprint = name, distance, network.fingerprint
        self.networks, self.settings = dict(network.networks), dict(settings)
        self._function, self._device = function, torch.device(device)

    def features(self, images: Tensor) -> Tensor:
        with exact_inference(self._device):
            return self._function(images.to(self._device)).float().cpu()


def load_extractor(spec: str = EXTRACTOR, device: torch.device | str = "cpu") -> Extractor:
    """By name: "efficientnet-lite0" (the default) and "efficientnet-lite2", each also with the side of its
    input as ":SIDE"; "clip:DIRECTORY", "dinov2:DIRECTORY", "inception:FILE". Nothing is downloaded.

    Raises ConfigError for an unknown name, FileNotFoundError or ValueError where there are no such weights,
    impasto.assets.MissingAssetError where a weight package is absent. All in one line.
    """
    kind, _, source = spec.partition(":")
    if kind not in EXTRACTORS:
        raise ConfigError(f"unknown extractor '{spec}'; {nearest(kind, EXTRACTORS)}")
    return EXTRACTORS[kind](kind, source, device)


def _efficientnet(kind: str, source: str, device: torch.device | str) -> Extractor:
    if source and not source.isdecimal():
        raise ConfigError(f"{kind}:{source} should be {kind} or {kind}:SIDE, such as {kind}:224")
    side = int(source) if source else SIDE
    network = ImageFeatures(kind, side).to(device)
    label = "FD-EffNet" + kind.removeprefix("efficientnet-").capitalize()
    return _Wrapped(
        kind,
        label if side == SIDE else f"{label}-{side}px",
        network,
        {"side": side, "resize": "antialiased bilinear", "features": "pooled, before the classifier"},
        network.pooled,
        device,
    )


def _clip(kind: str, source: str, device: torch.device | str) -> Extractor:
    from impasto.vision.clip import ClipImageText

    network = ClipImageText.from_name(str(_directory(kind, source))).to(device)
    settings = {
        "side": network.side,
        "resize": "antialiased bicubic",
        "features": "image embedding, not normalised",
    }
    return _Wrapped(kind, "FD-CLIP", network, settings, network.embed_images, device)


def _dinov2(kind: str, source: str, device: torch.device | str) -> Extractor:
    from impasto.vision.dinov2 import Dinov2Features

    network = Dinov2Features.from_directory(_directory(kind, source)).to(device)
    settings = {
        "side": network.side,
        "resize": "antialiased bicubic",
        "features": "class token after the last normalisation",
    }
    return _Wrapped(kind, "FD-DINOv2", network, settings, network.pooled, device)


def _inception(kind: str, source: str, device: torch.device | str) -> Extractor:
    """The Inception of FID (TensorFlow's of 2015-12-05), as torch-fidelity computes it. The file is read here
    first, as weights only: torch-fidelity itself would run code that a file carries. With another file than
    the published one the distance is not called FID."""
    path = Path(source)
    if not source:
        raise ConfigError("'inception' needs its weights: inception:FILE")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ConfigError(
            f"inception: needs torch-fidelity: pip install 'impasto[fidelity]' ({first_line(error)})"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        conventions = {"features": INCEPTION_FEATURES, "resize": "tensorflow 1 bilinear"}
        hashes = _Hashes(fingerprint(state, conventions), {"inception": weights_hash(state)})
        network = FeatureExtractorInceptionV3(
            "inception", [INCEPTION_FEATURES], feature_extractor_weights_path=str(path)
        ).to(device)
    except Exception as error:  # a file of anything: pickle's, torch's and torch-fidelity's errors
        raise ValueError(f"{path} does not hold the weights of Inception: {first_line(error)}") from None

    def features(images: Tensor) -> Tensor:
        return network(to_bytes(images))[0]

    settings = {
        "side": network.INPUT_IMAGE_SIZE,
        "resize": "bilinear as in TensorFlow 1, not antialiased (torch-fidelity)",
        "features": "2048 of the last pooling",
    }
    with open(path, "rb") as file:
        published = hashlib.file_digest(file, "sha256").hexdigest().startswith(INCEPTION_HASH)
    return _Wrapped(kind, "FID" if published else "FD-Inception", hashes, settings, features, device)


def to_bytes(images: Tensor) -> Tensor:
    """Of any shape: [-1, 1] -> 8-bit values 0 to 255, rounded."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def _directory(kind: str, source: str) -> Path:
    if not source:
        raise ConfigError(f"'{kind}' needs its weights: {kind}:DIRECTORY")
    directory = Path(source).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(f"no such directory: {source}")
    return directory


EXTRACTORS: dict[str, Callable[[str, str, torch.device | str], Extractor]] = {
    "efficientnet-lite0": _efficientnet,
    "efficientnet-lite2": _efficientnet,
    "clip": _clip,
    "dinov2": _dinov2,
    "inception": _inception,
}
