"""Prompts to pictures, and pictures to captions, with a MARS model."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from impasto import __version__
from impasto.config import ConfigError, to_dict
from impasto.mars.cards import model_card, summary
from impasto.mars.directories import (
    FAMILY,
    MarsParts,
    MarsPipelineConfig,
    load_whole,
    read_document,
    save_directory,
    share_language,
)
from impasto.mars.initial import new_model
from impasto.mars.interleaving import generate_document
from impasto.mars.prompts import Language, PromptTokeniser
from impasto.mars.sampling import GREEDY, RowCallback, SamplingSettings, caption_images, generate_images
from impasto.mars.sequence import text_to_image
from impasto.mars.superres import generate_high
from impasto.mars.texts import BYTE_PIECES, byte_tokeniser, read_tokeniser
from impasto.mars.vq import VQTokenizer
from impasto.mars.writing import Writing, read_back
from impasto.pictures import PAPER, from_images, to_images
from impasto.runtime.model_directory import halved, read_config

MARKERS = 2  # begin and end of a picture
BATCH_SIZE = 32  # pictures per pass, unless told otherwise


@dataclass(frozen=True)
class Generation:
    """Pictures with what made them, in the order prompt 0 image 0, prompt 0 image 1, ...

    images [N, 3, R, R] in about [-1, 1]; codes [N, side, side]; prompts and seeds, one per picture.
    """

    images: Tensor
    codes: Tensor
    prompts: list[str]
    seeds: list[int]

    def pictures(self) -> list[Image.Image]:
        return to_images(self.images)


class MarsPipeline:
    """A sequence model with its image tokenizer and its text tokeniser. Call it with a prompt."""

    def __init__(
        self,
        parts: MarsParts,
        config: MarsPipelineConfig,
        tokeniser: Tokenizer,
        *,
        name: str = "mars",
        trained: bool = True,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.parts, self.config, self.name, self.trained = parts.eval(), config, name, trained
        self.tokeniser = tokeniser
        self.prompts = PromptTokeniser(tokeniser, config.model.language.vocabulary)
        self.provenance = dict(provenance or {})  # how it came to be: data, pictures seen, networks used
        self.device = parts.model.device

    @classmethod
    def untrained(cls, config: MarsPipelineConfig, *, name: str, seed: int = 0) -> "MarsPipeline":
        """Freshly initialised networks, the same for the same seed, that read prompts byte by byte.
        ConfigError where the vocabulary has not a row for each byte."""
        if config.model.language.vocabulary < BYTE_PIECES:
            raise ConfigError(f"model.language.vocabulary should be at least {BYTE_PIECES} to read bytes")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = VQTokenizer(config.tokenizer)
        parts = MarsParts(new_model(config.model, seed), tokenizer)
        if config.enlarging is not None:
            parts.enlarging = new_model(config.enlarging.model, seed)
            share_language(parts.enlarging, parts.model)
        return cls(parts, config, byte_tokeniser(), name=name, trained=False)

    @classmethod
    def from_pretrained(cls, path: Path | str) -> "MarsPipeline":
        """A model directory. Raises ModelDirectoryError or ConfigError, in one line."""
        path = Path(path)
        _, document = read_config(path)
        parts, config = load_whole(path)
        _, trained, provenance = read_document(document)
        name = path.resolve().name
        tokeniser = read_tokeniser(path)
        return cls(parts, config, tokeniser, name=name, trained=trained, provenance=provenance)

    def summary(self) -> str:
        """What it is, in a sentence."""
        return summary(self.parts, self.config)

    def save_pretrained(self, path: Path | str, card: str | None = None, *, half: bool = False) -> None:
        """Write a whole model directory: both experts, both tokenisers, the model card; half: matrices and
        kernels in fp16, for a file of half the size."""
        document = {**to_dict(self.config), "trained": self.trained, "provenance": self.provenance}
        state = self.parts.saved_state()
        if half:
            state = halved(state)
        card = card or model_card(self.name, self.trained, self.parts, self.config)
        save_directory(Path(path), FAMILY, document, state, card, self.tokeniser)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "MarsPipeline":
        """Move to a device, and the sequence model's parameters to a type; the image tokenizer stays in
        fp32."""
        if device is not None:
            self.device = torch.device(device)
            self.parts.to(self.device)
        if dtype is not None:
            for model in (self.parts.model, self.parts.enlarging):
                for parameter in () if model is None else model.parameters():
                    parameter.data = parameter.data.to(dtype)
        return self

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
        batch_size: int = BATCH_SIZE,
        guidance: float | None = None,
        temperature: float = 1.0,
        top_k: int = 1000,
        top_p: float = 1.0,
        size: int | None = None,
        on_row: RowCallback | None = None,
    ) -> Generation:
        """Image k of every prompt is drawn with stream seed + k, on the CPU: it depends neither on the batch
        it is made in nor on the device. Several seeds are one for each prompt.

        guidance: how strongly the prompt is followed, 1 for not at all more than learned; the model's own
        default. temperature, top_k, top_p: how a code is drawn, see `SamplingSettings`. size: side in pixels,
        one of `config.sizes`; the base's own by default, the larger one by stage III from the base's codes,
        whose guidance is its own. on_row(row, codes): called after each row of codes of a batch that the base
        draws, for `preview`. Raises ValueError for a prompt that leaves no room for a picture in the model's
        context, or for a size that no stage draws.
        """
        if not self.trained:
            warnings.warn(f"'{self.name}' is untrained: its pictures show no prompt", stacklevel=2)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not texts:
            raise ValueError("no prompt given")
        if num_images < 1 or batch_size < 1:
            raise ValueError("num_images and batch_size should be at least 1")
        first = [seed] * len(texts) if isinstance(seed, int) else list(seed)
        if len(first) != len(texts):
            raise ValueError(f"{len(first)} seeds for {len(texts)} prompts; give one seed, or one for each")
        settings = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p)
        size = self.config.resolution if size is None else size
        if size not in self.config.sizes:
            raise ValueError(self._no_stage(size))
        encoded = [self._encode(text, size) for text in texts]
        seeds = [start + index for start in first for index in range(num_images)]
        owner = [index for index in range(len(texts)) for _ in range(num_images)]
        side, codes = size // self.config.tokenizer.factor, []
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            captions = [encoded[index] for index in owner[part]]
            drawn = generate_images(
                self.parts.model,
                captions,
                seeds[part],
                level=self.config.level,
                guidance=self.config.guidance if guidance is None else guidance,
                settings=settings,
                on_row=on_row,
            )
            if size != self.config.resolution:
                drawn = self._enlarged(drawn, captions, seeds[part], settings)
            codes.append(drawn.unflatten(1, (side, side)))
        images = [self.parts.tokenizer.decode(part) for part in codes]
        return Generation(torch.cat(images), torch.cat(codes), [texts[index] for index in owner], seeds)

    def _enlarged(
        self, low: Tensor, captions: Sequence[list[int]], seeds: Sequence[int], settings: SamplingSettings
    ) -> Tensor:
        """Codes [B, N] of stage III from those of the base, [B, n]."""
        stage, model = self.config.enlarging, self.parts.enlarging
        assert stage is not None and model is not None
        return generate_high(model, low, captions, seeds, guidance=stage.guidance, settings=settings)

    def _no_stage(self, size: int) -> str:
        known = " and ".join(map(str, self.config.sizes))
        way_out = (
            "a larger size takes a model of stage III, `impasto train .../stage3`"
            if self.config.enlarging is None
            else "choose one of these"
        )
        return f"'{self.name}' draws {known} px and has no stage for size={size}; {way_out}"

    @torch.no_grad()
    def preview(self, codes: Tensor) -> list[Image.Image]:
        """Pictures of which rows are still missing: codes [B, N] of the first rows of the grid, as `on_row`
        gets them. The decoder sees no more than those, so that the last row changes when the next comes."""
        side, image_side = self.config.model.grid(self.config.level), self.config.resolution
        decoded = to_images(self.parts.tokenizer.decode(codes.unflatten(1, (-1, side))))
        pictures = []
        for part in decoded:
            picture = Image.new("RGB", (image_side, image_side), PAPER)
            picture.paste(part, (0, 0))
            pictures.append(picture)
        return pictures

    def write(self, prompt: str, **options: Any) -> list[str | Image.Image]:
        """The parts of `write_document`, with the same options."""
        return self.write_document(prompt, **options).parts

    @torch.no_grad()
    def write_document(
        self,
        prompt: str,
        *,
        seed: int = 0,
        max_words: int = 64,
        max_pictures: int = 1,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 1000,
        top_p: float = 1.0,
    ) -> Writing:
        """What follows a prompt: texts and pictures in the order that the model chooses (interleaved). A
        model that was not trained on such documents opens no picture. guidance: how strongly a picture
        follows what stands before it, 1 for not at all more than learned. ValueError for an empty prompt, or
        one that leaves no room in the model's context."""
        if not prompt:
            raise ValueError("no prompt given")
        if max_words < 1 or max_pictures < 0:
            raise ValueError("max_words should be at least 1 and max_pictures at least 0")
        model, ids = self.parts.model, self._encode(prompt)
        document = generate_document(
            model,
            ids,
            seed,
            level=self.config.level,
            max_words=max_words,
            max_pictures=max_pictures,
            guidance=guidance,
            settings=SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p),
        )
        parts, whole = read_back(document, ids, self.parts.tokenizer, self.config, self.prompts)
        return Writing(parts, whole, document.ids, document.ended, prompt, seed)

    @torch.no_grad()
    def caption(
        self,
        images: Image.Image | Sequence[Image.Image] | Tensor,
        language: Language | None = None,
        *,
        max_tokens: int = 64,
        batch_size: int = 32,
    ) -> list[str]:
        """A sentence about each picture, the likeliest word by word; in a language, or in that which the
        model prefers. images: PIL images, resized to the model's side, or [N, 3, R, R] in [-1, 1]."""
        pixels = self._pixels(images)
        first = None if language is None else self.prompts.beginnings(language)
        texts = []
        for part in pixels.split(batch_size):
            codes = self.parts.tokenizer.encode(part.to(self.device)).flatten(1)
            written = caption_images(
                self.parts.model,
                codes,
                level=self.config.level,
                max_tokens=max_tokens,
                settings=GREEDY,
                first=first,
            )
            texts += [self.prompts.decode(ids).strip() for ids in written]
        return texts

    @torch.no_grad()
    def likelihoods(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """The natural logarithm of how likely the codes of each picture are after its prompt."""
        found = []
        for picture, prompt in zip(self._pixels(pictures), prompts, strict=True):
            codes = self.parts.tokenizer.encode(picture[None].to(self.device)).flatten(1).cpu()
            model, ids = self.config.model, self._encode(prompt)
            batch = text_to_image(model, [ids], codes, level=self.config.level, end_token_loss=False)
            losses = self.parts.model.losses(batch.to(self.device))
            assert losses.image is not None
            found.append(-float(losses.image) * losses.image_tokens)
        return found

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

    def _encode(self, text: str, size: int | None = None) -> list[int]:
        """Ids of a prompt. ValueError for more than fit into the context beside a picture, of that size, and
        its markers."""
        ids = self.prompts.encode(text)
        model, markers = self.config.model, MARKERS
        taken = model.picture_positions(self.config.level)
        if size not in (None, self.config.resolution) and self.config.enlarging is not None:
            large = self.config.enlarging.model
            taken, markers = large.picture_positions(len(large.grids) - 1), 2 * MARKERS
        room = model.language.context - taken - markers
        if len(ids) > room:
            raise ValueError(f"the prompt has {len(ids):,} tokens; '{self.name}' reads at most {room:,}")
        return ids

    def _pixels(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        if isinstance(images, Tensor):
            return images
        pictures = [images] if isinstance(images, Image.Image) else list(images)
        if not pictures:
            raise ValueError("no picture given")
        side = self.config.resolution
        return from_images([picture.convert("RGB").resize((side, side)) for picture in pictures])
