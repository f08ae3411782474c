"""Pictures against prompts: closed forms, chance, and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import impasto.metrics.alignment as alignment
from impasto.cli import main
from impasto.metrics.alignment import Scorer, align, alignment_results, alignment_table
from impasto.metrics.extractors import Extractor
from impasto.pictures import save_png
from impasto.vision.two_tower import TwoTower, TwoTowerConfig

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


class ColourModel:
    """The mean colour of a picture, and the colour that a text names."""

    scale, fingerprint, networks, device = 1.0, "c" * 64, {"colours": "d" * 64}, torch.device("cpu")

    def embed_images(self, images):
        return (images.mean((2, 3)) + 1) / 2

    def embed_texts(self, texts):
        self.asked = texts
        named = [next(rgb for word, rgb in COLOURS.items() if word in text) for text in texts]
        return torch.tensor(named) / 255.0

    def to(self, target):
        return self


def test_the_numbers_are_those_of_the_definition():
    images = torch.tensor([[2.0, 0, 0], [0, 0, 3], [1, 1, 0], [1, 0, 0]])
    texts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [5, 0, 0]])
    found = align(images, texts, ["one", "two", "two", "one"], distractors=99)
    assert found.cosine.mean == pytest.approx(
        (1 + 0.5**0.5 / 2) / 2
    )  # of two prompts: 1, and (0 + 0.707) / 2
    # "two" first: equal to the other (both 0); then equal again (both 0.707): half a hit each
    assert found.r_precision.mean == pytest.approx((1 + 0.5) / 2)
    assert (found.distractors, found.pictures, found.prompts) == (1, 4, 2)


def test_distractors_say_something_else_and_chance_is_chance():
    same = ["a red circle", "red circle", "a blue star"]
    vectors = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    found = align(vectors, vectors, same)
    assert found.distractors == 1 and found.r_precision.mean == 1
    alone = align(vectors[:2], vectors[:2], same[:2])
    assert alone.r_precision is None and alone.distractors == 0
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(600, 16, generator=generator) for _ in range(2))
    prompts = [f"text {number}" for number in range(600)]
    random = align(images, texts, prompts, distractors=9, seed=1)
    assert random.r_precision.low < 0.1 < random.r_precision.high
    assert random == align(images, texts, prompts, distractors=9, seed=1)
    assert random != align(images, texts, prompts, distractors=9, seed=2)
    with pytest.raises(ValueError, match="600 pictures, 600 texts and 2 prompts"):
        align(images, texts, ["a", "b"])


def test_prefix_and_shuffling():
    model = ColourModel()
    scorer = Scorer("colours:here", model, "A photo depicts ")
    assert isinstance(scorer, Extractor)
    prompts = [f"a {word} thing" for word in COLOURS]
    pictures = [Image.new("RGB", (8 + n % 2, 8 + n % 2), rgb) for n, rgb in enumerate(COLOURS.values())]
    results = alignment_results(scorer, {"pictures": (scorer.embed_pictures(pictures), prompts)})
    assert model.asked == [f"A photo depicts {prompt}" for prompt in prompts]
    rows = results["rows"]
    assert rows["pictures"]["cosine"]["mean"] == pytest.approx(1)
    assert rows["pictures"]["r_precision"]["mean"] == 1
    assert rows["pictures, prompts shuffled"]["r_precision"]["mean"] == 0  # no prompt keeps its place
    assert results["accuracy"] is None and results["scorer"]["prompt_prefix"] == "A photo depicts "


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "load_image_text_model", lambda spec: ColourModel())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for folder, noise in (("pictures", 90), ("reference", 5)):
        for number in range(8):
            word, rgb = list(COLOURS.items())[number % 4]
            pixels = np.array(rgb) + rng.normal(0, noise, (32, 32, 3))
            settings = {"prompt": f"a {word} circle", "training_networks": {"text_encoder": "a"}}
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            save_png(image, tmp_path / folder / f"{number:06d}.png", settings)
    return tmp_path


def test_pictures_with_prompts(pictures, capsys):
    run = ["evaluate", str(pictures / "pictures"), "--out", str(pictures / "report")]
    assert main([*run, "--scorer", "clip:x", "--distractors", "2"]) == 0
    printed = capsys.readouterr().out
    assert "8 pictures: overall" in printed and "| pictures | 0." in printed
    assert "nothing before each prompt; distractors drawn with seed 0" in printed
    document = json.loads((pictures / "report" / "report.json").read_text())
    assert document["alignment"]["rows"]["pictures"]["distractors"] == 2
    assert main([*run, "--distractors", "2"]) == 2
    assert "only with --scorer" in capsys.readouterr().err
    image = Image.new("RGB", (32, 32))
    save_png(image, pictures / "pictures" / "zz.png", {"prompt": "the red of dawn"})
    assert main(run) == 2 and "cannot read 'the red of dawn'; add --scorer" in capsys.readouterr().err
    assert main([*run, "--scorer", "clip:x"]) == 0 and "overall" not in capsys.readouterr().out
    save_png(image, pictures / "pictures" / "zy.png", {})
    (pictures / "pictures" / "zx.png").write_bytes(b"no picture")
    assert main([*run, "--scorer", "clip:x"]) == 0
    assert "Left out: 1 picture damaged (zx.png), 1 no prompt (zy.png)." in capsys.readouterr().out
    skipped = json.loads((pictures / "report" / "report.json").read_text())["skipped"]
    assert skipped == {"picture damaged": ["zx.png"], "no prompt": ["zy.png"]}
    told = {"prompt": "a red circle", "training_networks": {"clip, weights of colours": "d" * 64}}
    save_png(image, pictures / "pictures" / "zz.png", told)
    assert main([*run, "--scorer", "clip:x"]) == 2
    assert "clip was used in this model's training" in capsys.readouterr().err


def test_a_set_report_with_a_scorer(pictures, capsys):
    run = [
        "evaluate",
        str(pictures / "pictures"),
        "--reference",
        str(pictures / "reference"),
        "--allow-small",
    ]
    assert main([*run, "--out", str(pictures / "report"), "--scorer", "clip:x"]) == 0
    printed = capsys.readouterr().out
    assert "| cosine by clip: reference | 1.000" in printed
    assert "| R-precision by clip: reference | 1.000" in printed
    document = json.loads((pictures / "report" / "report.json").read_text())
    rows = document["alignment"]["rows"]
    assert rows["pictures"]["cosine"]["mean"] < rows["reference"]["cosine"]["mean"]
    page = (pictures / "report" / "report.html").read_text()
    assert "cosine by clip: pictures, prompts shuffled" in page
    assert (
        "each with its prompt, and their cosine by clip" in page
        and (pictures / "report/prompts.png").is_file()
    )


def test_a_two_tower_says_how_good_it_is_itself(monkeypatch):
    monkeypatch.setattr(alignment, "ACCURACY_PICTURES", 12)
    config = TwoTowerConfig(
        backbone="efficientnet-lite0", side=32, queries=2, token_width=8, hidden=16, width=12
    )
    scorer = Scorer("two-tower:x", TwoTower.fresh(config))
    pictures = [Image.new("RGB", (32, 32), rgb) for rgb in COLOURS.values()]
    results = alignment_results(scorer, {"p": (scorer.embed_pictures(pictures), list(COLOURS))})
    accuracy = results["accuracy"]
    assert 0 <= accuracy["image_to_text"] < 0.7 and accuracy["scenes"] == 12  # untrained heads
    assert f"finds the caption of {accuracy['image_to_text']:.1%} of 12" in alignment_table(results)
    assert "efficientnet-lite0" in results["scorer"]["networks"]
