"""Who made which pixel: expert maps of every mixture-of-experts layer (paper, Figure 6), what happens without
an expert, and which words call one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from impasto.aurora.latents import draw, latents_of
from impasto.aurora.pipeline import AuroraPipeline, Generation
from impasto.nn.moe import SparseFeedForward
from impasto.pictures import INK, PALETTE, PAPER, contact_sheet, label_font, routing_pictures

OVERLAY = 0.55  # how much of an overlay is the map
BAR = 14  # px, height of the bar of shares under a map


@dataclass(frozen=True)
class LayerOfExperts:
    """One mixture-of-experts layer: its number in the order of the network, its side, its experts."""

    number: int
    side: int
    layer: SparseFeedForward

    @property
    def name(self) -> str:
        return f"layer {self.number}, {self.side}x{self.side}, {self.layer.experts.count} experts"


def layers_of_experts(pipe: AuroraPipeline) -> list[LayerOfExperts]:
    """All of them, in the order of `Generation.routing`. Raises ValueError for a model without any."""
    found: list[LayerOfExperts] = []
    for level in pipe.generator.levels:
        if level.resolution not in pipe.config.generator.active_resolutions:
            continue  # of a growing run, not there yet
        for module in level.modules():
            if isinstance(module, SparseFeedForward):
                found.append(LayerOfExperts(len(found), level.resolution, module))
    if not found:
        raise ValueError(f"'{pipe.name}' has no mixture of experts: there are no routes to show")
    return found


def routes_sheet(pipe: AuroraPipeline, generation: Generation, cell: int = 160) -> Image.Image:
    """A row for each picture: the picture, then its map over it for every layer, above a bar of the experts'
    shares; the legend of colours at the foot."""
    layers = layers_of_experts(pipe)
    rows = []
    for index, picture in enumerate(generation.pictures()):
        maps = [layer.expert_index[index] for layer in generation.routing]
        shown = [_with_bar(picture.resize((cell, cell), Image.Resampling.NEAREST), None, cell)]
        for one, image in zip(maps, routing_pictures(maps), strict=True):
            shares = torch.bincount(one.flatten(), minlength=1).double() / one.numel()
            shown.append(_with_bar(overlay(picture, image, cell), shares, cell))
        rows.append(shown)
    named = zip(generation.prompts, generation.seeds, strict=True)
    labels = [f"{prompt}   (noise {seed})" for prompt, seed in named]
    sheet = contact_sheet(rows, labels, cell=cell, height=cell + BAR)
    most = max(layer.layer.experts.count for layer in layers)
    return _with_legend(sheet, most, "map over the picture: " + "; ".join(layer.name for layer in layers))


def overlay(picture: Image.Image, routes: Image.Image, cell: int) -> Image.Image:
    """A map over a gray version of its picture, [cell, cell]."""
    gray = picture.convert("L").convert("RGB").resize((cell, cell), Image.Resampling.NEAREST)
    return Image.blend(gray, routes.resize((cell, cell), Image.Resampling.NEAREST), OVERLAY)


def shares_table(pipe: AuroraPipeline, generation: Generation) -> str:
    """Markdown: of every layer, the share of points that each expert made."""
    layers = layers_of_experts(pipe)
    most = max(layer.layer.experts.count for layer in layers)
    lines = ["| layer | " + " | ".join(f"expert {e}" for e in range(most)) + " |", "|---" * (most + 1) + "|"]
    for layer, routing in zip(layers, generation.routing, strict=True):
        shares = routing.load.mean(0).tolist()
        cells = [f"{share:.1%}" for share in shares] + [""] * (most - len(shares))
        lines.append(f"| {layer.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@contextmanager
def without_expert(layer: SparseFeedForward, expert: int) -> Iterator[None]:
    """While it lasts, no point of this layer goes to an expert: its logit is below all others, so that the
    next best makes what it would have made. ValueError where the layer has no other."""
    if layer.experts.count < 2:
        raise ValueError("a layer of one expert cannot do without it")

    def below(module: torch.nn.Module, inputs: object, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([expert], device=logits.device), float("-inf"))

    hook = layer.router.register_forward_hook(below)
    try:
        yield
    finally:
        hook.remove()


def knock_out_sheet(
    pipe: AuroraPipeline, prompts: Sequence[str], layer: LayerOfExperts, seed: int = 0, cell: int = 96
) -> tuple[Image.Image, list[float]]:
    """Each prompt as it is and without every expert of a layer in turn; and by how much pictures change on
    average, in levels of 255."""
    latents = latents_of(pipe, prompts, [seed] * len(prompts))
    whole = draw(pipe, latents)
    columns, changes = [whole.pictures()], []
    for expert in range(layer.layer.experts.count):
        with without_expert(layer.layer, expert):
            lacking = draw(pipe, latents)
        columns.append(lacking.pictures())
        changes.append(float((lacking.images - whole.images).abs().mean()) * 127.5)
    rows = [list(row) for row in zip(*columns, strict=True)]
    return contact_sheet(rows, list(prompts), cell=cell), changes


def shares_by_word(
    pipe: AuroraPipeline, prompts: Sequence[str], layer: int, seed: int = 0, least: int = 4
) -> dict[str, Tensor]:
    """{word: by how much the share [E] of every expert of a layer is higher in prompts with the word than in
    those without}, for words that at least `least` prompts have and as many have not."""
    loads = draw(pipe, latents_of(pipe, prompts, [seed + n for n in range(len(prompts))])).routing[layer].load
    tokens = [set(prompt.lower().strip(".").split()) for prompt in prompts]
    raised = {}
    for word in sorted(set().union(*tokens)):
        having = torch.tensor([word in found for found in tokens])
        if least <= int(having.sum()) <= len(prompts) - least:
            raised[word] = loads[having].mean(0) - loads[~having].mean(0)
    return raised


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Bits that two maps of whole numbers, of equally many points, tell of each other (plug-in estimate,
    which is a little above zero for maps that tell nothing: hold it against a shuffled one)."""
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(joint, (first.ravel(), second.ravel()), 1)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / independent[there])).sum())


def _with_bar(picture: Image.Image, shares: Tensor | None, cell: int) -> Image.Image:
    """A bar under a picture, as long as the experts' shares."""
    whole = Image.new("RGB", (cell, cell + BAR), PAPER)
    whole.paste(picture, (0, 0))
    left = 0.0
    for expert, share in enumerate([] if shares is None else shares.tolist()):
        box = (round(left * cell), cell + 3, round((left + share) * cell) - 1, cell + BAR - 1)
        if box[2] >= box[0]:
            ImageDraw.Draw(whole).rectangle(box, PALETTE[expert % len(PALETTE)])
        left += share
    return whole


def _with_legend(sheet: Image.Image, experts: int, words: str) -> Image.Image:
    whole = Image.new("RGB", (max(sheet.width, 44 * experts + 80), sheet.height + 44), PAPER)
    whole.paste(sheet, (0, 0))
    pen, font = ImageDraw.Draw(whole), label_font("")
    pen.text((6, sheet.height + 2), words, INK, font)
    pen.text((6, sheet.height + 22), "expert", INK, font)
    for expert in range(experts):
        left = 56 + 44 * expert
        pen.rectangle((left, sheet.height + 22, left + 14, sheet.height + 36), PALETTE[expert % len(PALETTE)])
        pen.text((left + 18, sheet.height + 22), str(expert), INK, font)
    return whole
