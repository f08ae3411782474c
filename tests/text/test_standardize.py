"""Standardised sentences: mean zero and spread one, padding untouched, the file made by its own command."""

import pytest
import torch
from safetensors.torch import load_file

from impasto.text import TextFeatures, load_encoder
from impasto.text.sentence import append_mean
from impasto.text.standardize import SMALLEST, load_statistics, standardize
from impasto.text.statistics import main, measure


def features(count: int = 200, width: int = 5) -> TextFeatures:
    torch.manual_seed(0)
    lengths = torch.randint(2, 7, (count,))
    attention = (torch.arange(6) < lengths[:, None]).long()
    return append_mean(torch.randn(count, 6, width) * 3 + 7, attention)


def test_texts_and_pieces_are_standardised_by_what_was_measured() -> None:
    found = features()
    statistics = measure([found[:150], found[150:]])
    told = standardize(found, statistics)
    assert told.pooled.mean(0).abs().max() < 1e-5
    assert (told.pooled.std(0, correction=0) - 1).abs().max() < 1e-4
    rows = torch.arange(len(told))
    pieces = told.mask.clone()
    pieces[rows, told.eot_index] = False
    assert told.tokens[pieces].mean(0).abs().max() < 1e-5
    assert torch.equal(told.tokens[rows, told.eot_index], told.pooled)
    assert not told.tokens[~told.mask].any() and torch.equal(told.mask, found.mask)


def test_a_dimension_that_does_not_move_stays_finite() -> None:
    found = features()
    found.pooled[:, 0] = 2.0
    statistics = measure([found])
    assert statistics["text_deviation"][0] < SMALLEST
    assert standardize(found, statistics).pooled.isfinite().all()
    with pytest.raises(ValueError, match="two texts"):
        measure([found[:1]])


def test_the_encoder_by_name_tells_captions_apart() -> None:
    plain, standard = load_encoder("sentence"), load_encoder("sentence:standardized")
    assert plain.fingerprint != standard.fingerprint
    texts = ["a red apple, noto style", "a ghost, noto style", "a rocket, noto style"]
    before, after = (encoder.encode(texts).pooled for encoder in (plain, standard))
    assert torch.allclose(standardize(plain.encode(texts), load_statistics()).pooled, after)

    def alike(rows: torch.Tensor) -> float:
        rows = torch.nn.functional.normalize(rows, dim=1)
        return float((rows @ rows.T)[~torch.eye(3, dtype=torch.bool)].mean())

    assert alike(after) < alike(before) - 0.2


def test_statistics_are_made_by_a_command(tmp_path, capsys) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a red apple\na ghost\na rocket\na ghost\n", encoding="utf-8")
    assert main([str(captions), "--out", str(tmp_path / "out.safetensors")]) == 0
    assert "3 captions" in capsys.readouterr().out
    made = load_file(tmp_path / "out.safetensors")
    assert made.keys() == load_statistics().keys() and made["text_mean"].shape == (384,)
