"""The image tokenizer of MARS: pictures to a small grid of codes and back.

The paper says 8,192 codes and f = 16; that codes have 8 dimensions and unit length is LlamaGen's, and what
lets a large codebook be used at all. Shapes: B batch, H and W sides, h = H / f, w = W / f, N codes of D.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.config import ConfigError
from impasto.mars.vq_layers import Decoder, Encoder
from impasto.nn.precision import at_least_float32, without_autocast

COMMITMENT_WEIGHT = 0.25  # VQ-VAE, all peers
LOOKUP_NUMBERS = 2**26  # of a table of distances made at once: 256 MiB


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """A tokenizer. Defaults: the networks of taming and LlamaGen's VQ-16, the paper's number of codes."""

    image_channels: int = 3
    channels: tuple[int, ...] = (128, 128, 256, 256, 512)  # of each level, finest first; each halves the side
    # Pixels of a square folded into channels before the encoder, and unfolded after the decoder (ours): small
    # pictures on a CPU, where convolutions of few channels over many pixels are slow. 1: none, as all peers.
    patch: int = 1
    blocks: int = 2  # residual blocks a level; the decoder has one more
    attention_levels: tuple[int, ...] = (4,)  # counted from the finest, 0
    middle_attention: bool = True
    norm_groups: int = 32
    latent_channels: int = 256
    codes: int = 8192  # paper
    code_dim: int = 8  # LlamaGen; taming and openMUSE: 256
    # "both": unit vectors in the search and for the decoder (LlamaGen). "decode": the search compares raw
    # vectors, the decoder sees unit ones (transformers' port of Janus). "none": taming, diffusers.
    normalize: Literal["both", "decode", "none"] = "both"

    def __post_init__(self) -> None:
        least = {
            "image_channels": 1,
            "blocks": 1,
            "norm_groups": 1,
            "latent_channels": 1,
            "codes": 2,
            "patch": 1,
        }
        for name, value in {**least, "code_dim": 2 if self.normalize != "none" else 1}.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name}={getattr(self, name)} should be at least {value}")
        if not self.channels:
            raise ConfigError("channels should name at least one level")
        for width in self.channels:
            if width < 1 or width % self.norm_groups:
                raise ConfigError(f"channels={self.channels} should divide by norm_groups={self.norm_groups}")
        odd = [level for level in self.attention_levels if not 0 <= level < len(self.channels)]
        if odd:
            raise ConfigError(f"attention_levels={odd[0]} is not among the {len(self.channels)} levels")

    @property
    def factor(self) -> int:
        """f: how many pixels along a side a code stands for."""
        return self.patch * 2 ** (len(self.channels) - 1)


class VQLosses(NamedTuple):
    """Means over all numbers, in fp32, not weighted."""

    codebook: Tensor  # moves the codes to the encoder's outputs: ||sg(z) - e||^2
    commitment: Tensor  # moves the encoder's outputs to the codes: ||z - sg(e)||^2

    def total(self, commitment_weight: float = COMMITMENT_WEIGHT) -> Tensor:
        """codebook + weight * commitment (van den Oord et al. 2017, eq. 3). The weight belongs to the term
        that trains the encoder; diffusers, transformers' Janus and taming's default have it on the other. A
        scalar."""
        return self.codebook + commitment_weight * self.commitment


class Quantized(NamedTuple):
    """vectors [B, D, h, w] for the decoder, ids [B, h, w], and inputs [B * h * w, D], what was looked up."""

    vectors: Tensor
    ids: Tensor
    losses: VQLosses
    inputs: Tensor


class VQOutput(NamedTuple):
    """reconstruction [B, C, H, W], ids [B, h, w] int64, losses, inputs [B * h * w, D] of the lookup."""

    reconstruction: Tensor
    ids: Tensor
    losses: VQLosses
    inputs: Tensor


class Quantizer(nn.Module):
    """The codebook. Everything here runs in fp32 or better, also under autocast."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.search_unit = config.normalize == "both"
        self.decode_unit = config.normalize != "none"
        self.embedding = nn.Embedding(config.codes, config.code_dim)
        with torch.no_grad():
            if self.decode_unit:
                weight = self.embedding.weight
                weight.copy_(F.normalize(weight, dim=-1))
            else:
                self.embedding.weight.uniform_(-1 / config.codes, 1 / config.codes)  # taming

    def entries(self) -> Tensor:
        """[N, D] as the decoder sees them."""
        weight = self.embedding.weight.to(at_least_float32(self.embedding.weight))
        return F.normalize(weight, dim=-1) if self.decode_unit else weight

    def inputs(self, latents: Tensor) -> Tensor:
        """latents [B, D, h, w] -> [B * h * w, D], of unit length if the search is."""
        flat = latents.to(at_least_float32(latents)).permute(0, 2, 3, 1).flatten(0, 2)
        return F.normalize(flat, dim=-1) if self.search_unit else flat

    @torch.no_grad()
    def nearest(self, inputs: Tensor) -> Tensor:
        """inputs [M, D] -> ids [M] of the codes at the least Euclidean distance."""
        codes = self.entries() if self.search_unit else self.embedding.weight.to(inputs.dtype)
        offset = codes.square().sum(-1)  # |z|^2 is the same for all codes
        rows = max(LOOKUP_NUMBERS // len(codes), 1)
        parts = [torch.addmm(offset, part, codes.t(), alpha=-2).argmin(1) for part in inputs.split(rows)]
        return torch.cat(parts)

    def forward(self, latents: Tensor) -> Quantized:
        """latents [B, D, h, w]. The gradient of `vectors` goes to the latents unchanged."""
        batch, _, height, width = latents.shape
        with without_autocast(latents):
            z = self.inputs(latents)
            ids = self.nearest(z)
            vectors = self.entries()[ids]
            losses = VQLosses(F.mse_loss(vectors, z.detach()), F.mse_loss(z, vectors.detach()))
            # exactly the codes in value: z - z is zero before it is added
            passed = vectors.detach() + (z - z.detach())
        maps = passed.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)
        return Quantized(maps, ids.view(batch, height, width), losses, z.detach())

    @torch.no_grad()
    def revive(self, dead: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Replace the codes of dead [N] bool by encoder outputs, inputs [M, D] of a recent batch, drawn in
        proportion to their squared distance from the code they have now (as k-means++ picks centres; ours).

        Draws on the CPU, so that equal generators give equal codes. Outputs that are not finite are never
        taken. Returns the ids [K] of the codes replaced: fewer than are dead if there are fewer outputs."""
        ids = dead.nonzero()[:, 0]
        good = inputs[torch.isfinite(inputs).all(1)].to(at_least_float32(inputs))
        if not len(ids) or not len(good):
            return ids[:0]
        entries = self.entries() if self.search_unit else self.embedding.weight.to(good.dtype)
        errors = (good - entries[self.nearest(good)]).square().sum(1).double().cpu() + 1e-12
        ids = ids[: len(good)]
        chosen = torch.multinomial(errors, len(ids), replacement=False, generator=generator)
        self.embedding.weight[ids] = good[chosen.to(good.device)].to(self.embedding.weight.dtype)
        return ids


class CodeUsage:
    """How often each code was used. Counts of several batches or ranks add up."""

    def __init__(self, codes: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(codes, dtype=torch.int64, device=device)

    def update(self, ids: Tensor) -> None:
        """Count ids of any shape."""
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))

    def merge(self, other: "CodeUsage | Tensor") -> None:
        """Add another's counts, or counts [N]."""
        counts = other.counts if isinstance(other, CodeUsage) else other
        self.counts += counts.to(self.counts)

    @property
    def used(self) -> int:
        """Codes used at least once."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the frequencies: N if all are used alike, 1 if one is, 0 without any."""
        total = self.counts.sum()
        if not total:
            return 0.0
        share = self.counts[self.counts > 0].double() / total
        return float((-(share * share.log()).sum()).exp())

    def reset(self) -> None:
        """Count from zero."""
        self.counts.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.counts.copy_(state["counts"])


class VQTokenizer(nn.Module):
    """Pictures to codes and back; see the module's head for shapes."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        arguments = (config.image_channels * config.patch**2, config.channels, config.latent_channels)
        options = {
            "blocks": config.blocks,
            "attention_levels": config.attention_levels,
            "middle_attention": config.middle_attention,
            "groups": config.norm_groups,
        }
        self.encoder = Encoder(*arguments, **options)  # type: ignore[arg-type]
        self.to_code = nn.Conv2d(config.latent_channels, config.code_dim, 1)
        self.quantizer = Quantizer(config)
        self.from_code = nn.Conv2d(config.code_dim, config.latent_channels, 1)
        self.decoder = Decoder(*arguments, **options)  # type: ignore[arg-type]

    @property
    def last_layer(self) -> Tensor:
        """The weight at which the adaptive adversarial weight compares gradients (taming).
        [C_out, C_in, 3, 3]."""
        return self.decoder.conv_out.weight

    def encode(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> ids [B, h, w] int64. ValueError for odd sizes."""
        latents = self.latents(images)
        with without_autocast(latents):
            ids = self.quantizer.nearest(self.quantizer.inputs(latents))
        return ids.view(latents.shape[0], *latents.shape[2:])

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, h, w] -> images [B, C, H, W] in about [-1, 1]."""
        vectors = self.quantizer.entries()[ids].permute(0, 3, 1, 2)
        return self.decode_vectors(vectors)

    def forward(self, images: Tensor) -> VQOutput:
        """images [B, C, H, W] in [-1, 1]; gradients reach the encoder by the straight-through estimator."""
        quantized = self.quantizer(self.latents(images))
        reconstruction = self.decode_vectors(quantized.vectors)
        return VQOutput(reconstruction, quantized.ids, quantized.losses, quantized.inputs)

    def latents(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> [B, D, h, w] before the lookup. ValueError for sides that do not divide by
        f."""
        factor = self.config.factor
        if images.shape[-1] % factor or images.shape[-2] % factor:
            size = f"{images.shape[-2]}x{images.shape[-1]}"
            raise ValueError(f"pictures of {size} px do not divide by f={factor}; resize or crop them")
        return self.to_code(self.encoder(F.pixel_unshuffle(images, self.config.patch)))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """vectors [B, D, h, w], codes as the decoder sees them -> images [B, C, H, W]."""
        maps = self.decoder(self.from_code(vectors.to(self.from_code.weight.dtype)))
        return F.pixel_shuffle(maps, self.config.patch)


def vq_16() -> VQConfig:
    """f = 16, 8,192 codes of 8 dimensions: LlamaGen's VQ-16 with the paper's number of codes."""
    return VQConfig()


def vq_nano_32() -> VQConfig:
    """For scenes at 32 px on a CPU: f = 4, so 64 codes a picture; 0.6 M parameters (ours)."""
    return VQConfig(
        channels=(64,),
        patch=4,
        blocks=1,
        attention_levels=(),
        middle_attention=False,
        norm_groups=8,
        latent_channels=32,
        codes=512,
    )
