"""Prompts to pictures with an Aurora generator."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from impasto import __version__
from impasto.aurora.config import AuroraConfig
from impasto.aurora.generator import Generator
from impasto.config import from_dict, to_dict
from impasto.nn.moe import Routing
from impasto.pictures import to_images
from impasto.runtime.model_directory import halved, load_weights, read_config, save_model
from impasto.runtime.streams import random_stream
from impasto.text import TextEncoder, load_encoder

FAMILY = "aurora"
BATCH_SIZE = 8  # pictures per pass, unless told otherwise
PROMPT_MEAN_SAMPLES = 16  # --loop_mapping of the released script

TruncationMode = Literal["average", "prompt"]


@dataclass(frozen=True)
class Generation:
    """Pictures with what made them, in the order prompt 0 image 0, prompt 0 image 1, ...

    images [N, 3, R, R] in about [-1, 1]; pyramid {r: [N, 3, r, r]}; routing per MoE layer, on the CPU;
    prompts and seeds, one per picture.
    """

    images: Tensor
    pyramid: dict[int, Tensor]
    routing: list[Routing]
    prompts: list[str]
    seeds: list[int]

    def pictures(self) -> list[Image.Image]:
        return to_images(self.images)


class AuroraPipeline:
    """A generator with its text encoder. Call it with a prompt; see `generate` for tensors.

    The encoder is loaded at the first prompt, so that a model whose encoder is absent can still be inspected.
    """

    def __init__(
        self,
        generator: Generator,
        config: AuroraConfig,
        *,
        name: str = "aurora",
        trained: bool = True,
        encoder: TextEncoder | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.generator, self.config, self.name, self.trained = generator.eval(), config, name, trained
        self.provenance = dict(provenance or {})  # how it came to be: data, images seen, networks used
        self.device = generator.w_avg.device
        self._encoder = encoder

    @classmethod
    def untrained(cls, config: AuroraConfig, *, name: str, seed: int = 0) -> "AuroraPipeline":
        """A freshly initialised generator, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = Generator(config.generator)
        return cls(generator, config, name=name, trained=False)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "AuroraPipeline":
        """Read a model directory; its generator is frozen. Raises ModelDirectoryError or ConfigError in one
        line. ValueError for a model of another family."""
        path = Path(path)
        family, document = read_config(path)
        if family != FAMILY:
            raise ValueError(f"{path} holds a model of family '{family}', not '{FAMILY}'")
        config, trained, provenance = read_document(document)
        with torch.device("meta"):
            generator = Generator(config.generator)
        load_weights(path, generator)
        generator.requires_grad_(False)  # what frozen kernels give is remembered between pictures
        return cls(generator, config, name=path.resolve().name, trained=trained, provenance=provenance)

    def summary(self) -> str:
        """What it is, in a sentence."""
        size = sum(parameter.numel() for parameter in self.generator.parameters())
        side = self.config.resolution
        return (
            f"A text-to-image GAN with sparse experts (Aurora): {size:,} parameters, {side}x{side} px, over "
            f"the frozen text encoder `{self.config.text_encoder}`."
        )

    def save_pretrained(self, path: str | Path, card: str | None = None, *, half: bool = False) -> None:
        """Write config.json, model.safetensors and a model card, atomically; half: matrices and kernels in
        fp16, for a file of half the size."""
        document = {"trained": self.trained, "provenance": self.provenance, **to_dict(self.config)}
        state = self.generator.state_dict()
        save_model(Path(path), FAMILY, document, halved(state) if half else state, card or self._card())

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "AuroraPipeline":
        """Move to a device, and parameters to a type. Buffers (Fourier phases, w_avg) stay in fp32, and the
        router computes in fp32 whatever the type."""
        if device is not None:
            self.device = torch.device(device)
            self.generator.to(self.device)
            if self._encoder is not None:
                self._encoder.to(self.device)
        if dtype is not None:
            for parameter in self.generator.parameters():
                parameter.data = parameter.data.to(dtype)
        return self

    @property
    def encoder(self) -> TextEncoder:
        if self._encoder is None:
            self._encoder = load_encoder(self.config.text_encoder)
            self._encoder.to(self.device)
        return self._encoder

    def __call__(self, prompt: str | Sequence[str], num_images: int = 1, **options: Any) -> list[Image.Image]:
        """`num_images` pictures of each prompt; options as for `generate`."""
        return self.generate(prompt, num_images, **options).pictures()

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str],
        num_images: int = 1,
        *,
        seed: int | Sequence[int] = 0,
        truncation: float | None = None,
        truncation_mode: TruncationMode = "average",
        truncation_layers: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Generation:
        """Image k of every prompt has noise stream seed + k, drawn on the CPU: it depends neither on the
        batch it is made in nor on the device. Several seeds are one for each prompt. Equal prompts are
        encoded once, so that a prompt given N times with N seeds is the same as once with num_images=N.

        truncation: psi in [-1, 1]; 1 or None is none, 0 the mean alone. "average" pulls w towards the mean w
        of training, psi w + (1 - psi) w_avg. "prompt" is the released script's: that, and then the same again
        towards the mean w of the prompt over 16 draws, always the same ones. truncation_layers: how many
        slots, all by default. Raises ValueError if the number of seeds is neither one nor that of the
        prompts.
        """
        if not self.trained:
            warnings.warn(f"'{self.name}' is untrained: its pictures show no prompt", stacklevel=2)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._check(prompts, num_images, truncation, truncation_mode, batch_size)
        first = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(first) != len(prompts):
            raise ValueError(f"{len(first)} seeds for {len(prompts)} prompts; give one seed, or one for each")
        unique = {text: row for row, text in enumerate(dict.fromkeys(prompts))}
        global_text, local_text, mask = self.encode(list(unique))
        seeds = [start + index for start in first for index in range(num_images)]
        told = [text for text in prompts for _ in range(num_images)]
        owner = torch.tensor([unique[text] for text in told])
        psi = 1.0 if truncation is None else truncation
        layers = self.config.generator.style_slots if truncation_layers is None else truncation_layers
        means = None
        if truncation_mode == "prompt" and psi != 1:
            means = self._prompt_means(global_text)
        outputs = []
        for start in range(0, len(seeds), batch_size):
            rows = owner[start : start + batch_size]
            wp = self.generator.mapping(self.noise(seeds[start : start + batch_size]), global_text[rows])
            wp = self.generator.truncate(wp, psi, layers)
            if means is not None:
                wp = torch.cat((torch.lerp(means[rows], wp, psi)[:, :layers], wp[:, layers:]), dim=1)
            outputs.append(self.generator.synthesize(wp, local_text[rows], mask[rows]))
        return Generation(
            images=torch.cat([image for image, _, _, _ in outputs]),
            pyramid={r: torch.cat([p[r] for _, p, _, _ in outputs]) for r in outputs[0][1]},
            routing=join_routing([routing for _, _, routing, _ in outputs]),
            prompts=told,
            seeds=seeds,
        )

    def settings(self, generation: Generation, index: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """What made picture `index`, for its PNG metadata."""
        return {
            "prompt": generation.prompts[index],
            "seed": generation.seeds[index],
            **options,
            "model": self.name,
            "trained": self.trained,
            "training_networks": self.provenance.get("training_networks", {}),
            "version": __version__,
        }

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """[N, z_dim] of pictures' seeds, of which torch takes the low 32 bits."""
        size = self.config.generator.z_dim
        drawn = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device, self._dtype)

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Global text [P, C], local tokens [P, S, C] and their mask [P, S], of prompts."""
        features = self.encoder.encode(prompts).to(self.device, self._dtype)
        return self.generator.encode_text(features.tokens, features.eot_index, features.mask)

    def _prompt_means(self, global_text: Tensor) -> Tensor:
        """Mean wp of each prompt over 16 draws, the same for all pictures: [P, slots, D]."""
        shape = (PROMPT_MEAN_SAMPLES, self.config.generator.z_dim)
        z = torch.randn(shape, generator=random_stream("prompt mean")).to(self.device, self._dtype)
        means = [
            self.generator.mapping(z, text.expand(PROMPT_MEAN_SAMPLES, -1)).mean(0) for text in global_text
        ]
        return torch.stack(means)

    @staticmethod
    def _check(prompts: list[str], num_images: int, truncation: float | None, mode: str, batch: int) -> None:
        if not prompts:
            raise ValueError("no prompt given")
        if num_images < 1 or batch < 1:
            raise ValueError("num_images and batch_size should be at least 1")
        if truncation is not None and not -1 <= truncation <= 1:
            raise ValueError(f"truncation={truncation} should be between -1 and 1")
        if mode not in ("average", "prompt"):
            raise ValueError(f"truncation_mode='{mode}' should be 'average' or 'prompt'")

    def _card(self) -> str:
        side, encoder = self.config.generator.resolution, self.config.text_encoder
        lines = [
            f"# {self.name}",
            f"An Aurora text-to-image generator ({side}x{side} px), written by impasto {__version__}.",
            "" if self.trained else "**Untrained:** these are initial weights.",
            f'    import impasto\n    pipe = impasto.load("{self.name}")\n    pipe("a prompt", num_images=4)',
            f"Text encoder: `{encoder}`.",
        ]
        return "\n\n".join(line for line in lines if line) + "\n"


def read_document(document: Mapping[str, Any]) -> tuple[AuroraConfig, bool, dict[str, Any]]:
    """(configuration, trained, provenance) from the config.json of a model directory."""
    rest = dict(document)
    trained, provenance = rest.pop("trained", True), rest.pop("provenance", {})
    return from_dict(AuroraConfig, rest), trained, provenance


def join_routing(batches: list[list[Routing]]) -> list[Routing]:
    """Routing of several batches, layer by layer, on the CPU. z is averaged over pictures."""
    joined = []
    for layers in zip(*batches, strict=True):
        sizes = torch.tensor([float(layer.load.shape[0]) for layer in layers])
        joined.append(
            Routing(
                expert_index=torch.cat([layer.expert_index.cpu() for layer in layers]),
                probability=torch.cat([layer.probability.cpu() for layer in layers]),
                load=torch.cat([layer.load.cpu() for layer in layers]),
                mean_probability=torch.cat([layer.mean_probability.cpu() for layer in layers]),
                z=(torch.stack([layer.z.cpu() for layer in layers]) * sizes).sum() / sizes.sum(),
            )
        )
    return joined
