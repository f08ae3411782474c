"""The published size for real: a random checkpoint of 1.17 B parameters, written as the authors' file,
converted, loaded and drawn from by the command line, within 24 GiB."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impasto.pictures import read_settings

pytestmark = pytest.mark.long
LIMIT_GIB = 24

WRITE_CHECKPOINT = """
import sys, torch
from pathlib import Path
from impasto.aurora.generator import Generator
from impasto.aurora.official import write_official
from impasto.aurora.presets import PRESETS
torch.manual_seed(0)
generator = Generator(PRESETS["aurora-64-release"].build().generator)
with torch.no_grad():
    for parameter in generator.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)  # output projections and deformations start at zero
write_official(generator, Path(sys.argv[1]))
"""


def tiny_clip(folder: Path) -> Path:
    """A text tower of CLIP ViT-L/14's width with one layer, and the CLIP vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from impasto.assets import require
    from impasto.text.clip_tokeniser import BYTE_PAIR_FILE, read_byte_pair_file

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=768, num_hidden_layers=1, num_attention_heads=12,
        projection_dim=64, bos_token_id=49406, eos_token_id=49407, pad_token_id=0,
    )  # fmt: skip
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    vocabulary, merges = read_byte_pair_file(require("open_clip_torch") / BYTE_PAIR_FILE)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(" ".join(m) for m in merges), encoding="utf-8")
    return folder


def run(*command: str) -> float:
    """Run to success; peak resident memory in GiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20


def test_a_full_size_checkpoint_converts_loads_and_draws(tmp_path):
    torch.manual_seed(0)
    clip = tiny_clip(tmp_path / "clip")
    checkpoint, model, out = tmp_path / "aurora_v1.pth", tmp_path / "aurora", tmp_path / "out"
    impasto = [sys.executable, "-m", "impasto.cli"]
    peaks = {"write": run(sys.executable, "-c", WRITE_CHECKPOINT, str(checkpoint))}
    peaks["convert"] = run(*impasto, "convert", str(checkpoint), str(model), "--text-encoder", f"clip:{clip}")
    assert json.loads((model / "config.json").read_text())["generator"]["resolution"] == 64
    checkpoint.unlink()
    peaks["generate"] = run(*impasto, "generate", "a red apple", "--model", str(model), "--out", str(out))
    assert read_settings(out / "000000.png")["model"] == "aurora"
    print(f"peak memory, GiB: {peaks}")
    assert max(peaks.values()) < LIMIT_GIB
