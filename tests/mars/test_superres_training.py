"""Stage III from the command line: trained, gone on with, drawn from, refused where it should be."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import impasto
from impasto.cli import main
from impasto.config import ConfigError
from impasto.data.scene_source import SceneSource
from impasto.mars.codes import CodeStore, read_codes
from impasto.mars.directories import load_language, load_tokenizer, load_whole
from impasto.mars.launch import find_run
from impasto.mars.sampling import SamplingSettings
from impasto.mars.superres import generate_high
from impasto.mars.superres_recording import cascade_config
from impasto.mars.trainer import step
from impasto.mars.training_config import StageRun
from impasto.mars.training_cost import stage_cost
from impasto.mars.training_state import StageState
from impasto.runtime.checkpoint import load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, NonFiniteError
from impasto.runtime.log import read_metrics
from tests.data.sets import pairs, write_folder
from tests.mars.models import scatter
from tests.runtime.start_ranks import free_port

CPU = torch.device("cpu")
PROMPT = "a red circle"


def run_command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def options(*settings: str) -> list[str]:
    return [item for setting in settings for item in ("--set", setting)]


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """The parts, a base that draws 16 px and stage III, each trained for a few steps by the command."""
    home = tmp_path_factory.mktemp("mars")
    runs = {name: home / name for name in ("tokenizer", "language", "stage2", "stage3")}
    parts = options(f"tokenizer={runs['tokenizer']}", f"language={runs['language']}")
    assert run_command("train", "mars-debug/tokenizer", "--out", runs["tokenizer"]) == 0
    assert run_command("train", "mars-debug/language", "--out", runs["language"]) == 0
    assert run_command("train", "mars-debug/stage2", "--out", runs["stage2"], *parts) == 0
    assert run_command(*stage3(runs, runs["stage3"])) == 0
    return runs


def stage3(runs: dict[str, Path], out: Path, *more: object) -> list[object]:
    return ["train", "mars-debug/stage3", "--out", out, "--init-from", runs["stage2"], *more]


def fresh(runs: dict[str, Path], *settings: str) -> tuple[StageState, CodeStore]:
    run = find_run("mars-debug/stage3", [f"tokenizer={runs['tokenizer']}", *settings])
    assert isinstance(run, StageRun)
    tokenizer, language = load_tokenizer(runs["tokenizer"]), load_language(runs["language"])
    base = load_whole(runs["stage2"] / "model")[0].model
    state = StageState.fresh(run, CPU, language, tokenizer, base, base=base)
    return state, read_codes(runs["stage3"], run, tokenizer)


def test_it_leaves_what_other_stages_leave(stages):
    run = stages["stage3"]
    for part in ("config.json", "checkpoints", "report.html", "model/README.md", "began-from.json"):
        assert (run / part).exists(), part
    sheets = sorted((run / "samples").glob("*sheet.png"))
    assert len(sheets) == 3 and Image.open(sheets[0]).height > 6 * 128  # low, drawn, real, of two splits
    rows = read_metrics(run / "metrics.jsonl")
    names = {name for row in rows for name in row}
    assert {"loss/text_to_image", "score/overall", "score_heldout/overall", "validation/error"} <= names
    assert rows[-1]["tokens"] == 2048 and rows[-1]["images"] == 32
    likelihoods = [row["validation/image_token_nll"] for row in rows if "validation/image_token_nll" in row]
    assert likelihoods[-1] < likelihoods[0]
    told = json.loads((run / "model/config.json").read_text())["provenance"]
    assert told["preset"] == "mars-debug/stage3" and told["began_from"]["preset"] == "mars-debug/stage2"


def test_the_folder_holds_its_base_and_one_language_expert(stages):
    base, whole = (load_file(stages[name] / "model/model.safetensors") for name in ("stage2", "stage3"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in base.items())
    added = {name for name in whole if name not in base}
    assert added and all(name.startswith("enlarging.") for name in added)
    assert not any("language" in name.split(".") for name in added)
    parts, config = load_whole(stages["stage3"] / "model")
    assert config.sizes == (16, 32)
    assert parts.enlarging.language is parts.model.language


def test_how_the_base_began_does_not_matter(stages):
    """A base whose rows started otherwise is a base; one of another build is not."""
    config = load_whole(stages["stage2"] / "model")[1]
    run = find_run("mars-debug/stage3", ())
    assert isinstance(run, StageRun)

    def enlarge_for(**setting: object) -> None:
        model = replace(config.model, visual=replace(config.model.visual, **setting))
        assert cascade_config(run, replace(config, model=model)).sizes == (16, 32)

    enlarge_for(initial_codebook=1.0)
    with pytest.raises(ConfigError, match=r"stage III differs from its base in model.visual \(norms"):
        enlarge_for(norms="per_modality")


def test_triplets_are_made_by_shrinking(stages):
    _, store = fresh(stages)
    run, tokenizer = find_run("mars-debug/stage3", ()), load_tokenizer(stages["tokenizer"]).tokenizer
    images, _ = SceneSource(32, run.data, seed=run.training.seed).batch(range(len(store)))
    assert torch.equal(store.codes.long(), tokenizer.encode(images).flatten(1))
    assert torch.equal(store.low.long(), tokenizer.encode(F.avg_pool2d(images, 2)).flatten(1))
    high, low = store.batch([5, 3]).codes, store.low_codes([5, 3])
    assert [h.tolist() for h in high] == [store.codes[store._row(n)].tolist() for n in (5, 3)]
    assert [one.tolist() for one in low] == [store.low[store._row(n)].tolist() for n in (5, 3)]


def test_it_resumes_bit_for_bit(stages, tmp_path):
    """Stopped off every interval, gone on with by the same command. Without --init-from it goes on too: the
    base is inside the run's own model."""

    class After(Deadline):
        steps = 0

        @property
        def passed(self) -> bool:
            After.steps += 1
            return After.steps == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.mars.launch.Deadline", After)
        assert run_command(*stage3(stages, tmp_path / "run")) == 0
    assert (tmp_path / "run/checkpoints/000000000024").is_dir()
    assert run_command(*stage3(stages, tmp_path / "run")) == 0
    for name in ("visual", "visual_optimizer"):
        whole, resumed = (
            load_checkpoint(run / "checkpoints/000000000032")[0][name]
            for run in (stages["stage3"], tmp_path / "run")
        )
        assert whole.keys() == resumed.keys() and any("blocks." in key for key in whole)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = [
        read_metrics(run / "metrics.jsonl", with_time=False) for run in (stages["stage3"], tmp_path / "run")
    ]
    assert lines[0] == lines[1]
    assert run_command("train", "mars-debug/stage3", "--out", tmp_path / "run") == 0


def test_another_base_is_refused_when_it_goes_on(stages, tmp_path, capsys):
    other = impasto.load(stages["stage2"] / "model")
    scatter(other.parts.model.visual, 0.1, 1)
    other.save_pretrained(tmp_path / "other")
    shutil.copytree(stages["stage3"], tmp_path / "run")
    assert run_command(*stage3({**stages, "stage2": tmp_path / "other"}, tmp_path / "run")) == 2
    assert "another base (--init-from)" in capsys.readouterr().err


def test_the_cascade_is_the_base_and_then_stage_three(stages):
    pipe = impasto.load(stages["stage3"] / "model")
    low = pipe.generate(PROMPT, 3, seed=5)
    assert low.pictures()[0].size == (16, 16)
    assert torch.equal(low.codes, impasto.load(stages["stage2"] / "model").generate(PROMPT, 3, seed=5).codes)
    high = pipe.generate(PROMPT, 3, seed=5, size=32)
    assert high.images.shape == (3, 3, 32, 32)
    settings = SamplingSettings()
    captions = [pipe.prompts.encode(PROMPT)] * 3
    drawn = generate_high(
        pipe.parts.enlarging, low.codes.flatten(1), captions, [5, 6, 7], guidance=1.0, settings=settings
    )
    assert torch.equal(high.codes.flatten(1), drawn)
    assert torch.equal(pipe.generate(PROMPT, 1, seed=6, size=32, batch_size=1).codes[0], high.codes[1])
    assert "32x32 px, 4 codes a step" in pipe.summary()


def test_a_cascade_is_saved_whole(stages, tmp_path):
    pipe = impasto.load(stages["stage3"] / "model")
    pipe.save_pretrained(tmp_path / "again")
    again = impasto.load(tmp_path / "again")
    assert torch.equal(
        again.generate(PROMPT, seed=1, size=32).codes, pipe.generate(PROMPT, seed=1, size=32).codes
    )
    blank = type(pipe).untrained(pipe.config, name="blank")
    with pytest.warns(UserWarning, match="untrained"):
        assert blank(PROMPT, size=32)[0].size == (32, 32)


def test_generate_draws_a_size_and_draws_it_again(stages, tmp_path):
    model = ["--model", stages["stage3"] / "model"]
    assert run_command("generate", PROMPT, "-n", 2, "--size", 32, "--out", tmp_path / "one", *model) == 0
    picture = tmp_path / "one/000001.png"
    assert Image.open(picture).size == (32, 32)
    assert run_command("generate", "--like", picture, "--out", tmp_path / "two", *model) == 0
    assert (tmp_path / "two/000000.png").read_bytes() == picture.read_bytes()
    assert run_command("generate", PROMPT, "--out", tmp_path / "three", *model) == 0
    assert Image.open(tmp_path / "three/000000.png").size == (16, 16)
    assert run_command("info", stages["stage3"] / "model") == 0


def test_a_size_without_a_stage_is_refused(stages, tmp_path, capsys):
    for name, known in (("stage2", "draws 16 px and has no stage for size=32"), ("stage3", "16 and 32 px")):
        size = 32 if name == "stage2" else 64
        command = ["generate", PROMPT, "--size", size, "--out", tmp_path / name]
        assert run_command(*command, "--model", stages[name] / "model") == 2
        error = capsys.readouterr().err
        assert known in error and error.count("\n") == 1 and not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.grids=8,16"], "stage III enlarges 8 x 8 codes and the base draws 4 x 4"),
        (["model.super_resolution.tokens_per_step=16"], "multiple of 4"),
        (["model.super_resolution.head=blok"], "did you mean 'block'"),
        (["training.image_to_text=0.5"], "image_to_text should be 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(stages, tmp_path, capsys, settings, message):
    more = ["training.log_every=2048", "training.sample_every=2048", "training.checkpoint_every=2048"]
    assert run_command(*stage3(stages, tmp_path / "run", *options(*more, *settings))) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_needs_a_base(stages, tmp_path, capsys):
    parts = options(f"tokenizer={stages['tokenizer']}", f"language={stages['language']}")
    assert run_command("train", "mars-debug/stage3", "--out", tmp_path / "run", *parts) == 2
    assert "name one with --init-from RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        ["model.super_resolution.head=independent", "training.z_loss_weight=1e-5"],
        ["model.super_resolution.tokens_per_step=1", "training.checkpoint_activations=true"],
        pytest.param(["training.lora_rank=2"], marks=pytest.mark.long),
    ],
    ids=lambda settings: settings[0],
)
def test_switches_train(stages, settings):
    state, pictures = fresh(stages, *settings)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    for _ in range(2):
        step(state, pictures, Ranks())
    losses = state.means.take(Ranks())
    assert losses["nonfinite/visual"] == 0 and 0 < losses["loss/text_to_image"] < 10
    changed = {n for n, t in state.model.state_dict().items() if not torch.equal(t, before[n])}
    assert any(name.startswith("blocks.head") for name in changed)
    assert all("visual" in name.split(".") or name.startswith("blocks.") for name in changed)
    with torch.no_grad():
        state.model.blocks.head.rows.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="visual expert"):
        for _ in range(20):
            step(state, pictures, Ranks())


def test_pictures_of_ones_own(stages, tmp_path):
    """Any set that the other stages take, in both resolutions; no oracle."""
    data = write_folder(tmp_path / "data", pairs(40))
    short = options("training.tokens=512", "training.log_every=512", "training.sample_every=512")
    short += options("training.checkpoint_every=512", "training.sample_prompts=2")
    assert run_command(*stage3(stages, tmp_path / "run", "--data", data, *short)) == 0
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["images"] == 8 and "validation/error" in rows[-1]
    assert not any(name.startswith("score") for row in rows for name in row)
    low = load_file(tmp_path / "run/codes/codes-00000.safetensors")["low"]
    assert low.shape[1] == 16 and low.dtype == torch.uint16
    assert impasto.load(tmp_path / "run/model")(PROMPT, size=32)[0].size == (32, 32)


@pytest.mark.long
def test_its_cost_is_that_of_fewer_steps():
    run = find_run("mars-debug/stage3", ())
    one = find_run("mars-debug/stage3", ("model.super_resolution.tokens_per_step=1",))
    assert stage_cost(run).flops < 0.6 * stage_cost(one).flops


@pytest.mark.long
@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_ranks_make_the_update_of_one(stages, tmp_path, shard):
    settings = [
        f"training.{name}=512" for name in ("tokens", "log_every", "sample_every", "checkpoint_every")
    ]
    more = options(*settings, "training.sample_prompts=1", f"training.shard_model={shard}")
    assert run_command(*stage3(stages, tmp_path / "one", *more)) == 0
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    arguments = map(str, stage3(stages, tmp_path / "two", *more))
    command = [sys.executable, "-m", "impasto.cli", *arguments]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-4)
