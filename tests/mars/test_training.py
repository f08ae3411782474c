"""Training from the command line: four stages end to end, resumed bit for bit, refused where it should be."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import impasto
from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.mars.codes import CodesError, CodeStore, prepare_codes, read_codes
from impasto.mars.directories import (
    MarsParts,
    MarsPipelineConfig,
    load_language,
    load_tokenizer,
    load_whole,
)
from impasto.mars.launch import find_run
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.runs import RUNS
from impasto.mars.sequence import text_to_image
from impasto.mars.texts import fit_tokeniser
from impasto.mars.trainer import calibrate_norms, step
from impasto.mars.training_config import StageRun, warm_cosine
from impasto.mars.training_state import StageState
from impasto.runtime.checkpoint import load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, NonFiniteError
from impasto.runtime.log import read_metrics
from tests.mars.models import hf_model
from tests.runtime.start_ranks import free_port

CPU = torch.device("cpu")


def train(*arguments: str) -> int:
    return main(["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """The four stages, each trained for a few steps by the command."""
    home = tmp_path_factory.mktemp("mars")
    runs = {name: home / name for name in ("tokenizer", "language", "stage1", "stage2")}
    assert train("mars-debug/tokenizer", "--out", runs["tokenizer"]) == 0
    assert train("mars-debug/language", "--out", runs["language"]) == 0
    assert train("mars-debug/stage1", "--out", runs["stage1"], *parts_of(runs)) == 0
    assert train("mars-debug/stage2", "--out", runs["stage2"], "--init-from", runs["stage1"]) == 0
    return runs


def parts_of(runs: dict[str, Path]) -> list[str]:
    return ["--set", f"tokenizer={runs['tokenizer']}", "--set", f"language={runs['language']}"]


def stage_run(runs: dict[str, Path], *settings: str) -> StageRun:
    run = find_run("mars-debug/stage1", [*parts_of(runs)[1::2], *settings])
    assert isinstance(run, StageRun)
    return run


def fresh(runs: dict[str, Path], *settings: str) -> tuple[StageState, CodeStore]:
    run = stage_run(runs, *settings)
    tokenizer, language = load_tokenizer(run.tokenizer), load_language(run.language)
    return StageState.fresh(run, CPU, language, tokenizer), read_codes(runs["stage1"], run, tokenizer)


def test_every_stage_leaves_a_whole_folder(stages):
    for name, run in stages.items():
        for part in ("config.json", "metrics.jsonl", "checkpoints", "report.html", "model/README.md"):
            assert (run / part).exists(), (name, part)
        assert json.loads((run / "config.json").read_text())["preset"] == f"mars-debug/{name}"
    assert list((stages["tokenizer"] / "samples").glob("*reconstructions.png"))
    assert list((stages["stage1"] / "samples").glob("*captions.png"))
    for stage in ("stage1", "stage2"):
        assert list((stages[stage] / "samples").glob("*sheet.png"))
        rows = read_metrics(stages[stage] / "metrics.jsonl")
        names = {name for row in rows for name in row}
        assert {"tokens", "loss/text_to_image", "score/overall", "score_heldout/overall"} <= names
        assert {"residual/text/0", "residual/image/2", "drift/first_entropy"} <= names
        assert ("loss/image_to_text" in names) == (stage == "stage1")
        assert rows[-1]["tokens"] == 512 and rows[-1]["images"] == 32


def test_the_model_draws_and_describes(stages):
    for stage in ("stage1", "stage2"):
        pipe = impasto.load(stages[stage] / "model")
        pictures = pipe("a red circle", num_images=2, seed=3)
        assert len(pictures) == 2 and pictures[0].size == (16, 16)
        assert len(pipe.caption(pictures)) == 2
        assert pipe.trained and pipe.provenance["images_seen"] == 32
        assert pipe.provenance["data"]["scenes"]["max_objects"] == 1


def test_likelihood_starts_at_chance(stages):
    for suffix in ("", "_heldout"):
        first = read_metrics(stages["stage1"] / "metrics.jsonl")[0]
        assert first["images"] == 0
        assert first[f"validation{suffix}/image_token_nll"] == pytest.approx(math.log(32), abs=0.1)


def test_the_rows_of_codes_start_from_the_codebook_once(stages):
    """`visual.initial_codebook` is of a first stage; one that goes on has what was learned since."""
    (state, _), (plain, _) = fresh(stages, "model.visual.initial_codebook=1.0"), fresh(stages)
    rows, before = state.model.visual.embedding.weight, plain.model.visual.embedding.weight
    codes = state.run.model.visual.codes
    assert torch.equal(rows[codes:], before[codes:]) and not torch.equal(rows[:codes], before[:codes])
    parts = load_tokenizer(state.run.tokenizer), load_language(state.run.language)
    later = StageState.fresh(state.run, CPU, parts[1], parts[0], initial=plain.model)
    assert torch.equal(later.model.visual.embedding.weight, before)


def test_query_and_key_norms_start_at_the_size_they_meet(stages, tmp_path):
    """Switched on by a setting, they change the first loss less than norms of 1; a run begins with them."""
    switch = "model.visual.query_key_norm=true"
    (state, pictures), (plain, _) = fresh(stages, switch), fresh(stages)

    def loss(of: StageState) -> float:
        codes, texts = pictures.batch(range(8))
        captions = [of.prompts.encode(text) for text in texts]
        with torch.no_grad():
            return float(of.model.t2i_loss(text_to_image(of.run.model, captions, codes)))

    before = abs(loss(state) - loss(plain))
    calibrate_norms(state, pictures)
    assert abs(loss(state) - loss(plain)) < before
    frozen = ["--set", "training.optimisation.learning_rate=1e-12"]
    run = tmp_path / "run"
    assert train("mars-debug/stage1", "--out", run, *parts_of(stages), "--set", switch, *frozen) == 0
    begun = load_whole(run / "model")[0].model.state_dict()
    gains = {name: gain for name, gain in state.model.state_dict().items() if "query_norm" in name}
    assert gains and all(torch.allclose(begun[name], gain) for name, gain in gains.items())


def test_the_language_is_untouched(stages):
    language = load_language(stages["language"])
    for stage in ("stage1", "stage2"):
        model = load_whole(stages[stage] / "model")[0].model
        named = model.state_dict()
        assert all(torch.equal(tensor, named[name]) for name, tensor in language.state.items())
    one, two = (load_file(stages[stage] / "model/model.safetensors") for stage in ("stage1", "stage2"))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed and all("visual" in name.split(".") for name in changed)


def test_a_stage_resumes_bit_for_bit(stages, tmp_path):
    class After(Deadline):
        """A time limit that passes at the third step, off every interval."""

        steps = 0

        @property
        def passed(self) -> bool:
            After.steps += 1
            return After.steps == 3

    arguments = ["mars-debug/stage1", "--out", tmp_path / "run", *parts_of(stages)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.mars.launch.Deadline", After)
        assert train(*arguments) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["preset"] == "mars-debug/stage1"
    assert (tmp_path / "run/checkpoints/000000000024").is_dir()
    assert train(*arguments) == 0
    for name in ("visual", "visual_optimizer"):
        whole, resumed = (
            load_checkpoint(run / "checkpoints/000000000032")[0][name]
            for run in (stages["stage1"], tmp_path / "run")
        )
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = [
        read_metrics(run / "metrics.jsonl", with_time=False) for run in (stages["stage1"], tmp_path / "run")
    ]
    assert lines[0] == lines[1]
    for file in sorted((stages["stage1"] / "samples").iterdir()):
        assert (tmp_path / "run/samples" / file.name).read_bytes() == file.read_bytes()


def test_a_stage_goes_on_without_its_parts_named(stages, tmp_path):
    """Stage II needs no --init-from when it resumes: the parts are inside its own model."""
    shutil.copytree(stages["stage2"], tmp_path / "run")
    assert train("mars-debug/stage2", "--out", tmp_path / "run") == 0


def test_codes_are_extracted_once(stages, tmp_path):
    run = stage_run(stages)
    part, out = load_tokenizer(run.tokenizer), tmp_path
    prepare_codes(out, run, part)
    files = sorted(path.name for path in (out / "codes").iterdir())
    assert files == [
        "captions-00000.json", "captions-00001.json",
        "codes-00000.safetensors", "codes-00001.safetensors", "index.json",
    ]  # fmt: skip
    assert load_file(out / "codes/codes-00000.safetensors")["codes"].dtype == torch.uint16
    times = [path.stat().st_mtime_ns for path in sorted((out / "codes").iterdir())]
    prepare_codes(out, run, part)
    assert times == [path.stat().st_mtime_ns for path in sorted((out / "codes").iterdir())]
    store = read_codes(out, run, part)
    images, _ = SceneSource(16, run.data, seed=0).batch(range(24))
    assert torch.equal(store.codes.long(), part.tokenizer.encode(images).flatten(1))
    seen = store.batch(range(24)).codes
    assert sorted(seen.tolist()) == sorted(store.codes.tolist())  # an epoch holds each once
    assert store.batch([3]).codes.tolist() == seen[3:4].tolist()
    (out / "codes/codes-00001.safetensors").write_bytes(b"damaged")
    with pytest.raises(CodesError, match="is not what was written"):
        read_codes(out, run, part)


def test_another_tokenizer_is_refused(stages, tmp_path, capsys):
    other = tmp_path / "tokenizer"
    assert train("mars-debug/tokenizer", "--out", other, "--set", "training.seed=5") == 0
    run = tmp_path / "run"
    shutil.copytree(stages["stage1"], run)
    shutil.copytree(stages["tokenizer"], tmp_path / "mine")
    document = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**document, "tokenizer": str(other)}))
    arguments = parts_of({**stages, "tokenizer": other})
    assert train("mars-debug/stage1", "--out", run, *arguments) == 2
    assert "another tokenizer" in capsys.readouterr().err
    later = ["mars-debug/stage2", "--out", tmp_path / "two", "--init-from", stages["stage1"], *arguments]
    assert train(*later) == 2
    assert "codes of another tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mars-debug/stage1"], "mars-debug/tokenizer --out RUN"),
        (["mars-debug/stage1", "--set", "tokenizer=/nowhere"], "tokenizer=/nowhere: no model is there"),
        (["mars-debug/stage2", "--init-from", "/nowhere"], "--init-from=/nowhere: no model is there"),
        (["mars-debug/stage4"], "did you mean 'mars-debug/stage"),
        (["mars-debug/language", "--init-from", "x"], "leave --init-from out"),
        (["mars-debug/stage1", "--set", "training.tokns=3"], "did you mean 'tokens'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, capsys, arguments, message):
    assert train(*arguments, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_parts_of_other_shapes_are_refused(stages, tmp_path, capsys):
    out = ["--out", tmp_path / "run", *parts_of(stages)]
    assert train("mars-debug/stage1", *out, "--set", "model.visual.codes=64") == 2
    assert "the tokenizer has 32 codes" in capsys.readouterr().err
    assert train("mars-debug/stage1", *out, "--set", "model.language.layers=3") == 2
    assert "layers" in capsys.readouterr().err


def test_accumulation_changes_nothing(stages):
    """Losses are means over the whole batch, so cutting it in two gives the same gradients."""
    gradients = []
    for micro in (8, 4):
        settings = [f"training.micro_batch={micro}", "training.image_to_text=0.25"]
        state, pictures = fresh(stages, *settings)
        state.model.double()
        state.prefixes = None
        state.optimizer = torch.optim.SGD([p for p in state.model.parameters() if p.requires_grad], lr=0.0)
        order = [0, 1, 2, 6, 3, 4, 5, 7] if micro == 4 else range(8)  # the same ones are described
        batch = pictures.batch
        patched = pytest.MonkeyPatch()
        patched.setattr(pictures, "batch", lambda places, b=batch, o=order: b([o[p] for p in places]))
        patched.setattr("impasto.mars.trainer._dropped", lambda *_: False)
        patched.setattr(state.optimizer, "zero_grad", lambda **_: None)
        step(state, pictures, Ranks())
        patched.undo()
        gradients.append({n: p.grad for n, p in state.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize(
    "settings",
    [
        ["model.visual.experts=shared"],
        ["model.visual.output_projection=shared"],
        ["training.image_to_text=0"],
        ["training.bfloat16=true", "training.checkpoint_activations=true"],
        ["training.image_to_text_image_weight=0.1", "training.z_loss_weight=1e-5"],
    ],
    ids=lambda settings: settings[0],
)
def test_switches_train(stages, settings):
    state, pictures = fresh(stages, *settings)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    for _ in range(2):
        step(state, pictures, Ranks())
    losses = state.means.take(Ranks())
    assert all(math.isfinite(value) for value in losses.values())
    assert losses["nonfinite/visual"] == 0 and state.tokens == 256
    changed = {n for n, t in state.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and all("visual" in name.split(".") for name in changed)


def test_stored_prefixes_do_not_depend_on_the_batch(stages):
    """A store that knows some captions already, and an empty one, lead to the same weights."""
    state, pictures = fresh(stages)
    for _ in range(3):
        step(state, pictures, Ranks())
    other, _ = fresh(stages)
    other.images = state.images
    other.model.load_state_dict(state.model.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(state.optimizer.state_dict()))
    assert state.prefixes is not None and other.prefixes is not None
    for both in (state, other):
        step(both, pictures, Ranks())
    assert state.prefixes.hits > other.prefixes.hits
    pairs = zip(state.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_a_second_level_is_larger(stages, tmp_path):
    """Stage II at twice the side, from the same weights."""
    settings = ["model.grids=4,8", "level=1", "training.tokens=1024", "training.log_every=512"]
    settings += ["training.sample_every=1024", "training.checkpoint_every=1024"]
    options = [item for setting in settings for item in ("--set", setting)]
    arguments = ["mars-debug/stage2", "--out", tmp_path, "--init-from", stages["stage1"], *options]
    assert train(*arguments) == 0
    assert impasto.load(tmp_path / "model")("a red circle")[0].size == (32, 32)


def test_the_schedule_and_the_shares():
    assert warm_cosine(0.005, 0.01, 0.1) == pytest.approx(0.5)
    assert warm_cosine(0.01, 0.01, 0.1) == pytest.approx(1.0)
    assert warm_cosine(1.0, 0.01, 0.1) == pytest.approx(0.1)
    training = replace(RUNS["mars-nano/stage1"]().training, image_to_text=0.2)
    assert training.described(40) == 8 and training.described(2) == 1
    with pytest.raises(ConfigError, match="multiple"):
        override(RUNS["mars-nano/stage1"](), ["training.log_every=100"])
    with pytest.raises(ConfigError, match="divide batch"):
        override(RUNS["mars-nano/stage1"](), ["training.micro_batch=7"])
    assert StageRun().training.tokens // StageRun().image_length == 200_000_000


def test_captions_are_of_the_pictures_scenes():
    options = SceneOptions(max_objects=2, languages=("en", "zh"))
    source = SceneSource(16, options, seed=4)
    texts = [text for n in range(12) for text in source.phrasings(n, 3)]
    assert texts == [text for n in range(12) for text in source.phrasings(n, 3)]
    assert any(text.isascii() for text in texts) and not all(text.isascii() for text in texts)
    large = SceneSource(64, options, seed=4)
    from impasto.data.scenes import score_image
    from impasto.pictures import to_images

    pictures = to_images(large.batch(range(12))[0])
    assert all(score_image(pictures[n // 3], text).overall == 1 for n, text in enumerate(texts))


def test_the_text_tokeniser_spells_everything():
    tokeniser = fit_tokeniser(["a red circle", "一个红色的圆"] * 4, 300)
    assert tokeniser.get_vocab_size() <= 300 and tokeniser.token_to_id("<|endoftext|>") == 0
    for text in ("a red circle", "一个红色的圆", "never seen: ünïcode"):
        ids = tokeniser.encode(text, add_special_tokens=False).ids
        assert tokeniser.decode(ids) == text and 0 not in ids
    with pytest.raises(ConfigError, match="at least 257"):
        fit_tokeniser([], 100)


def test_two_ranks_make_the_update_of_one(stages, tmp_path):
    """Replicated ranks through the command: the first moments hold a tenth of the clipped gradient."""
    every = [f"training.{name}=128" for name in ("tokens", "log_every", "sample_every", "checkpoint_every")]
    settings = [*every, "training.image_to_text=0.25", "training.sample_prompts=1"]
    options = [item for setting in settings for item in ("--set", setting)]
    arguments = ["mars-debug/stage1", *parts_of(stages), *options, "--out"]
    assert train(*arguments, tmp_path / "one") == 0
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "impasto.cli", "train", *map(str, arguments), str(tmp_path / "two")]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    one, two = (
        load_checkpoint(tmp_path / name / "checkpoints/000000000008")[0]["visual_optimizer"]
        for name in ("one", "two")
    )
    for name in one:
        if name.startswith("exp_avg/"):
            torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-7)


def test_a_hugging_face_folder_is_a_language_model(stages, tmp_path):
    folder = tmp_path / "llama"
    hf_model("llama", vocab_size=320, eos_token_id=0).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        load_language(folder)
    fit_tokeniser(["a red circle"], 300).save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match="family 'Hugging Face', not an image tokenizer"):
        load_tokenizer(folder)
    part, run = load_language(folder), stage_run(stages)
    run = replace(run, model=replace(run.model, language=part.config))
    tokenizer = load_tokenizer(run.tokenizer)
    state = StageState.fresh(run, CPU, part, tokenizer)
    step(state, read_codes(stages["stage1"], run, tokenizer), Ranks())
    config = MarsPipelineConfig(model=run.model, tokenizer=tokenizer.tokenizer.config)
    parts = MarsParts(state.model, tokenizer.tokenizer)
    MarsPipeline(parts, config, part.tokeniser).save_pretrained(tmp_path / "whole")
    again = load_language(tmp_path / "whole")
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in part.state.items())


def test_gradients_that_are_no_numbers_end_a_run(stages):
    state, pictures = fresh(stages, "training.optimisation.max_bad_steps=2")
    with torch.no_grad():
        state.model.visual.embedding.weight.fill_(float("nan"))
    step(state, pictures, Ranks())
    assert state.means.take(Ranks())["nonfinite/visual"] > 0
    with pytest.raises(NonFiniteError, match="visual expert: not finite in 2 steps"):
        step(state, pictures, Ranks())
