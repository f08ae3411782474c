"""Upscalers of optional libraries: checkpoints through spandrel, the latent upscaler of diffusers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.config import first_line
from impasto.errors import ExpectedError
from impasto.upscaling.protocol import check_scale, checked
from impasto.upscaling.tiled import TILE, NetworkUpscaler

SUFFIXES = (".safetensors", ".pth")
LATENT_SCALE, LATENT_SIDE, LATENT_STEPS = 2, 64, 20


class MissingLibraryError(ExpectedError):
    """An optional library is absent; one line, with the command that installs it."""


def load_spandrel(path: str, scale: int) -> NetworkUpscaler:
    """A checkpoint whose architecture spandrel knows: .safetensors, or .pth through spandrel's own restricted
    unpickler.

    Raises MissingLibraryError where spandrel is absent, FileNotFoundError, and ValueError for another kind of
    file, an unknown architecture, or a scale that is neither the network's nor half of it.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ValueError(f"spandrel:{path}: name a file that ends in {' or '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    spandrel = _import("spandrel")
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(file)
    except Exception as error:  # of many kinds: spandrel's own, torch's, pickle's, safetensors'
        raise ValueError(f"{file}: spandrel cannot load it: {first_line(error)}") from None
    pictures = isinstance(found, spandrel.ImageModelDescriptor)
    if not pictures or (found.input_channels, found.output_channels) != (3, 3):
        raise ValueError(f"{file}: not a network from one RGB picture to another")
    tile = TILE if found.tiling.name == "SUPPORTED" else None
    return NetworkUpscaler(f"spandrel:{file.name}", found.eval(), scale, native=found.scale, tile=tile)


def load_diffusers(path: str, scale: int) -> LatentUpscaler:
    """A directory of StableDiffusionLatentUpscalePipeline with .safetensors weights; nothing is downloaded.

    Raises MissingLibraryError where diffusers is absent, FileNotFoundError, and ValueError for a directory
    that diffusers cannot load or a scale other than 2.
    """
    directory = Path(path)
    name = f"diffusers:{directory.name}"
    check_scale(name, scale, LATENT_SCALE)
    if not (directory / "model_index.json").is_file():
        raise FileNotFoundError(f"{directory}: not a directory of diffusers, which holds model_index.json")
    diffusers = _import("diffusers")
    try:
        pipeline = diffusers.StableDiffusionLatentUpscalePipeline.from_pretrained(
            directory, local_files_only=True, use_safetensors=True
        )
    except Exception as error:
        raise ValueError(f"{directory}: diffusers cannot load it: {first_line(error)}") from None
    return LatentUpscaler(name, pipeline)


class LatentUpscaler:
    """Diffusion in the latents of an autoencoder, with an empty prompt, without guidance, one picture at a
    time, from the same noise for each. Not in tiles, which would not agree with one another."""

    scale = LATENT_SCALE

    def __init__(self, name: str, pipeline: Any) -> None:
        self.name, self.pipeline = name, pipeline
        pipeline.set_progress_bar_config(disable=True)

    def to(self, device: torch.device | str) -> Self:
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def upscale(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,2H,2W] and errors as in `Upscaler`; ValueError also where the pipeline gives
        another size. Sides are filled up to multiples of 64, as the pipeline asks, and cut again."""
        images = checked(images)
        height, width = images.shape[2:]
        result = images.new_empty(len(images), 3, 2 * height, 2 * width)
        filled = F.pad(images, (0, -width % LATENT_SIDE, 0, -height % LATENT_SIDE), mode="replicate")
        for index, image in enumerate(filled):
            made = self.pipeline(
                prompt="",
                image=(image[None] + 1) / 2,
                num_inference_steps=LATENT_STEPS,
                guidance_scale=0,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            ).images[0]
            pixels = torch.as_tensor(made).permute(2, 0, 1).float() * 2 - 1
            if pixels.shape != (3, 2 * image.shape[1], 2 * image.shape[2]):
                raise ValueError(f"'{self.name}' made {list(pixels.shape)} of {list(image.shape)}")
            result[index] = pixels[:, : 2 * height, : 2 * width]
        return result.clamp(-1, 1)


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        reason = f"--upscaler {library}: needs '{library}', which is not usable ({first_line(error)})"
        raise MissingLibraryError(f"{reason}; run: pip install {library}") from None
