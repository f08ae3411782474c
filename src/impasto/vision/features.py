"""What every image-text scorer of this package offers, and the one way pictures become an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.nn.precision import at_least_float32


class SeesPictures(Protocol):
    """A frozen network that looks at pictures, known by hash. `fingerprint` changes with the weights and with
    every convention; `networks` {name: 64 hexadecimal digits over the weights alone} names it and every
    network inside it that looks at pictures."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def networks(self) -> Mapping[str, str]: ...


def hashes_by_role(role: str, network: SeesPictures) -> dict[str, str]:
    """What a model's provenance says of a network that its training used."""
    inside = {f"{role}, weights of {name}": digest for name, digest in network.networks.items()}
    return {role: network.fingerprint, **inside}


@runtime_checkable
class ImageTextModel(SeesPictures, Protocol):
    """A frozen image tower and text tower with a common space; cosines times `scale` are logits."""

    @property
    def scale(self) -> float:
        """The logit scale the model was trained to, 100 at most."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the embeddings come out."""
        ...

    def embed_images(self, images: Tensor) -> Tensor:
        """images [B,3,H,W] in [-1,1] at any size -> [B,D] float32, not normalised; differentiable with
        respect to the images, never to the model. Raises ValueError for another shape or type."""
        ...

    def embed_texts(self, texts: list[str]) -> Tensor:
        """[N,D] float32, not normalised, without gradient. Raises ValueError for an empty list, TypeError for
        a bare string."""
        ...

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Moves or casts the weights in place and returns the model. Embeddings are fp32 all the same."""
        ...


def resize_square(images: Tensor, side: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """[B,3,H,W] -> [B,3,side,side] in fp32 (fp64 stays), antialiased and differentiable; a picture that is
    not square is squeezed, one of this size is left alone. Raises ValueError for another shape or type."""
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating point [B,3,H,W], not {images.dtype} of shape {list(images.shape)}"
        )
    images = images.to(at_least_float32(images))
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode=mode, align_corners=False, antialias=True)


def channels(values: Sequence[float], like: Tensor) -> Tensor:
    """[1,C,1,1] of the type and device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
