"""The pipeline: streams of random numbers, directories, languages."""

import pytest
import torch

import impasto
from impasto.config import ConfigError
from impasto.mars.directories import MarsPipelineConfig
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.runs import debug_stage1, debug_tokenizer
from impasto.mars.sequence import visual_positions
from impasto.pictures import from_images
from impasto.runtime.model_directory import ModelDirectoryError
from tests.mars.models import scatter

CONFIG = MarsPipelineConfig(model=debug_stage1().model, tokenizer=debug_tokenizer().model, guidance=2.0)


@pytest.fixture(scope="module")
def pipe() -> MarsPipeline:
    made = MarsPipeline.untrained(CONFIG, name="toy")
    scatter(made.parts.model, 0.3, 1)
    made.trained = True
    return made


def test_a_picture_depends_on_its_seed_alone(pipe):
    many = pipe.generate(["a red circle", "一个红色的圆"], 3, seed=5, batch_size=4)
    assert many.prompts == ["a red circle"] * 3 + ["一个红色的圆"] * 3
    assert many.seeds == [5, 6, 7, 5, 6, 7]
    assert many.images.shape == (6, 3, 16, 16) and many.codes.shape == (6, 4, 4)
    alone = pipe.generate("a red circle", seed=6, batch_size=1)
    assert torch.equal(alone.codes[0], many.codes[1])
    apart = pipe.generate(["a red circle", "一个红色的圆"], seed=[7, 5])
    assert torch.equal(apart.codes, many.codes[[2, 3]])
    assert pipe("a red circle", num_images=2, seed=5)[0].tobytes() == many.pictures()[0].tobytes()
    other = pipe.generate("a red circle", seed=6, guidance=1.0, temperature=0.5, top_k=4, top_p=0.9)
    assert not torch.equal(other.codes, alone.codes)


def test_saved_and_loaded_it_is_the_same(pipe, tmp_path):
    pipe.provenance = {"data": {"scenes": {"max_objects": 1}}}
    pipe.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    loaded = impasto.load(tmp_path / "model")
    assert isinstance(loaded, MarsPipeline) and loaded.config == CONFIG and loaded.name == "model"
    assert loaded.provenance == pipe.provenance and loaded.trained
    one, two = (p.generate("two blue squares", 2).images for p in (pipe, loaded))
    assert torch.equal(one, two)
    pipe.save_pretrained(tmp_path / "model")  # over itself
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.txt").write_text("keep")
    with pytest.raises(ModelDirectoryError, match="not a model directory"):
        pipe.save_pretrained(tmp_path / "notes")


def test_a_likelihood_is_that_of_every_code_in_turn(pipe):
    pictures, prompts = pipe("a red circle", num_images=2), ["a red circle", "一个红色的圆"]
    model, tokens = pipe.parts.model, pipe.config.model.tokens
    expected = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        codes = pipe.parts.tokenizer.encode(from_images([picture])).flatten()
        text = pipe.prompts.encode(prompt)
        row = torch.tensor([[*text, tokens.begin(0), *(codes + tokens.text).tolist()]])
        with torch.no_grad():
            hidden = model(row, visual_positions(tokens, row))[0, len(text) : -1]
            logits = model.code_logits(hidden).log_softmax(-1)
        expected.append(float(logits.gather(1, codes[:, None]).sum()))
    assert pipe.likelihoods(pictures, prompts) == pytest.approx(expected, rel=1e-4)


def test_captions_in_a_language(pipe):
    pictures = pipe("a red circle", num_images=2)
    english, chinese = (pipe.caption(pictures, language, max_tokens=6) for language in ("en", "zh"))
    assert len(english) == len(chinese) == 2
    assert all(text[0].isascii() for text in english)
    assert not any(text[0].isascii() for text in chinese)
    letters = {language: pipe.prompts.beginnings(language) for language in ("en", "zh")}
    assert not (letters["en"] & letters["zh"]).any()
    assert letters["en"][pipe.tokeniser.token_to_id("a")] and not letters["zh"][0] and not letters["en"][0]
    tensors = pipe.generate("a red circle", 2).images
    assert len(pipe.caption(tensors, max_tokens=4)) == 2
    assert len(pipe.caption(pictures[0].resize((50, 50)), max_tokens=4)) == 1
    with pytest.raises(ValueError, match="'en' or 'zh'"):
        pipe.caption(pictures, "fr")


def test_untrained_models_say_so():
    one, two = (MarsPipeline.untrained(CONFIG, name="toy") for _ in range(2))
    with pytest.warns(UserWarning, match="untrained"):
        first = one.generate("a red circle").images
    with pytest.warns(UserWarning, match="untrained"):
        assert torch.equal(first, two.generate("a red circle").images)
    assert not one.trained


def test_in_half_precision_it_still_draws(pipe):
    half = MarsPipeline.untrained(CONFIG, name="toy").to("cpu", torch.bfloat16)
    half.trained = True
    assert half.generate("a red circle").images.isfinite().all()
    assert len(half.caption(half("a red circle"), max_tokens=4)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, "no prompt"),
        ({"prompt": "a", "num_images": 0}, "at least 1"),
        ({"prompt": ["a", "b"], "seed": [1]}, "1 seeds for 2 prompts"),
        ({"prompt": "a", "top_p": 0.0}, "top_p"),
    ],
)
def test_what_cannot_be_is_said(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.generate(**arguments)


def test_parts_have_to_fit():
    with pytest.raises(ConfigError, match="codes"):
        MarsPipelineConfig(model=debug_stage1().model)
