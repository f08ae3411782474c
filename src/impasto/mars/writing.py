"""Documents of words and pictures as people read them, from the ids that a model wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from impasto.mars.directories import MarsPipelineConfig
from impasto.mars.interleaving import Document
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.vq import VQTokenizer
from impasto.pictures import to_images

Readable = list[str | Image.Image]


@dataclass(frozen=True)
class Writing:
    """A document that a model wrote.

    parts: what follows the prompt, texts and pictures in order; whole: the same with the prompt before it;
    ids: the model's own ids of the parts, markers of pictures included; ended: by the model, not by a limit.
    """

    parts: Readable
    whole: Readable
    ids: list[int]
    ended: bool
    prompt: str
    seed: int


@torch.no_grad()
def read_back(
    document: Document,
    prompt: Sequence[int],
    tokenizer: VQTokenizer,
    config: MarsPipelineConfig,
    prompts: PromptTokeniser,
) -> tuple[Readable, Readable]:
    """Texts and pictures of a document in order; the same with the prompt, of these ids, before them. Words
    that go on with the prompt's sentence are decoded together with it."""
    side, device = config.model.grid(config.level), next(tokenizer.parameters()).device
    parts = document.parts(config.model)
    found: Readable = []
    for part in parts:
        if isinstance(part, Tensor):
            found += to_images(tokenizer.decode(part.view(1, side, side).to(device)))
        elif text := prompts.decode(part).strip():
            found.append(text)
    first = parts[0] if parts and isinstance(parts[0], list) else []
    opening = prompts.decode([*prompt, *first]).strip()
    return found, [opening, *(found[1:] if first and found and isinstance(found[0], str) else found)]
