"""What must come out in order does: real held-out pictures, blurred ones, captions exchanged, an untrained
network or noise. By the measures of pictures and by those of pictures and prompts, on scenes and glyphs."""

import warnings
from itertools import pairwise

import pytest
import torch
from PIL import Image, ImageFilter

import impasto
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.metrics.alignment import align, load_scorer
from impasto.metrics.extractors import load_extractor
from impasto.metrics.frechet import FrechetStats, frechet
from impasto.metrics.kernel import kernel_distance
from impasto.metrics.manifold import manifold
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import open_pictures
from impasto.metrics.scenes import judge, renders, shuffled
from impasto.pictures import from_images

COUNT = 100


@pytest.fixture(scope="module")
def extractor():
    return load_extractor()


def features(extractor, pictures):
    return torch.cat(
        [extractor.features(from_images(pictures[n : n + 50])) for n in range(0, len(pictures), 50)]
    )


def distance(one, other):
    stats = []
    for found in (one, other):
        stats.append(FrechetStats())
        stats[-1].update(found)
    return frechet(*stats).distance


def blurred(pictures, radius):
    return [picture.filter(ImageFilter.GaussianBlur(radius)) for picture in pictures]


def noise(pictures):
    generator = torch.Generator().manual_seed(0)
    side = pictures[0].width
    pixels = torch.randint(0, 256, (len(pictures), side, side, 3), dtype=torch.uint8, generator=generator)
    return [Image.fromarray(one.numpy()) for one in pixels]


def check_pictures(extractor, reference, sets):
    """`sets`, best first: the distances rise, the share of the reference that is covered falls."""
    real = features(extractor, reference)
    found = [features(extractor, pictures) for pictures in sets]
    distances = [distance(one, real) for one in found]
    kernels = [kernel_distance(one, real) for one in found]
    coverages = [manifold(real, one).coverage for one in found]
    for first, second in pairwise(range(len(sets))):
        assert distances[first] < 0.9 * distances[second], distances
        assert kernels[first].high < kernels[second].low, kernels
        assert coverages[first].mean > coverages[second].mean, coverages
    assert kernels[0].low < 0 < kernels[0].high  # held-out pictures are of the same distribution


def test_scenes(extractor):
    options = SceneOptions(max_objects=2, textures=False)
    prompts = SceneSource(32, options, seed=5).captions(COUNT)
    real = renders(32)(prompts, 1)
    reference = renders(32)(SceneSource(32, options, seed=6).captions(COUNT), 2)
    pipe = impasto.load("aurora-scenes-32")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is untrained")
        blank = type(pipe).untrained(pipe.config, name="blank")
        untrained = blank.generate(prompts, seed=list(range(COUNT)), batch_size=50).pictures()
    soft = blurred(real, 2)
    check_pictures(extractor, reference, [real, soft, untrained])
    asked = [(real, prompts), (soft, prompts), (real, shuffled(prompts)), (untrained, prompts)]
    scores = [judge(pictures, captions).overall for pictures, captions in asked]
    for better, worse in pairwise(scores):
        assert better.low > worse.high, scores


def test_glyphs(extractor):
    sample = open_pictures("openglyphs:sample")
    stored = [sample.read(index) for index in range(len(sample))]
    order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(0))[: 2 * COUNT].tolist()
    pictures = [prepare(stored[index].data, stored[index].name, 64)[0] for index in order]
    prompts = [stored[index].prompt for index in order]
    reference, real = pictures[:COUNT], pictures[COUNT:]
    soft, static = blurred(real, 2), noise(real)
    check_pictures(extractor, reference, [real, soft, static])
    scorer = load_scorer("two-tower:openglyphs-64")
    asked = prompts[COUNT:]
    own = scorer.embed_prompts(asked)

    def score(pictures, texts):
        return align(scorer.embed_pictures(pictures), texts, asked, distractors=20)

    best, middling = score(real, own), score(soft, own)
    worst = [score(static, own), score(real, own.roll(1, 0))]  # noise, and captions exchanged
    assert best.cosine.mean > middling.cosine.mean
    for chance in worst:
        assert middling.cosine.low > chance.cosine.high and middling.r_precision.low > chance.r_precision.high
        assert chance.r_precision.low < 1 / 21 < chance.r_precision.high
