"""The trained models inside the package: they load by name, are small, say where they come from, and draw
what they are asked for better than chance."""

import pytest

import impasto
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import score_images
from impasto.loading import shipped_models

SIZES = {"aurora-scenes-32": 10e6, "mars-scenes": 6e6}  # bytes at most
ALL_OF_THEM = 24e6


def test_shipped_models_are_small():
    found = {
        name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for name, folder in shipped_models().items()
    }
    assert found.keys() == SIZES.keys()
    assert all(size <= SIZES[name] for name, size in found.items()), found
    assert sum(found.values()) <= ALL_OF_THEM


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_model_says_what_it_is(name):
    pipe = impasto.load(name)
    assert pipe.trained and pipe.name == name
    assert pipe.provenance["data"]["scenes"] and pipe.provenance["images_seen"] > 10_000
    card = (shipped_models()[name] / "README.md").read_text(encoding="utf-8")
    assert "## Measured" in card and "## Limits" in card and "Licence" in card


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_shipped_model_follows_prompts(name, split):
    pipe = impasto.load(name)
    source = SceneSource(32, SceneOptions(max_objects=1, textures=False), seed=90, split=split)
    prompts = source.captions(40)
    pictures = pipe.generate(prompts, seed=list(range(40))).pictures()
    told = score_images(pictures, prompts).overall
    shuffled = score_images(pictures, prompts[7:] + prompts[:7]).overall
    assert told > 1.5 * shuffled, (told, shuffled)
