"""What `make demo` shows of the shipped Aurora models: twenty prompts drawn with the first seed, at 64 pixels
beside the same picture at 256, and what the judges make of them.

    python -m impasto.demo --out demo

Scenes are read by the oracle; a glyph's own caption is ranked among 300 by a scorer that no model was trained
with. Everything is offline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import impasto
from impasto.config import first_line
from impasto.data.glyphs.sample import SAMPLE_NAME
from impasto.data.opening import resolve
from impasto.data.options import DatasetOptions
from impasto.data.scenes import score_image
from impasto.data.source import allowed_captions
from impasto.demo_prompts import GLYPH_PROMPTS, SCENE_PROMPTS
from impasto.errors import ExpectedError
from impasto.metrics.alignment import Scorer, load_scorer
from impasto.pictures import INK, MARGIN, PAPER, label_font, save_png, to_images
from impasto.runtime.files import atomic_write_text
from impasto.upscaling.loading import load_upscaler

SCENE_MODEL, GLYPH_MODEL, SCORER = "aurora-scenes-32", "aurora-openglyphs-32", "two-tower:openglyphs-64"
SEED, SCALE = 0, 4
CAPTIONS, WITHIN = 300, 10  # a glyph's caption among so many, and where it should stand
SMALL, LARGE = 64, 256  # sides of a picture on the sheet; px
COLUMNS, LINE = 4, 16


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one picture. rank: of the own caption among `CAPTIONS`, 1 the best; scenes have a
    score from 0 to 1 instead."""

    prompt: str
    right: bool
    score: float | None = None
    rank: int | None = None

    def line(self) -> str:
        """The prompt and what was found, after + or -."""
        found = f"score {self.score:.2f}" if self.rank is None else f"rank {self.rank} of {CAPTIONS}"
        return f"{'+' if self.right else '-'} {self.prompt}: {found}"


def draw(model: str, prompts: Sequence[str]) -> Tensor:
    """[N, 3, R, R] in about [-1, 1]: the first picture of each prompt."""
    return impasto.load(model).generate(list(prompts), seed=SEED).images


def judge_scenes(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Verdict]:
    """Right is what the oracle finds without fault."""
    scores = [score_image(picture, text).overall for picture, text in zip(pictures, prompts, strict=True)]
    return [Verdict(text, score == 1, score=score) for text, score in zip(prompts, scores, strict=True)]


def judge_glyphs(
    pictures: Sequence[Image.Image], prompts: Sequence[str], scorer: Scorer, others: Sequence[str]
) -> list[Verdict]:
    """Right is a picture whose own caption is among its `WITHIN` nearest of `CAPTIONS`. A tie counts against
    it. `others`: captions to stand beside, in their order; those of the prompts are left out. ValueError
    where fewer than `CAPTIONS` - 1 remain."""
    distractors = [text for text in dict.fromkeys(others) if text not in prompts][: CAPTIONS - 1]
    if len(distractors) < CAPTIONS - 1:
        raise ValueError(f"{len(distractors)} other captions, {CAPTIONS - 1} are needed")
    images, own = scorer.embed_pictures(pictures), scorer.embed_prompts(prompts)
    apart = scorer.embed_prompts(distractors)
    verdicts = []
    for prompt, image, text in zip(prompts, images, own, strict=True):
        cosine = (text @ image) / text.norm()
        rank = 1 + int(((apart @ image) / apart.norm(dim=1) >= cosine).sum())
        verdicts.append(Verdict(prompt, rank <= WITHIN, rank=rank))
    return verdicts


def other_captions() -> list[str]:
    """The first English caption of every picture of the sample of Open Glyphs."""
    records, options = resolve(SAMPLE_NAME, DatasetOptions(languages={"en": 1.0}, phrasings=1))
    samples = (records.read(index).captions for index in range(len(records)))
    return [told.text for captions in samples for _, told in allowed_captions(captions, options)]


def enlarge(images: Tensor) -> tuple[Tensor, Tensor]:
    """[N, 3, R, R] in [-1,1], R from 16 to 64 -> the same at 64 and at 256 pixels, both by Real-ESRGAN: means
    over squares of what is four times as large, and that four times as large. Raises as `load_upscaler`."""
    upscaler = load_upscaler("realesrgan", SCALE)
    small = images if images.shape[-1] == SMALL else adaptive_avg_pool2d(upscaler.upscale(images), SMALL)
    return small, upscaler.upscale(small)


def sheet(
    small: Sequence[Image.Image], large: Sequence[Image.Image], verdicts: Sequence[Verdict]
) -> Image.Image:
    """Each picture at both sizes, its prompt and verdict below."""
    wide, tall = SMALL + LARGE + 3 * MARGIN, LARGE + 2 * LINE + 2 * MARGIN
    rows = -(-len(small) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * wide + MARGIN, rows * tall + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    for number, (before, after, verdict) in enumerate(zip(small, large, verdicts, strict=True)):
        left, top = MARGIN + number % COLUMNS * wide, MARGIN + number // COLUMNS * tall
        page.paste(before, (left, top))
        page.paste(after, (left + SMALL + MARGIN, top))
        mark, _, found = verdict.line().rpartition(": ")
        pen.text((left, top + LARGE + 2), mark, INK, label_font(mark))
        pen.text((left + 11, top + LARGE + 2 + LINE), found, (120, 120, 120), label_font(found))
    return page


def run(out: Path) -> list[Verdict]:
    """Draw, judge, write sheet.png and verdicts.json."""
    scenes, glyphs = draw(SCENE_MODEL, SCENE_PROMPTS), draw(GLYPH_MODEL, GLYPH_PROMPTS)
    small, large = (
        to_images(torch.cat(parts)) for parts in zip(enlarge(scenes), enlarge(glyphs), strict=True)
    )
    verdicts = judge_scenes(to_images(scenes), SCENE_PROMPTS)
    verdicts += judge_glyphs(to_images(glyphs), GLYPH_PROMPTS, load_scorer(SCORER), other_captions())
    settings = {"models": [SCENE_MODEL, GLYPH_MODEL], "seed": SEED, "upscale": SCALE, "scorer": SCORER}
    save_png(sheet(small, large, verdicts), out / "sheet.png", settings)
    told = {**settings, "verdicts": [asdict(verdict) for verdict in verdicts]}
    atomic_write_text(out / "verdicts.json", json.dumps(told, indent=1) + "\n")
    return verdicts


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; expected errors become one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m impasto.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder (demo)")
    arguments = parser.parse_args(argv)
    try:
        verdicts = run(arguments.out)
    except (ExpectedError, ValueError, OSError) as error:
        print(f"demo: error: {first_line(error)}", file=sys.stderr)
        return 2
    print("\n".join(verdict.line() for verdict in verdicts))
    half = len(SCENE_PROMPTS)
    right = [sum(verdict.right for verdict in part) for part in (verdicts[:half], verdicts[half:])]
    print(f"scenes read right: {right[0]} of {half}; glyphs whose caption is among the {WITHIN} nearest of")
    print(f"{CAPTIONS}: {right[1]} of {len(verdicts) - half}; see {arguments.out / 'sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
