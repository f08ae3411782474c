"""The parts of a training step, against gigagan-pytorch at the same resolution, batch and parameters.

    pip install --no-deps gigagan-pytorch einops beartype kornia kornia-rs ema-pytorch
    python -m benchmarks.training [--quick] [--json FILE]

One step each: the generator's (both networks forward, backward to the generator), the discriminator's
(generated pictures without gradients, both kinds scored, backward) and the penalty (R1 on real pictures,
through its second derivative, beside a step that has the captions' vectors already). Theirs is
unconditional, since its text training does not run, and without its auxiliary reconstruction; ours carries
what text costs in both networks, without wrong captions, and leaves out the layer that compares neighbouring
pictures, which theirs lacks. A fourth part is the penalty with that layer, as the shipped models were
trained: its second derivative goes back through everything before it. The widths of theirs are searched for
the counts of parameters nearest to ours. Processor seconds in fp32, taking turns.

What gigagan-pytorch imports and does not need here (CLIP, data, processes) is replaced by empty modules, so
that nothing more has to be installed. Without it our own parts alone are timed.

Aim: twice its speed in every part, of like networks.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import torch
from benchmarks.common import arguments_of, take_turns, write_result
from torch import Tensor, nn

from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator
from impasto.aurora.losses import discriminator_loss, generator_loss, r1_penalty, score_step
from impasto.aurora.runs import run_aurora_debug, run_aurora_scenes_32

TOKENS = 12  # of a caption
UNUSED = ("open_clip", "torchvision", "accelerate", "accelerate.utils", "numerize")
Parts = dict[str, Callable[[], object]]
PARTS = ("generator", "discriminator", "penalty", "penalty with deviation layer")


@dataclass(frozen=True)
class Networks:
    generator: nn.Module
    discriminator: nn.Module

    def sizes(self) -> tuple[int, int]:
        parts = (self.generator, self.discriminator)
        return tuple(sum(p.numel() for p in part.parameters()) for part in parts)  # type: ignore[return-value]

    def clear(self) -> None:
        self.generator.zero_grad(set_to_none=True)
        self.discriminator.zero_grad(set_to_none=True)


def ours(quick: bool, batch: int) -> tuple[Networks, Parts, int]:
    """The networks of a shipped run, a step of each part, and the side of a picture."""
    torch.manual_seed(0)
    run = run_aurora_debug() if quick else run_aurora_scenes_32()
    generator = Generator(run.model.generator)
    discriminator = Discriminator(replace(run.discriminator, deviation_group=0))
    comparing = Discriminator(run.discriminator)
    networks = Networks(generator, discriminator)
    side = run.model.resolution
    tokens = torch.randn(batch, TOKENS, run.discriminator.input_dim)
    eot = torch.full((batch,), TOKENS - 1)
    z, real = torch.randn(batch, run.model.generator.z_dim), torch.rand(batch, 3, side, side) * 2 - 1

    def generator_step() -> None:
        discriminator.requires_grad_(False)
        output = generator(z, tokens, eot)
        text = discriminator.embed_text(tokens, eot)
        scores = discriminator.score(discriminator.features(output.pyramid), text)
        (generator_loss(scores)["loss/generator"] + output.moe_loss).backward()
        discriminator.requires_grad_(True)
        networks.clear()

    def discriminator_step() -> None:
        with torch.no_grad():
            fake = generator(z, tokens, eot).pyramid
        text = discriminator.embed_text(tokens, eot)
        scores = score_step(discriminator, discriminator.pyramid_of(real), fake, text, None)
        discriminator_loss(scores, matching_weight=0)["loss/discriminator"].backward()
        networks.clear()

    text_given = discriminator.embed_text(tokens, eot).detach().requires_grad_()

    def penalty(of: Discriminator = discriminator) -> None:
        r1_penalty(of, real, text_given).backward()
        of.zero_grad(set_to_none=True)
        text_given.grad = None

    steps = (generator_step, discriminator_step, penalty, lambda: penalty(comparing))
    return networks, dict(zip(PARTS, steps, strict=True)), side


class Unused(ModuleType):
    """A module of empty classes, of any name."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_peer() -> ModuleType | None:
    """gigagan_pytorch's module of networks, or None where it is not installed."""
    replaced = {name: Unused(name) for name in UNUSED if name not in sys.modules}
    sys.modules.update(replaced)
    try:
        from gigagan_pytorch import gigagan_pytorch as peer
    except ImportError:
        return None
    finally:
        for name in replaced:
            del sys.modules[name]
    return peer


def candidates(
    peer: ModuleType, side: int
) -> Iterator[tuple[Callable[[], nn.Module], Callable[[], nn.Module]]]:
    """Builders of its generator and discriminator at one width after another."""
    attended = tuple(s for s in (16, 8) if s < side)
    for width in (*range(32, 160, 16), *range(160, 640, 32)):

        def generator(width: int = width) -> nn.Module:
            style = {"dim": width, "depth": 2}
            options = {"self_attn_resolutions": attended, "self_attn_dim_head": 32, "self_attn_heads": 4}
            return peer.Generator(
                image_size=side, dim_max=width, style_network=style, unconditional=True, **options
            )

        def discriminator(width: int = width) -> nn.Module:
            options = {"attn_resolutions": (), "multiscale_input_resolutions": attended}
            return peer.Discriminator(image_size=side, dim_max=width, unconditional=True, **options)

        yield generator, discriminator


def nearest(builders: Iterable[Callable[[], nn.Module]], wanted: int) -> nn.Module:
    """Of ever wider networks, the one whose count of parameters is nearest."""
    best, least = None, float("inf")
    for build in builders:
        network = build()
        off = sum(parameter.numel() for parameter in network.parameters()) - wanted
        if abs(off) < least:
            best, least = network, abs(off)
        if off > 0:
            break
    assert best is not None
    return best


def theirs(peer: ModuleType, wanted: tuple[int, int], side: int, batch: int) -> tuple[Networks, Parts]:
    torch.manual_seed(0)
    pairs = list(candidates(peer, side))
    generator = nearest([pair[0] for pair in pairs], wanted[0])
    discriminator = nearest([pair[1] for pair in pairs], wanted[1])
    networks = Networks(generator, discriminator)
    noise = torch.randn(batch, generator.style_network.dim)
    real = (torch.rand(batch, 3, side, side) * 2 - 1).requires_grad_(True)

    def score(images: Tensor, pyramid: list[Tensor]) -> list[Tensor]:
        logits, scales, _ = discriminator(images, pyramid, calc_aux_loss=False)
        return [logits, *scales]

    def generator_step() -> None:
        discriminator.requires_grad_(False)
        images, pyramid = generator(noise=noise, return_all_rgbs=True)
        total = sum(peer.generator_hinge_loss(logits) for logits in score(images, pyramid))
        total.backward()
        discriminator.requires_grad_(True)
        networks.clear()

    def discriminator_step() -> None:
        with torch.no_grad():
            images, pyramid = generator(noise=noise, return_all_rgbs=True)
        fake = score(images, pyramid)
        true = score(real.detach(), discriminator.real_images_to_rgbs(real.detach()))
        sum(peer.discriminator_hinge_loss(t, f) for t, f in zip(true, fake, strict=True)).backward()
        networks.clear()

    def penalty() -> None:
        real.grad = None
        peer.gradient_penalty(real, score(real, discriminator.real_images_to_rgbs(real))).backward()
        networks.clear()

    return networks, dict(zip(PARTS, (generator_step, discriminator_step, penalty, penalty), strict=True))


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv)
    batch, rounds = (2, 1) if arguments.quick else (8, 5)
    networks, mine, side = ours(arguments.quick, batch)
    peer = import_peer()
    ways, sizes = {"impasto": mine}, {"impasto": networks.sizes()}
    if peer is None:
        print("gigagan-pytorch is not installed (see --help): our parts alone")
    else:
        other, ways["gigagan_pytorch"] = theirs(peer, networks.sizes(), side, batch)
        sizes["gigagan_pytorch"] = other.sizes()
    rows: dict[str, Any] = {}
    print(f"{side}x{side}, batch {batch}; parameters of generator and discriminator: {sizes}")
    for part in mine:
        spent = take_turns({name: parts[part] for name, parts in ways.items()}, rounds)
        rows[part] = {name: asdict(spread) for name, spread in spent.items()}
        line = "; ".join(f"{name} {spread} s" for name, spread in spent.items())
        if peer is not None:
            rows[part]["ratio"] = spent["gigagan_pytorch"].median / spent["impasto"].median
            line += f"; {rows[part]['ratio']:.2f} times"
        print(f"{part}: {line}", flush=True)
    write_result(arguments.json, {"side": side, "batch": batch, "parameters": sizes, "parts": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
