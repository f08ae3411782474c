"""Prompts to pictures: noise streams, batching, truncation, model directories."""

import json
import warnings

import pytest
import torch

import impasto
from impasto.aurora.generator import Generator
from impasto.aurora.pipeline import AuroraPipeline
from impasto.aurora.presets import PRESETS
from impasto.config import ConfigError, override
from impasto.runtime.model_directory import ModelDirectoryError, halved
from impasto.runtime.streams import random_stream
from tests.conftest import relative_difference

PROMPTS = ["a red circle", "two blue squares on a green field"]


@pytest.fixture(scope="module")
def pipe():
    """Trained as far as the pipeline knows, with a mean w and nothing at zero."""
    torch.manual_seed(3)
    config = PRESETS["aurora-debug"].build()
    generator = Generator(config.generator)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        generator.w_avg.normal_()
    return AuroraPipeline(generator, config, name="debug")


def test_call_gives_pictures(pipe):
    pictures = pipe(PROMPTS, num_images=2, seed=7)
    assert [p.size for p in pictures] == [(16, 16)] * 4
    assert len(pipe("a red circle")) == 1


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(pipe):
    many = pipe.generate(PROMPTS, num_images=3, seed=7, batch_size=4)
    assert many.seeds == [7, 8, 9, 7, 8, 9] and many.prompts[3] == PROMPTS[1]
    alone = pipe.generate(PROMPTS[1], seed=9)
    assert relative_difference(many.images[5:], alone.images) < 1e-4
    assert relative_difference(many.images[4:5], alone.images) > 1e-2
    again = pipe.generate(PROMPTS, num_images=3, seed=7, batch_size=4)
    assert torch.equal(again.images, many.images)
    assert many.routing[0].expert_index.shape == (6, 8, 8)
    assert set(many.pyramid) == {4, 8, 16}


def test_prompts_may_have_seeds_of_their_own(pipe):
    own = pipe.generate(PROMPTS, num_images=2, seed=[3, 40])
    assert own.seeds == [3, 4, 40, 41]
    assert relative_difference(own.images[3:], pipe.generate(PROMPTS[1], seed=41).images) < 1e-4
    with pytest.raises(ValueError, match="3 seeds for 2 prompts"):
        pipe.generate(PROMPTS, seed=[1, 2, 3])


def test_truncation_towards_the_average_and_towards_the_prompt(pipe):
    means = [pipe.generate(PROMPTS, seed=s, truncation=0.0).images for s in (1, 2)]
    assert torch.equal(means[0], means[1])  # only w_avg is left, whatever the noise
    free, half = pipe.generate(PROMPTS, seed=1), pipe.generate(PROMPTS, seed=1, truncation=0.5)
    assert relative_difference(half.images, free.images) > 1e-3
    assert torch.equal(pipe.generate(PROMPTS, seed=1, truncation=1.0).images, free.images)


def test_prompt_truncation_is_the_released_scripts_double_interpolation(pipe):
    psi, generator = 0.3, pipe.generator
    features = pipe.encoder.encode([PROMPTS[0]])
    with torch.no_grad():
        global_text, local, mask = generator.encode_text(features.tokens, features.eot_index, features.mask)
        wp = generator.mapping(pipe.noise([5]), global_text)
        z = torch.randn(16, generator.config.z_dim, generator=random_stream("prompt mean"))
        mean = generator.mapping(z, global_text.expand(16, -1)).mean(0, keepdim=True)
        wp = (1 - psi) * mean + psi * ((1 - psi) * generator.w_avg + psi * wp)
        expected, *_ = generator.synthesize(wp, local, mask)
    actual = pipe.generate(PROMPTS[0], seed=5, truncation=psi, truncation_mode="prompt")
    assert relative_difference(actual.images, expected) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "at least 1"),
        ({"truncation": 1.5}, "between -1 and 1"),
        ({"truncation_mode": "both"}, "'average' or 'prompt'"),
    ],
)
def test_bad_requests_are_named(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe.generate("a cat", **options)
    with pytest.raises(ValueError, match="no prompt"):
        pipe.generate([])


def test_bfloat16_keeps_buffers_and_gives_finite_pictures(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "m")
    low = AuroraPipeline.from_pretrained(tmp_path / "m").to("cpu", torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in low.generator.parameters())
    assert all(b.dtype == torch.float32 for b in low.generator.buffers())
    a, b = low.generate(PROMPTS).images, pipe.generate(PROMPTS).images
    assert float((a - b).abs().mean() / b.abs().mean()) < 0.1


def test_saved_models_load_and_draw_the_same(tmp_path, pipe):
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    pipe.save_pretrained(folder)  # replacing a model is allowed
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert list(tmp_path.iterdir()) == [folder]
    again = impasto.load(folder)
    assert again.trained and again.name == "model"
    assert torch.equal(again.generate(PROMPTS).images, pipe.generate(PROMPTS).images)


def test_a_model_saved_in_half_precision_computes_in_the_whole(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = impasto.load(tmp_path / "half")
    assert all(tensor.dtype != torch.float16 for tensor in again.generator.state_dict().values())
    a, b = again.generate(PROMPTS).images, pipe.generate(PROMPTS).images
    assert not torch.equal(a, b) and float((a - b).abs().max() / b.abs().max()) < 0.02
    with pytest.raises(OverflowError, match="'w' has values beyond fp16"):
        halved({"w": torch.full((2, 2), 1e6)})


def test_a_model_remembers_how_it_came_to_be(tmp_path, pipe):
    told = AuroraPipeline(pipe.generator, pipe.config, provenance={"images_seen": 12, "data": {"scenes": {}}})
    told.save_pretrained(tmp_path / "model")
    assert impasto.load(tmp_path / "model").provenance == told.provenance
    assert pipe.provenance == {}


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path, pipe):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelDirectoryError, match="not a model directory"):
        pipe.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def damaged(folder, how):
    config = json.loads((folder / "config.json").read_text())
    if how == "cut":
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    elif how == "key":
        config["generator"]["moe"]["exprts"] = 2
    elif how == "shape":
        config["generator"]["w_dim"] = 16
    elif how == "family":
        config["family"] = "aurra"
    elif how == "format":
        config["format"] = 99
    (folder / "config.json").write_text("{" if how == "json" else json.dumps(config))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "cannot be read"),
        ("key", "unknown configuration key 'exprts'"),
        ("shape", "has shape"),
        ("family", "did you mean 'aurora'"),
        ("format", "format 1"),
        ("json", "is not JSON"),
    ],
)
def test_damaged_models_are_refused_in_one_line(tmp_path, pipe, how, message):
    pipe.save_pretrained(tmp_path / "m")
    damaged(tmp_path / "m", how)
    with pytest.raises(ValueError, match=message) as error:
        impasto.load(tmp_path / "m")
    assert "\n" not in str(error.value).strip()


def test_presets_load_untrained_and_say_so():
    pipe = impasto.load("aurora-debug", ["generator.moe.experts=1"])
    assert not pipe.trained
    with pytest.warns(UserWarning, match="untrained"):
        a = pipe.generate("a cat").images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = impasto.load("aurora-debug", ["generator.moe.experts=1"]).generate("a cat").images
    assert torch.equal(a, b)  # the same untrained network every time


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'aurora-debug'"):
        impasto.load("aurora-debgu")
    with pytest.raises(ConfigError, match="could not be fetched"):
        impasto.load("nobody/nothing")  # tests run offline


def test_settings_are_for_presets(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "m")
    with pytest.raises(ConfigError, match="settings change presets only"):
        impasto.load(tmp_path / "m", ["generator.moe.experts=1"])
    with pytest.raises(ConfigError):
        override(PRESETS["aurora-debug"].build(), ["generator.nonsense=1"])
