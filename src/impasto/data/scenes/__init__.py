"""Scenes: an endless text-image set of coloured shapes, whose captions and pictures can be checked exactly.

    rng = numpy.random.default_rng(0)
    scene = sample_scene(rng, split="train")    # or "heldout": (colour, shape) pairs never seen in training
    text = caption(scene, rng, language="en")   # or "zh"
    image = render(scene, size=64)              # PIL.Image
    score_image(image, text).overall            # 1.0

Everything a scene can hold is listed in ``scenes.world``. Captions fall in the six categories of
T2I-CompBench: color, shape, texture, spatial, non-spatial and complex. Shapes do not act, so "non-spatial"
means here every fact that is neither a look nor a direction: how many there are, how large they are, that one
touches or lies inside another, and what the background is. See docs/scenes.md.
"""

from impasto.data.scenes.contrast import contrast
from impasto.data.scenes.parsing import parse_prompt
from impasto.data.scenes.phrasing import caption, caption_and_contrast, caption_in_languages, phrase
from impasto.data.scenes.reading import Reading, SeenObject, read_image, reading_of
from impasto.data.scenes.realising import gather_lone, realise, scene_for
from impasto.data.scenes.render import render, render_array
from impasto.data.scenes.requirement import Described, Relation, Requirement, describe
from impasto.data.scenes.sampling import sample_scene
from impasto.data.scenes.score import SceneScore, ScoreSummary, score_image, score_images, score_reading
from impasto.data.scenes.world import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    HELD_OUT_PAIRS,
    LANGUAGES,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    TRAIN_PAIRS,
    Scene,
    SceneObject,
)

__all__ = [
    "BACKGROUNDS",
    "CATEGORIES",
    "COLOURS",
    "HELD_OUT_PAIRS",
    "LANGUAGES",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TEXTURES",
    "TRAIN_PAIRS",
    "Described",
    "Reading",
    "Relation",
    "Requirement",
    "Scene",
    "SceneObject",
    "SceneScore",
    "ScoreSummary",
    "SeenObject",
    "caption",
    "caption_and_contrast",
    "caption_in_languages",
    "contrast",
    "describe",
    "gather_lone",
    "parse_prompt",
    "phrase",
    "read_image",
    "reading_of",
    "realise",
    "render",
    "render_array",
    "sample_scene",
    "scene_for",
    "score_image",
    "score_images",
    "score_reading",
]
