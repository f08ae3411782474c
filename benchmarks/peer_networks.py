"""Four generators of about as many parameters, one way of being trained and drawn with: `Peer`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.peer_data import SIDE, Pool, Reader
from benchmarks.training import import_peer, nearest
from torch import Tensor, nn
from torch.optim import AdamW

from impasto.aurora.discriminator import box_pyramid
from impasto.aurora.launch import find_run
from impasto.aurora.reconstruction import LatentEncoder, divergence
from impasto.aurora.trainer import step
from impasto.aurora.training_state import TrainingState
from impasto.errors import ExpectedError
from impasto.runtime.checkpoint import load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.ema import AverageByImages
from impasto.runtime.training_state import load_optimizer, optimizer_tensors
from impasto.text import TextFeatures

BATCH = 16
HALF_LIFE = 6_000  # images, of the average that draws
NATS = 0.01  # weight of the latents' divergence, beside the squared error
AURORA = (
    "model.text_encoder=sentence:standardized",
    f"model.generator.resolution={SIDE}",
    f"discriminator.resolution={SIDE}",
    'model.generator.moe.experts={"4":1,"8":4,"16":1}',
    "guidance.clip_weight=0",
    "guidance.clip_levels=null",
    "guidance.vision_aided_weight=0",
    "training.learning_rate=0.004",
    "training.beta1=0.9",
    "training.reconstruction_weight=1",
    f"training.reconstruction_divergence={NATS}",
    "training.adversarial_from=1000000000",
    "training.bfloat16_generator=false",
    "training.bfloat16_discriminator=false",
    f"training.average_half_life={HALF_LIFE}",
)

Draw = Callable[[TextFeatures, int], Tensor]  # captions and a seed -> [B, 3, SIDE, SIDE] in about [-1, 1]


class MissingPeerError(ExpectedError):
    """A library that a peer is made of is not installed."""


def require(names: Iterable[str]) -> None:
    """Raise MissingPeerError, in one line, where a peer's library is not there."""
    for name in names:
        if name == "diffusers":
            try:
                import diffusers.models  # noqa: F401
            except ImportError as error:
                raise MissingPeerError(f"diffusers cannot be imported ({error}); see --help") from error
        elif name.startswith("gigagan") and import_peer() is None:
            raise MissingPeerError("gigagan-pytorch cannot be imported; see --help")


class Peer(ABC):
    """A generator with what trains it. `images` counts what was seen; what is random in a step or in a
    drawing comes from the global generator, seeded for it."""

    images = 0
    generator: nn.Module

    @abstractmethod
    def step(self, pool: Pool, reader: Reader) -> None:
        """Learn from the next batch and count it."""

    @abstractmethod
    def save(self, folder: Path, seconds: float) -> None: ...

    @abstractmethod
    def restore(self, checkpoint: Path) -> float:
        """Take up a checkpoint; returns the seconds that were spent until then."""

    @abstractmethod
    def ways(self) -> dict[str, Draw]:
        """How the averaged generator draws, by name."""

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.generator.parameters())


class Aurora(Peer):
    """Our generator, as the package's glyphs were trained: drawing pictures again from latents alone."""

    def __init__(self, seed: int):
        self.run = find_run("aurora-scenes-32", [*AURORA, f"training.seed={seed}"])
        self.state = TrainingState.fresh(self.run, torch.device("cpu"))
        self.generator = self.state.generator

    def step(self, pool: Pool, reader: Reader) -> None:
        step(self.state, pool, reader, Ranks())  # type: ignore[arg-type]  # a reader of known texts
        self.images = self.state.images

    def save(self, folder: Path, seconds: float) -> None:
        self.state.save(folder, {"seconds": seconds})

    def restore(self, checkpoint: Path) -> float:
        saved = self.state.restore(checkpoint)
        self.images = self.state.images
        return saved["seconds"]

    def ways(self) -> dict[str, Draw]:
        self.state.average.copy_to(self.generator)
        self.generator.eval()

        def draw(text: TextFeatures, seed: int) -> Tensor:
            torch.manual_seed(seed)
            z = torch.randn(len(text), self.run.model.generator.z_dim)
            return self.generator(z, text.tokens, text.eot_index, text.mask).image

        return {"one pass": draw}


class Network(Peer):
    """A peer's networks by name, each with an optimiser; "generator" is averaged and draws."""

    def __init__(self, seed: int, networks: dict[str, nn.Module], rate: float, betas: tuple[float, float]):
        self.seed, self.networks, self.generator = seed, networks, networks["generator"]
        self.optimizers = {
            name: AdamW(network.parameters(), lr=rate, betas=betas, weight_decay=0.0, fused=True)
            for name, network in networks.items()
        }
        self.average = AverageByImages(self.generator, HALF_LIFE)

    def step(self, pool: Pool, reader: Reader) -> None:
        torch.manual_seed(self.seed * 1_000_000_000 + self.images)
        images, captions = pool.batch(range(self.images, self.images + BATCH))
        self.learn(images, reader.encode(captions))
        self.average.update(self.generator, BATCH, self.images)
        self.images += BATCH

    @abstractmethod
    def learn(self, images: Tensor, text: TextFeatures) -> None:
        """Update the networks on pictures [B, 3, SIDE, SIDE] in [-1, 1] and their captions' features."""

    def update(self, names: Sequence[str]) -> None:
        """Step the optimisers of some networks; all gradients are let go."""
        for name in names:
            self.optimizers[name].step()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path, seconds: float) -> None:
        tensors: dict[str, dict[str, Tensor]] = {"average": self.average.state_dict()}
        options: dict[str, Any] = {}
        for name, network in self.networks.items():
            tensors[name] = network.state_dict()
            moments, options[name] = optimizer_tensors(self.optimizers[name], network.named_parameters())
            tensors[f"{name}_optimizer"] = moments
        save_checkpoint(folder, self.images, tensors, {"seconds": seconds, "images": self.images, **options})

    def restore(self, checkpoint: Path) -> float:
        tensors, state = load_checkpoint(checkpoint, verified=True)
        self.average.load_state_dict(tensors["average"])
        for name, network in self.networks.items():
            network.load_state_dict(tensors[name])
            moments = tensors[f"{name}_optimizer"]
            load_optimizer(self.optimizers[name], network.named_parameters(), moments, state[name])
        self.images = state["images"]
        return state["seconds"]


class Diffusion(Network):
    """A UNet of `diffusers` that attends to the tokens and adds the whole caption's vector to the time's. One
    caption in ten is left out (zeros), for guidance. v-prediction, cosine schedule, DDIM."""

    WAYS = ((5, 3.0), (10, 3.0), (25, 3.0), (50, 3.0), (25, 1.0))  # steps and guidance
    DROPPED = 0.1

    def __init__(self, seed: int, parameters: int, width: int, rate: float = 1e-3):
        from diffusers import DDIMScheduler, UNet2DConditionModel

        def unet(base: int) -> nn.Module:
            return UNet2DConditionModel(
                sample_size=SIDE, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=4,
                block_out_channels=(base, 2 * base, 3 * base), attention_head_dim=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=width, class_embed_type="simple_projection",
                projection_class_embeddings_input_dim=width,
            )  # fmt: skip

        torch.manual_seed(seed)
        builders = [lambda base=base: unet(base) for base in range(24, 129, 4)]
        super().__init__(seed, {"generator": nearest(builders, parameters)}, rate, (0.9, 0.999))
        self.scheduler = DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
        )

    def predict(self, noisy: Tensor, times: Tensor, text: TextFeatures, known: Tensor) -> Tensor:
        """What the network says of noisy pictures; captions where `known` [B] is 0 are left out."""
        tokens, whole = text.tokens * known[:, None, None], text.pooled * known[:, None]
        options = {"class_labels": whole, "encoder_attention_mask": text.mask}
        return self.generator(noisy, times, tokens, **options).sample

    def learn(self, images: Tensor, text: TextFeatures) -> None:
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(images),))
        noise = torch.randn_like(images)
        known = (torch.rand(len(images)) >= self.DROPPED).float()
        said = self.predict(self.scheduler.add_noise(images, noise, times), times, text, known)
        F.mse_loss(said, self.scheduler.get_velocity(images, noise, times)).backward()
        self.update(["generator"])

    def ways(self) -> dict[str, Draw]:
        self.average.copy_to(self.generator)
        self.generator.eval()

        def draw(text: TextFeatures, seed: int, steps: int, guidance: float) -> Tensor:
            torch.manual_seed(seed)
            x, count = torch.randn(len(text), 3, SIDE, SIDE), len(text)
            both = TextFeatures.concatenate([text, text]) if guidance != 1 else text
            known = torch.ones(len(both))
            known[count:] = 0
            self.scheduler.set_timesteps(steps)
            for time in self.scheduler.timesteps:
                said = self.predict(x.repeat(len(both) // count, 1, 1, 1), time, both, known)
                if guidance != 1:
                    said = said[count:].lerp(said[:count], guidance)
                x = self.scheduler.step(said, time, x).prev_sample
            return x

        return {
            f"{steps} steps, guidance {guidance:g}": partial(draw, steps=steps, guidance=guidance)
            for steps, guidance in self.WAYS
        }  # fmt: skip


class GigaGAN(Network):
    """gigagan-pytorch's text-conditioned generator, which gets our features where it expects CLIP's."""

    TEXT, NOISE = 192, 192  # widths, as Aurora's context and w

    def __init__(self, seed: int, parameters: int, width: int, rate: float, betas: tuple[float, float]):
        self.library: Any = import_peer()
        torch.manual_seed(seed)
        builders = [lambda most=most: self.build(most, width) for most in range(64, 400, 16)]
        super().__init__(
            seed, {"generator": nearest(builders, parameters), **self.others(width)}, rate, betas
        )

    def build(self, most: int, width: int) -> nn.Module:
        """The generator with at most so many channels at a level."""
        style = {"dim": self.NOISE, "depth": 2, "dim_text_latent": self.TEXT}
        attended = {"self_attn_resolutions": (8,), "cross_attn_resolutions": (8,)}
        heads = {
            f"{kind}_attn_{what}": n
            for kind in ("self", "cross")
            for what, n in (("heads", 4), ("dim_head", 32))
        }
        return self.library.Generator(
            image_size=SIDE, dim_max=most, dim_latent=most, style_network=style,
            text_encoder=self.text_encoder(width), **attended, **heads,
        )  # fmt: skip

    def text_encoder(self, width: int) -> nn.Module:
        """Its learned layers over frozen features, one as in Aurora's presets of this size."""
        adapter = self.library.OpenClipAdapter

        class Given(adapter):
            """Stands where the library wants a CLIP, and says how wide features are."""

            dim_latent = width

            def __init__(self) -> None:
                nn.Module.__init__(self)

        return self.library.TextEncoder(dim=self.TEXT, depth=1, clip=Given(), dim_head=32, heads=4)

    def others(self, width: int) -> dict[str, nn.Module]:
        """Networks that training needs beside the generator."""
        return {}

    def generate(self, noise: Tensor, text: TextFeatures) -> list[Tensor]:
        """Pictures [B, 3, s, s] of all levels, smallest first."""
        encodings = text.tokens * text.mask[..., None]
        return self.generator(noise=noise, text_encodings=encodings, return_all_rgbs=True)[1]

    def ways(self) -> dict[str, Draw]:
        self.average.copy_to(self.generator)
        self.generator.eval()

        def draw(text: TextFeatures, seed: int) -> Tensor:
            torch.manual_seed(seed)
            return self.generate(torch.randn(len(text), self.NOISE), text)[-1]

        return {"one pass": draw}


class GigaGANDrawingAgain(GigaGAN):
    """Trained as our generator is: drawing pictures again from latents that our encoder finds."""

    def __init__(self, seed: int, parameters: int, width: int, rate: float = 1e-3):
        super().__init__(seed, parameters, width, rate, (0.9, 0.99))

    def others(self, width: int) -> dict[str, nn.Module]:
        return {"latent_encoder": LatentEncoder(SIDE, self.NOISE)}

    def learn(self, images: Tensor, text: TextFeatures) -> None:
        mean, log_variance = self.networks["latent_encoder"](images)
        noise = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        real = box_pyramid(images, 4)
        drawn = self.generate(noise, text)
        error = torch.stack([F.mse_loss(level, real[level.shape[-1]]) for level in drawn]).sum()
        (error + NATS * divergence(mean, log_variance).mean()).backward()
        self.update(["generator", "latent_encoder"])


class GigaGANAdversarial(GigaGAN):
    """Trained by its own discriminator, losses, weights and rates, all of them its trainer's defaults, in
    the order of its steps. That trainer's data for text is a class that refuses, so the loop is ours. Its
    loss of wrong captions is of logits that do not read captions; here it is of the other scale's, which do.
    """

    MULTISCALE, MATCHING, PENALTY_EVERY = 0.1, 0.1, 4

    def __init__(self, seed: int, parameters: int, width: int, rate: float = 2e-4):
        super().__init__(seed, parameters, width, rate, (0.5, 0.9))

    def others(self, width: int) -> dict[str, nn.Module]:
        discriminator = self.library.Discriminator(
            image_size=SIDE, dim_max=128, attn_resolutions=(8,), attn_dim_head=32, attn_heads=4,
            multiscale_input_resolutions=(8,), text_encoder=self.text_encoder(width),
        )  # fmt: skip
        return {"discriminator": discriminator}

    def judge(self, images: Tensor, levels: list[Tensor], encodings: Tensor, *, again: bool = False) -> Any:
        """Logits, logits of the other scales, and with `again` the loss of drawing real pictures again."""
        critic = self.networks["discriminator"]
        return critic(images, levels, text_encodings=encodings, calc_aux_loss=again)

    def learn(self, images: Tensor, text: TextFeatures) -> None:
        library, encodings = self.library, text.tokens * text.mask[..., None]
        with torch.no_grad():
            made = self.generate(torch.randn(len(images), self.NOISE), text)
        fakes = [level.requires_grad_() for level in made]
        real = images.clone().requires_grad_()
        levels = self.networks["discriminator"].real_images_to_rgbs(real)
        fake, fake_scales, _ = self.judge(fakes[-1], fakes, encodings)
        true, true_scales, again = self.judge(real, levels, encodings, again=True)
        loss = library.discriminator_hinge_loss(true, fake) + sum(again)
        for one, other in zip(true_scales, fake_scales, strict=True):
            loss = loss + self.MULTISCALE * library.discriminator_hinge_loss(one, other)
        if self.images // BATCH % self.PENALTY_EVERY == 0:
            for picture, outputs in ((real, [true, *true_scales]), (fakes[-1], [fake, *fake_scales])):
                weights = [1.0, *[self.MULTISCALE] * (len(outputs) - 1)]
                loss = loss + library.gradient_penalty(picture, outputs, grad_output_weights=weights)
        wrong = encodings.roll(2, 0)  # captions come in pairs
        odd_true, odd_fake = (
            self.judge(picture[-1], picture, wrong)[1] for picture in ([*levels, real], fakes)
        )
        for pair in zip(odd_true, odd_fake, strict=True):
            loss = loss + self.MATCHING * library.aux_matching_loss(*pair)
        loss.backward()
        self.update(["discriminator"])
        drawn = self.generate(torch.randn(len(images), self.NOISE), text)
        logits, scales, _ = self.judge(drawn[-1], drawn, encodings)
        verdicts = [library.generator_hinge_loss(logits)]
        verdicts += [self.MULTISCALE * library.generator_hinge_loss(scale) for scale in scales]
        sum(verdicts).backward()
        self.update(["generator"])
