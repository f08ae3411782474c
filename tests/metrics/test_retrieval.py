"""How good a scorer is itself: by hand, by the command, and of the one that ships."""

import json

import pytest
import torch

from impasto.cli import main
from impasto.data.options import DatasetOptions
from impasto.metrics.alignment import load_scorer
from impasto.metrics.retrieval import recalls, retrieval_of_set
from impasto.vision import shipped_scorers
from impasto.vision.two_tower import TwoTower

SHIPPED = "openglyphs-64"


def test_recalls_by_hand():
    """Of twelve, two pictures lie at the third's text; a tie counts as found too late."""
    texts = torch.eye(12)
    images = texts.clone()
    images[0] = texts[2] + 0.5 * texts[0]
    images[1] = texts[1] + texts[2]
    found = recalls(images, texts)
    assert found["image_to_text"] == {"1": pytest.approx(10 / 12), "10": 1.0}
    assert found["text_to_image"]["1"] == 1.0


def test_the_shipped_scorer_says_what_it_is():
    folder = shipped_scorers()[SHIPPED]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2.6e6
    scorer = load_scorer(f"two-tower:{SHIPPED}")
    assert scorer.model.config.backbone == "efficientnet-lite0"  # reports measure, training takes lite2
    assert not scorer.knows_scenes and {"held-out concepts", "held-out cells"} <= set(scorer.retrieval)
    for found in scorer.retrieval.values():
        assert found["pictures"] > 200 and found["image_to_text"]["1"] > 0.2
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Measured" in card and "## Limits" in card and "Licence" in card


def test_it_finds_captions_of_glyphs():
    """Of the sample, whose pictures are smaller files than those it was trained on."""
    found = retrieval_of_set(
        load_scorer(f"two-tower:{SHIPPED}"),
        "openglyphs:sample",
        DatasetOptions(languages={"en": 1.0}),
        side=64,
        count=100,
    )
    assert found["pictures"] == 100
    assert found["image_to_text"]["1"] > 0.4 and found["text_to_image"]["10"] > 0.8


def test_the_command_measures_a_scorer(tmp_path, capsys):
    asked = ["evaluate", "--scorer", f"two-tower:{SHIPPED}", "--reference", "openglyphs:sample"]
    options = ["--count", "40", "--set", 'languages={"en":1}', "--out", str(tmp_path)]
    assert main([*asked, *options]) == 0
    assert "finds among 40 pictures, openglyphs:sample: its caption" in capsys.readouterr().out
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["pictures"] == 40 and set(document["text_to_image"]) == {"1", "10"}
    assert main(["evaluate", "--scorer", "two-tower:openglyphs", "--reference", "x"]) == 2
    assert f"nor a shipped scorer ({SHIPPED})" in capsys.readouterr().err


def test_half_of_the_bytes_and_the_same_scorer(tmp_path):
    whole = TwoTower.from_directory(shipped_scorers()[SHIPPED])
    whole.save(tmp_path / "whole", "a card")
    whole.save(tmp_path / "half", "a card", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = TwoTower.from_directory(tmp_path / "half")
    assert again.provenance == whole.provenance and again.fingerprint == whole.fingerprint
