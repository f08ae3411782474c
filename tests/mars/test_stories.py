"""Fine-tuning on stories, writing them, and asking a model for them from the command line."""

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import impasto
from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.mars.codes import prepare_codes, read_codes
from impasto.mars.directories import MarsPipelineConfig, load_language, load_tokenizer
from impasto.mars.launch import find_run
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.routing import LANGUAGE_ONLY
from impasto.mars.runs import debug_stage1, debug_tokenizer
from impasto.mars.trainer import step
from impasto.mars.training_config import StageRun
from impasto.mars.training_state import StageState
from impasto.pictures import read_settings
from impasto.runtime.checkpoint import load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline
from impasto.runtime.log import read_metrics

PRESET = "mars-debug/stories"


def train(*arguments: str | Path) -> int:
    return main(["train", PRESET, *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def few_words():
    """Models that know nothing would write on to the limit."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("mars.story_validation", "evaluation.stories"):
            patch.setattr(f"impasto.{place}.WORDS", 8)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model that knows nothing, to go on from; at every word it may open a picture."""
    config = MarsPipelineConfig(model=debug_stage1().model, tokenizer=debug_tokenizer().model)
    pipe = MarsPipeline.untrained(config, name="start")
    model = pipe.parts.model
    with torch.no_grad():
        hidden = model(torch.tensor([pipe.prompts.encode("a red circle on white")]), LANGUAGE_ONLY)[0]
        row = model.tokens.begin(0) - model.tokens.text
        model.visual.output_rows[row] = 0.5 * hidden.mean(0)
    place = tmp_path_factory.mktemp("start") / "model"
    pipe.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def run(start) -> Path:
    out = start.parent / "run"
    assert train("--out", out, "--init-from", start) == 0
    return out


def test_a_run_leaves_a_whole_folder(run):
    for part in ("config.json", "metrics.jsonl", "checkpoints", "report.html", "model/README.md"):
        assert (run / part).exists(), part
    assert list((run / "samples").glob("*stories.png"))
    rows = read_metrics(run / "metrics.jsonl")
    names = {name for row in rows for name in row}
    assert {"loss/text_to_image", "loss/sentences", "validation_heldout/story_image_token_nll"} <= names
    assert {"validation/story_text_token_nll", "score/stories_ended", "score/overall"} <= names
    assert rows[-1]["images"] == 32 and rows[-1]["tokens"] == 512
    model = impasto.load(run / "model")
    assert model.provenance["pictures_per_story"] == 2
    assert "began_from" in model.provenance


def test_a_run_resumes_bit_for_bit(run, start, tmp_path):
    class After(Deadline):
        """A time limit that passes at the third step, off every interval."""

        steps = 0

        @property
        def passed(self) -> bool:
            After.steps += 1
            return After.steps == 3

    arguments = ["--out", tmp_path / "run", "--init-from", start]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.mars.launch.Deadline", After)
        assert train(*arguments) == 0
    assert (tmp_path / "run/checkpoints/000000000024").is_dir()
    assert train("--out", tmp_path / "run") == 0  # its parts are inside its own model
    for name in ("visual", "visual_optimizer"):
        whole, resumed = (
            load_checkpoint(one / "checkpoints/000000000032")[0][name] for one in (run, tmp_path / "run")
        )
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = [read_metrics(one / "metrics.jsonl", with_time=False) for one in (run, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_passes_in_parts_have_the_same_gradients(run, start):
    gradients = []
    for micro in (8, 4):
        asked = find_run(PRESET, [f"training.micro_batch={micro}"])
        assert isinstance(asked, StageRun)
        tokenizer, language = load_tokenizer(start), load_language(start)
        state = StageState.fresh(asked, torch.device("cpu"), language, tokenizer)
        pictures = read_codes(run, asked, tokenizer)
        state.model.double()
        state.optimizer = torch.optim.SGD([p for p in state.model.parameters() if p.requires_grad], lr=0.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state.optimizer, "zero_grad", lambda **_: None)
            step(state, pictures, Ranks())
        gradients.append({n: p.grad for n, p in state.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-9, atol=1e-12), name
    begin = gradients[0]["visual.head.weight"][state.model.tokens.begin(0) - state.model.tokens.text]
    assert begin.abs().max() > 0


def test_stories_stay_whole_in_their_order(run, start, tmp_path):
    asked = find_run(PRESET, [])
    assert isinstance(asked, StageRun)
    tokenizer = load_tokenizer(start)
    prepare_codes(run, asked, tokenizer)
    store = read_codes(run, asked, tokenizer)
    count = len(store) // 2
    seen = [store.story(place, 2) for place in range(count)]
    assert sorted(codes.tolist() for codes, _ in seen) == sorted(
        store.codes[2 * n : 2 * n + 2].tolist() for n in range(count)
    )
    again = [store.story(place, 2).codes for place in range(count, 2 * count)]
    assert any(not torch.equal(one.codes, two) for one, two in zip(seen, again, strict=True))
    assert all(len({text.isascii() for text in captions}) == 1 for _, captions in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "scenes:8:16"], "leave --data scenes:8:16 out"),
        (["--set", "training.image_to_text=0.2"], "image_to_text should be 0"),
        (["--set", "training.pictures_per_story=3"], "multiple of pictures_per_story=3"),
        (["--set", "training.pictures_per_story=-1"], "should not be negative"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(start, tmp_path, capsys, arguments, message):
    assert train("--out", tmp_path / "run", "--init-from", start, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_stories_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="do not fit into 64 tokens"):
        override(find_run(PRESET, []), ["model.language.context=64", "training.pictures_per_story=4"])


def test_a_shipped_model_is_found_by_its_name(tmp_path, capsys):
    """As far as its parts are looked at: they do not fit the preset."""
    assert train("--out", tmp_path / "run", "--init-from", "mars-scenes") == 2
    assert "language model differs" in capsys.readouterr().err


def test_documents_have_their_parts_in_order(start):
    pipe = impasto.load(start)
    options = {"max_words": 12, "max_pictures": 2, "guidance": 2.0}
    for seed in range(4):
        told = pipe.write_document("a red circle", seed=seed, **options)
        assert told == copy.copy(told) and pipe.write("a red circle", seed=seed, **options) == told.parts
        assert isinstance(told.whole[0], str) and told.whole[0].startswith("a red circle")
        pictures = [part for part in told.whole if isinstance(part, Image.Image)]
        assert len(pictures) == sum(isinstance(part, Image.Image) for part in told.parts) <= 2
        assert all(picture.size == (16, 16) for picture in pictures)
    with pytest.raises(ValueError, match="no prompt"):
        pipe.write_document("")


def test_the_command_writes_a_page(start, tmp_path, capsys):
    arguments = [
        "write",
        "a red circle",
        "--model",
        str(start),
        "-n",
        "3",
        "--words",
        "10",
        "--pictures",
        "2",
    ]
    assert main([*arguments, "--out", str(tmp_path / "story")]) == 0
    files = {path.name for path in (tmp_path / "story").iterdir()}
    text = (tmp_path / "story/story.txt").read_text()
    page = (tmp_path / "story/story.html").read_text()
    pictures = {name for name in files if name.endswith(".png")}
    assert pictures and {"story.txt", "story.html"} | pictures == files
    assert all(f"[{name}]" in text and f"alt='{name}'" in page for name in pictures)
    assert read_settings(tmp_path / "story" / min(pictures))["model"] == "model"
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "story")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["write", "a", "--model", "aurora-debug", "--out", str(tmp_path / "other")]) == 2
    assert "only mars writes" in capsys.readouterr().err


def test_stories_are_measured(start, tmp_path, capsys):
    arguments = ["evaluate", str(start), "--protocol", "stories", "--count", "3", "--out", str(tmp_path)]
    assert main([*arguments, "--set", "max_objects=1"]) == 0
    printed = capsys.readouterr().out
    assert "| 0 of 3 |" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json", "report.md", "report.html", "seen.png", "unseen.png",
    }  # fmt: skip
    found = json.loads((tmp_path / "report.json").read_text())["sets"]["seen"]
    assert found["broken"] == [] and len(found["stories_told"]) == 3 and found["pictures"] > 0
    assert main(["evaluate", "mars-scenes", *arguments[2:]]) == 2
    assert "was it trained on stories" in capsys.readouterr().err
    assert main(["evaluate", "aurora-debug", *arguments[2:]]) == 2
    assert "writes no documents" in capsys.readouterr().err
