"""Progressive growing: when stages end, that nothing old changes at a switch, and that runs resume in it."""

import json
import random
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import impasto
from impasto.aurora.generator import Generator
from impasto.aurora.growing import GrowingConfig, Growth, at_side, down_to, measurement_due, why_grow
from impasto.aurora.growing_measure import Grower, check_disjoint
from impasto.aurora.launch import LaunchOptions, find_run, launch
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError
from impasto.data.scene_source import SceneSource
from impasto.metrics.extractors import load_extractor
from impasto.nn.resample import upsample_fir
from impasto.runtime.checkpoint import latest_checkpoint, load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.log import read_metrics
from tests.aurora.test_training import WordEncoder, same_checkpoint
from tests.runtime.start_ranks import run_ranks

REFERENCE = [
    "growing.schedule=reference", "growing.check_every=8", "growing.reference_images=8",
    "growing.real_images=16", "growing.patience=0", "growing.max_images=16", "growing.ratio=1e-6",
]  # fmt: skip
SHORT = ["training.sample_every=16", "training.checkpoint_every=16", "training.log_every=8"]


@pytest.fixture(autouse=True)
def fast(monkeypatch, tmp_path):
    monkeypatch.setattr("impasto.aurora.launch.load_encoder", lambda name: WordEncoder())
    monkeypatch.setattr("impasto.aurora.launch.EVALUATION_PROMPTS", 4)
    monkeypatch.setattr("impasto.aurora.launch.load_extractor", lambda name, device: MeanColours())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class MeanColours:
    """An extractor without weights: the mean and spread of each channel."""

    name, distance, fingerprint = "colours", "FD-colours", "0" * 64

    def features(self, images: Tensor) -> Tensor:
        return torch.cat((images.mean((2, 3)), images.std((2, 3))), dim=1)


def config(**options) -> GrowingConfig:
    return GrowingConfig(**{"schedule": "reference", "check_every": 10, "patience": 3, **options})


def test_a_stage_ends_for_the_first_reason_there_is():
    settings = config(ratio=1.5, min_images=20, max_images=100)
    growth = Growth(4, distances=[5.0, 2.9], reference=2.0)
    assert why_grow(growth, 10, settings) is None  # too early
    assert why_grow(growth, 20, settings) == "surpassed reference: 2.9 <= 1.5 x 2 = 3"
    assert why_grow(replace(growth, distances=[2.9, 3.1]), 20, settings) is None  # the last one decides
    assert "maximum of 100" in why_grow(replace(growth, distances=[9.0]), 100, settings)
    falling = replace(growth, distances=[9.0, 8.0, 7.5, 7.4, 7.3])
    assert why_grow(falling, 50, settings) is None
    stuck = replace(growth, distances=[9.0, 7.0, 8.0, 7.2, 7.1])
    assert why_grow(stuck, 50, settings) == "plateau: none of 3 measurements below 7"
    assert why_grow(stuck, 50, replace(settings, patience=0)) is None
    assert "40 images" in why_grow(growth, 40, config(schedule="images", stage_images=40))
    assert why_grow(growth, 30, config(schedule="images", stage_images=40)) is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_curve_no_stage_is_skipped_and_none_lasts_for_ever(seed):
    drawn = random.Random(seed)
    settings = config(
        ratio=drawn.choice([0.1, 1.0, 1.5]),
        min_images=drawn.choice([0, 30]),
        max_images=drawn.choice([35, 60, 400]),
        patience=drawn.choice([0, 2, 8]),
    )
    growth, images, sides, last = Growth(4), 0, [4], 0
    while growth.side < 64:
        images += 5
        if measurement_due(growth, images, settings):
            growth.reference = 1.0
            growth.distances.append(drawn.choice([drawn.expovariate(0.3), float("inf"), 1e9]))
        reason = why_grow(growth, images, settings)
        assert images - last <= settings.max_images
        if reason is not None:
            assert images - last >= settings.min_images
            growth.enter(2 * growth.side, images, reason)
            sides.append(growth.side)
            last = images
    assert sides == [4, 8, 16, 32, 64]
    assert [decision["to"] for decision in growth.decisions] == sides[1:]
    assert Growth.from_state(json.loads(json.dumps(growth.state_dict()))) == growth


def test_a_switch_changes_nothing_that_was_there():
    run = find_run("aurora-debug", ["growing.schedule=images"])
    state = TrainingState.fresh(run, torch.device("cpu"))
    generator, discriminator = state.generator, state.discriminator
    width = run.model.generator.text_head.input_dim
    tokens, eot = torch.randn(6, 7, width), torch.tensor([6, 4, 3, 6, 5, 2])
    z = torch.randn(6, run.model.generator.z_dim)
    with torch.no_grad():
        for side in (4, 8):
            before = generator(z, tokens, eot)
            judged = discriminator(before.pyramid, tokens, eot)
            assert max(before.pyramid) == side == state.side
            state.grow("test")
            after = generator(z, tokens, eot)
            assert list(after.pyramid) == [*before.pyramid, 2 * side]
            for level, picture in before.pyramid.items():
                assert torch.equal(after.pyramid[level], picture)
            assert torch.equal(after.image, upsample_fir(before.image))
            again = discriminator(after.pyramid, tokens, eot)
            assert set(again) > set(judged)
            assert all(torch.equal(again[pair], logit) for pair, logit in judged.items())
    assert state.grown
    assert state.generator.config == run.model.generator


def test_the_model_of_a_stage_is_a_model_of_its_side():
    model = find_run("aurora-debug", []).model
    assert at_side(model, 16) == model
    small = at_side(model, 8)
    assert small.resolution == 8 and small.generator.active_resolutions == (4, 8)
    z, tokens = torch.randn(1, model.generator.z_dim), torch.randn(1, 3, model.generator.text_head.input_dim)
    assert Generator(small.generator)(z, tokens, torch.tensor([2])).image.shape[-1] == 8
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(down_to(images, 4), torch.nn.functional.adaptive_avg_pool2d(images, 4))


def test_a_run_grows_by_reference_and_resumes_in_every_stage(tmp_path):
    def train(name: str, images: int) -> None:
        settings = [*SHORT, *REFERENCE, f"training.images={images}"]
        assert "finished" in launch(
            "aurora-debug", find_run("aurora-debug", settings), LaunchOptions(out=tmp_path / name)
        )

    train("whole", 48)
    for images in (16, 32, 48):
        train("parts", images)
        side = {16: 8, 32: 16, 48: 16}[images]
        model = impasto.load(tmp_path / "parts" / "model")
        assert model.config.resolution == side
        model._encoder = WordEncoder()
        assert model("red circle")[0].size == (side, side)
    whole, parts = (latest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    same_checkpoint(whole, parts)
    metrics = [
        read_metrics(tmp_path / name / "metrics.jsonl", with_time=False) for name in ("whole", "parts")
    ]
    assert metrics[0] == metrics[1]
    measured = [(row["images"], row["growing/side"]) for row in metrics[0] if "growing/side" in row]
    assert measured == [(8, 4.0), (16, 4.0), (24, 8.0), (32, 8.0)]
    growth = load_checkpoint(whole)[1]["growth"]
    assert [(d["from"], d["to"], d["images"]) for d in growth["decisions"]] == [(4, 8, 16), (8, 16, 32)]
    assert all("maximum of 16 images" in decision["reason"] for decision in growth["decisions"])
    assert all(decision["reference"] > 0 for decision in growth["decisions"])


def test_levels_that_wait_are_not_trained_and_begin_with_fresh_moments(tmp_path):
    settings = [*SHORT, "growing.schedule=images", "growing.stage_images=16", "training.images=16"]
    settings = [s for s in settings if "sample" not in s] + ["training.sample_every=16"]
    run = find_run("aurora-debug", settings)
    start = TrainingState.fresh(run, torch.device("cpu")).generator.state_dict()
    launch("aurora-debug", run, LaunchOptions(out=tmp_path / "run"))
    tensors = load_checkpoint(latest_checkpoint(tmp_path / "run"))[0]
    waiting = [name for name in start if name.startswith(("levels.1.", "levels.2."))]
    assert waiting and all(torch.equal(tensors["generator"][name], start[name]) for name in waiting)
    assert not [name for name in tensors["generator_optimizer"] if "levels.1." in name]
    assert [name for name in tensors["generator_optimizer"] if "levels.0." in name]


class Counted(SceneSource):
    read = 0

    def batch(self, positions):
        Counted.read += len(positions)
        return super().batch(positions)


def test_real_pictures_are_measured_once_for_all_runs_with_the_same_data(tmp_path):
    run = find_run("aurora-debug", REFERENCE)
    source = Counted(16, run.data, seed=0)

    def grower(**data) -> Grower:
        return Grower(source, MeanColours(), None, None, ranks=Ranks(), data=data, cache=tmp_path / "growing")  # type: ignore[arg-type]

    stats, reference = grower(seed=0).real(8, run.growing)
    assert Counted.read == stats.count == 16 and reference > 0
    again, same = grower(seed=0).real(8, run.growing)
    assert Counted.read == 16 and same == reference
    assert torch.allclose(again.covariance, stats.covariance) and torch.equal(again.mean, stats.mean)
    grower(seed=1).real(8, run.growing)
    grower(seed=0).real(4, run.growing)
    grower(seed=0).real(8, replace(run.growing, reference_images=7))
    assert Counted.read == 4 * 16
    for file in (tmp_path / "growing").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="made again"):
        assert grower(seed=0).real(8, run.growing)[1] == reference


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["growing.schedule=images", "growing.first=3"], "one of the levels"),
        (["growing.schedule=images", "growing.stage_images=12"], "multiple of batch"),
        (["growing.schedule=reference", "growing.check_every=12"], "multiple of batch"),
        (["growing.schedule=images", "training.reconstruction_weight=1"], "whole pictures"),
        (["growing.reference_images=30000"], "at least twice"),
        (["growing.ratio=0"], "above 0"),
        (["growing.min_images=64", "growing.max_images=8"], "is above"),
        (["growing.schedule=images", "model.generator.trained_resolutions=[4,8]"], "chooses the levels"),
        (["training.micro_batch=2", "discriminator.deviation_group=4"], "multiple of"),
        (["growing.schedul=images"], "schedule"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, told):
    with pytest.raises(ConfigError, match=told) as error:
        find_run("aurora-debug", settings)
    assert "\n" not in str(error.value)


def test_too_few_pictures_for_two_disjoint_sets_are_refused():
    with pytest.raises(ConfigError, match="of 30,000 pictures"):
        check_disjoint(config(), 30_000)
    check_disjoint(config(), 60_000)
    check_disjoint(config(schedule="images"), 10)


@pytest.mark.long
def test_two_processes_grow_at_the_same_image(tmp_path):
    """By the command line, with the real extractor: both ranks measure and decide alike, or they hang."""
    out = tmp_path / "run"
    settings = [*SHORT, *REFERENCE, "training.images=32"]
    command = [
        sys.executable,
        "-m",
        "impasto.cli",
        "train",
        "aurora-debug",
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    command += [part for setting in settings for part in ("--set", setting)]
    run_ranks(command, 2)
    growth = load_checkpoint(latest_checkpoint(out))[1]["growth"]
    assert growth["side"] == 16 and [d["images"] for d in growth["decisions"]] == [16, 32]
    measured = [row for row in read_metrics(out / "metrics.jsonl") if "growing/distance" in row]
    assert [row["images"] for row in measured] == [8, 16, 24, 32]
    alone = TrainingState.fresh(find_run("aurora-debug", settings), torch.device("cpu")).run
    source = SceneSource(16, alone.data, seed=alone.training.seed)
    grower = Grower(source, load_extractor("efficientnet-lite0"), None, None, ranks=Ranks(), data={},
                    cache=tmp_path / "other")  # type: ignore[arg-type]  # fmt: skip
    assert measured[0]["growing/reference"] == pytest.approx(grower.real(4, alone.growing)[1], rel=1e-5)
