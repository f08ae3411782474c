"""The trained models inside the package: they load by name, are small, say where they come from, and draw
what they are asked for better than chance."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import impasto
from impasto import demo
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import score_images
from impasto.demo_prompts import GLYPH_PROMPTS, SCENE_PROMPTS
from impasto.loading import describe, shipped_models
from impasto.metrics.alignment import align, load_scorer
from impasto.runtime.model_directory import CONFIG, WEIGHTS, ModelDirectoryError

ROOT = Path(__file__).parent.parent
SCENES = ("aurora-scenes-32", "mars-scenes")
SIZES = {"aurora-scenes-32": 10e6, "aurora-openglyphs-32": 10e6, "mars-scenes": 6e6}  # bytes at most
ALL_OF_THEM = 24e6  # with the scorer
ALL_TRACKED = 40e6


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_shipped_models_are_small():
    found = {name: size_of(folder) for name, folder in shipped_models().items()}
    assert found.keys() == SIZES.keys()
    assert all(size <= SIZES[name] for name, size in found.items()), found
    assert size_of(Path(impasto.__file__).parent / "models") <= ALL_OF_THEM


def test_a_folder_of_the_same_name_is_spoken_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mars-scenes").mkdir()
    for file in (CONFIG, WEIGHTS):
        (tmp_path / "mars-scenes" / file).write_text("{}")
    with pytest.warns(
        UserWarning, match="'mars-scenes' is the shipped model; the folder here is './mars-scenes'"
    ):
        assert describe("mars-scenes", []).state == "trained"
    with pytest.raises(ModelDirectoryError):
        describe("./mars-scenes", [])


def test_all_tracked_files_are_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 100 and sum(file.stat().st_size for file in files if file.is_file()) <= ALL_TRACKED


def images_seen(provenance):
    """Of a model, and of all that it began from."""
    before = provenance.get("began_from")
    return provenance["images_seen"] + (images_seen(before) if before else 0)


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_model_says_what_it_is(name):
    pipe = impasto.load(name)
    assert pipe.trained and pipe.name == name
    data = pipe.provenance["data"]
    assert data["scenes"] if name in SCENES else data["dataset"]
    assert images_seen(pipe.provenance) > 10_000
    card = (shipped_models()[name] / "README.md").read_text(encoding="utf-8")
    assert "## Measured" in card and "## Limits" in card and "Licence" in card


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_shipped_model_follows_prompts(name, split):
    pipe = impasto.load(name)
    source = SceneSource(32, SceneOptions(max_objects=1, textures=False), seed=90, split=split)
    prompts = source.captions(40)
    pictures = pipe.generate(prompts, seed=list(range(40))).pictures()
    told = score_images(pictures, prompts).overall
    shuffled = score_images(pictures, prompts[7:] + prompts[:7]).overall
    assert told > 1.5 * shuffled, (told, shuffled)


def test_the_glyphs_are_what_was_asked_for_by_a_scorer_that_did_not_train_them():
    pipe = impasto.load(demo.GLYPH_MODEL)
    scorer = load_scorer(demo.SCORER)
    assert not set(scorer.networks.values()) & set(pipe.provenance["training_networks"].values())
    prompts = [
        f"{thing}, noto style" for thing in ("a banana", "a rose", "an umbrella", "a tomato", "a coin")
    ]
    prompts += GLYPH_PROMPTS
    images = scorer.embed_pictures(pipe.generate(prompts, seed=list(range(len(prompts)))).pictures())
    told = align(images, scorer.embed_prompts(prompts), prompts)
    assert told.r_precision is not None and told.r_precision.mean > 3 / len(prompts), told


def test_the_demo_draws_judges_and_writes_what_is_documented(tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert [verdict["prompt"] for verdict in found["verdicts"]] == [*SCENE_PROMPTS, *GLYPH_PROMPTS]
    right = [
        sum(verdict["right"] for verdict in part) for part in (found["verdicts"][:10], found["verdicts"][10:])
    ]
    assert right[0] >= 7 and right[1] >= 5, told
    assert f"scenes read right: {right[0]} of 10" in told
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1_000 and sheet.height > 800


def test_a_glyph_is_judged_by_its_own_caption_and_ties_count_against_it():
    class Fixed:
        """Every caption and picture is a number on a circle."""

        def embed_pictures(self, pictures):
            return demo.Tensor([[1.0, 0.0]])

        def embed_prompts(self, prompts):
            return demo.Tensor(
                [[1.0, 0.2 if text == "near" else 0.1 if text == "own" else 5.0] for text in prompts]
            )

    others = ["near", *(f"far {number}" for number in range(300))]
    (verdict,) = demo.judge_glyphs([Image.new("RGB", (2, 2))], ["own"], Fixed(), others)
    assert verdict.rank == 1 and verdict.right
    (verdict,) = demo.judge_glyphs(
        [Image.new("RGB", (2, 2))], ["near"], Fixed(), ["near", "own", *others[1:]]
    )
    assert verdict.rank == 2
    (verdict,) = demo.judge_glyphs([Image.new("RGB", (2, 2))], ["far 0"], Fixed(), others)
    assert verdict.rank == demo.CAPTIONS and not verdict.right
    with pytest.raises(ValueError, match="299 are needed"):
        demo.judge_glyphs([], ["own"], Fixed(), others[:20])
