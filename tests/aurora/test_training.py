"""Training through the real command line: it runs, resumes exactly, and survives what goes wrong."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import impasto
from impasto.aurora import trainer
from impasto.aurora.generator import Generator
from impasto.aurora.launch import LaunchOptions, find_run, launch
from impasto.aurora.runs import RUNS
from impasto.aurora.trainer import step
from impasto.aurora.training_state import TrainingState
from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import score_image
from impasto.pictures import to_images
from impasto.runtime.checkpoint import latest_checkpoint, load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import NonFiniteError
from impasto.runtime.log import read_metrics
from impasto.text import TextFeatures

SMALL = ["training.images=32", "training.sample_every=16", "training.checkpoint_every=16"]


class WordEncoder:
    """A text encoder without weights: one fixed random vector a word. Fast, and exact."""

    width, fingerprint, device = 384, "words", torch.device("cpu")

    def to(self, device: torch.device | str) -> "WordEncoder":
        return self

    def encode(self, texts: list[str]) -> TextFeatures:
        rows = [torch.stack([self._word(word) for word in [*text.split(), "<end>"]]) for text in texts]
        longest = max(len(row) for row in rows)
        tokens = torch.zeros(len(rows), longest, self.width)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        eot = torch.tensor([len(row) - 1 for row in rows])
        mask = torch.arange(longest) <= eot[:, None]
        return TextFeatures(tokens, mask, eot, tokens[torch.arange(len(rows)), eot])

    def _word(self, word: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fast_encoder(monkeypatch):
    monkeypatch.setattr("impasto.aurora.launch.load_encoder", lambda name: WordEncoder())


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    monkeypatch.setattr("impasto.aurora.launch.EVALUATION_PROMPTS", 4)


def train(out: Path, *settings: str, **options) -> str:
    return launch(
        "aurora-debug", find_run("aurora-debug", [*SMALL, *settings]), LaunchOptions(out=out, **options)
    )


def same_checkpoint(a: Path, b: Path) -> None:
    """Weights, averages, optimisers and state bit for bit."""
    (tensors_a, state_a), (tensors_b, state_b) = load_checkpoint(a), load_checkpoint(b)
    assert state_a == state_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, group in tensors_a.items():
        assert group.keys() == tensors_b[name].keys()
        for key, tensor in group.items():
            assert torch.equal(tensor, tensors_b[name][key]), (name, key)


def test_the_command_trains_and_leaves_a_whole_run(tmp_path, capsys):
    out = tmp_path / "run"
    settings = [argument for setting in SMALL for argument in ("--set", setting)]
    assert main(["train", "aurora-debug", "--out", str(out), *settings]) == 0
    assert "finished" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["checkpoints", "model", "samples"]
    assert {p.name for p in (out / "samples").iterdir()} >= {
        f"{images:012d}-{kind}.png" for images in (0, 16, 32) for kind in ("sheet", "pyramid", "routes")
    }
    rows = read_metrics(out / "metrics.jsonl")
    logged = {name for row in rows for name in row}
    assert {
        "loss/discriminator_real", "loss/discriminator_fake", "loss/matching_real", "loss/matching_fake",
        "loss/r1", "loss/generator", "loss/mixture_of_experts", "nonfinite/generator", "score/overall",
        "score_heldout/overall", "experts/layer_00/00",
    } <= logged  # fmt: skip
    model = impasto.load(out / "model")
    assert model.trained
    assert model.provenance["images_seen"] == 32 and model.provenance["preset"] == "aurora-debug"
    assert model.provenance["data"]["scenes"]["max_objects"] == 1
    average = load_checkpoint(latest_checkpoint(out))[0]["average"]
    for name, tensor in model.generator.state_dict().items():
        assert torch.equal(tensor, average[name])
    assert json.loads((out / "config.json").read_text())["preset"] == "aurora-debug"


def test_dry_run_prints_the_configuration_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "aurora-debug", "--out", str(out), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["batch"] == 8
    assert not out.exists()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole)
    train(parts, "training.images=16")
    train(parts)
    same_checkpoint(latest_checkpoint(whole), latest_checkpoint(parts))
    metrics = [read_metrics(run / "metrics.jsonl", with_time=False) for run in (whole, parts)]
    assert metrics[0] == metrics[1]
    for sheet in (whole / "samples").iterdir():
        assert sheet.read_bytes() == (parts / "samples" / sheet.name).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    """Metrics of the lost past do not stay beside those of the new start."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(whole)
    train(again, "training.images=16")
    shutil.rmtree(again / "checkpoints")
    train(again)
    same_checkpoint(latest_checkpoint(whole), latest_checkpoint(again))
    metrics = [read_metrics(run / "metrics.jsonl", with_time=False) for run in (whole, again)]
    assert metrics[0] == metrics[1]


def test_activations_computed_again_change_no_bit(tmp_path):
    kept, again = tmp_path / "kept", tmp_path / "again"
    everything = [
        "training.path_length_weight=1.0",
        "training.r1_interval=1",
        "training.path_length_interval=1",
    ]
    train(kept, "training.images=16", *everything)
    train(again, "training.images=16", "training.recompute_activations=true", *everything)
    states = [load_checkpoint(latest_checkpoint(run))[0] for run in (kept, again)]
    for name, group in states[0].items():
        for key, tensor in group.items():
            assert torch.equal(tensor, states[1][name][key]), (name, key)


def test_activations_computed_again_are_not_kept():
    run = find_run("aurora-debug", SMALL)
    kept = {}
    for recompute in (False, True):
        generator = Generator(run.model.generator)
        generator.recompute = recompute
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            width = run.model.generator.text_head.input_dim
            z = torch.randn(4, run.model.generator.z_dim)
            generator(z, torch.randn(4, 9, width), torch.full((4,), 8))
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 3


def test_stopping_between_intervals_loses_nothing(tmp_path, monkeypatch):
    """A signal stops after the step under way, with a checkpoint; sums of metrics travel in it."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole)
    original = trainer.step

    def step_then_signal(state, *arguments):
        original(state, *arguments)
        if state.images == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "step", step_then_signal)
    assert train(parts) == "SIGTERM"
    assert latest_checkpoint(parts).name.endswith("24")
    monkeypatch.setattr(trainer, "step", original)
    assert train(parts) == "finished"
    same_checkpoint(latest_checkpoint(whole), latest_checkpoint(parts))
    assert read_metrics(whole / "metrics.jsonl", with_time=False) == read_metrics(
        parts / "metrics.jsonl", with_time=False
    )


def test_a_time_limit_stops_with_a_checkpoint(tmp_path):
    assert train(tmp_path / "run", time_limit=1e-6) == "time limit"
    assert latest_checkpoint(tmp_path / "run").name.endswith("8")


KILLED = """
import sys, impasto.aurora.launch as launch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.aurora.test_training import SMALL, WordEncoder
launch.load_encoder, launch.EVALUATION_PROMPTS = lambda name: WordEncoder(), 4
run = launch.find_run("aurora-debug", [*SMALL, "training.images=4000000"])
launch.launch("aurora-debug", run, launch.LaunchOptions(out=Path(sys.argv[1])))
"""


def test_kill_9_then_resume_repeats_what_was_lost(tmp_path):
    """Killed while it trains and saves without pause; the resumed run still equals the uninterrupted one."""
    out, root = tmp_path / "run", Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    folder, deadline = out / "checkpoints", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        started = folder.is_dir() and any(p.name.endswith(".tmp") for p in folder.iterdir())
        if started and any(p.name.endswith("16") for p in folder.iterdir()):
            break
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stderr.read()
    images = int(latest_checkpoint(out).name)
    assert images >= 16
    target = images + 16
    train(out, f"training.images={target}")
    train(tmp_path / "whole", f"training.images={target}")
    same_checkpoint(latest_checkpoint(tmp_path / "whole"), latest_checkpoint(out))
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_non_finite_gradients_stop_the_run_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = SceneSource.batch

    def poisoned(self, positions):
        images, captions = original(self, positions)
        if positions[0] >= 16:
            images[0, 0, 0, 0] = float("nan")
        return images, captions

    monkeypatch.setattr(SceneSource, "batch", poisoned)
    out = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"at .* images; resume from .*000000000016"):
        train(out, "training.max_bad_steps=2", "training.images=64")
    tensors, state = load_checkpoint(latest_checkpoint(out))
    assert state["images"] == 16
    assert all(t.isfinite().all() for group in tensors.values() for t in group.values())


def test_a_full_disk_stops_the_run_and_keeps_what_was_saved(tmp_path, monkeypatch):
    import impasto.runtime.checkpoint as checkpoint

    original, out = checkpoint.save_file, tmp_path / "run"

    def full(tensors, path, *arguments, **options):
        if "00000032" in str(path):
            raise OSError(28, "No space left on device")
        return original(tensors, path, *arguments, **options)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device; earlier checkpoints"):
        train(out)
    monkeypatch.setattr(checkpoint, "save_file", original)
    assert latest_checkpoint(out).name.endswith("16")
    assert train(out) == "finished"


def test_another_configuration_does_not_continue_a_run(tmp_path):
    train(tmp_path / "run", "training.images=16")
    with pytest.raises(ConfigError, match=r"other settings \(training.learning_rate: 0.0025 -> 0.1\)"):
        train(tmp_path / "run", "training.learning_rate=0.1")
    with pytest.raises(ConfigError, match="holds a run"):
        train(tmp_path / "run", resume="never")


def test_fine_tuning_starts_from_a_model_or_another_run(tmp_path):
    train(tmp_path / "a", "training.images=16")
    for source in (tmp_path / "a" / "model", tmp_path / "a"):
        weights = trainer_weights(source)
        run = find_run("aurora-debug", SMALL)
        state = TrainingState.fresh(run, torch.device("cpu"), weights)
        model = impasto.load(tmp_path / "a" / "model").generator.state_dict()
        assert all(torch.equal(t, model[n]) for n, t in state.generator.state_dict().items())
        assert ("discriminator" in weights) == (source.name == "a")
    with pytest.raises(ConfigError, match="neither a model directory"):
        train(tmp_path / "b", init_from=str(tmp_path))


def trainer_weights(source: Path):
    from impasto.aurora.launch import _initial_weights

    return _initial_weights(str(source))


def fresh_state(*settings: str) -> TrainingState:
    return TrainingState.fresh(find_run("aurora-debug", [*SMALL, *settings]), torch.device("cpu"))


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(monkeypatch):
    """With captions mismatched inside each micro-batch the matching term differs, so it is left out."""
    updates: dict[str, list[dict[str, torch.Tensor]]] = {}

    def record(state, names, ranks):
        (name,) = names
        network = state.trained[name].network
        gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        updates.setdefault(name, []).append(gradients)
        network.zero_grad(set_to_none=True)

    monkeypatch.setattr(trainer, "_update", record)
    for micro_batch in ("null", "2"):
        state = fresh_state(
            "training.matching_weight=0",
            f"training.micro_batch={micro_batch}",
            "model.generator.moe.balance_scope=image",
        )
        step(state, SceneSource(16, state.run.data), WordEncoder(), Ranks())
    for name, (whole, parts) in updates.items():
        for key, gradient in whole.items():
            scale = float(gradient.abs().max()) + 1e-8
            assert torch.allclose(parts[key], gradient, atol=1e-3 * scale), (name, key)


def test_bfloat16_gives_nearly_the_same_update_and_leaves_the_penalty_alone(monkeypatch):
    gradients: dict[str, list[torch.Tensor]] = {}
    penalties = []

    def record(state, names, ranks):
        (name,) = names
        network = state.trained[name].network
        parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        assert all(part.dtype == torch.float32 for part in parts)
        gradients.setdefault(name, []).append(torch.cat(parts))
        network.zero_grad(set_to_none=True)

    monkeypatch.setattr(trainer, "_update", record)
    for value in ("false", "true"):
        both = (f"training.bfloat16_generator={value}", f"training.bfloat16_discriminator={value}")
        state = fresh_state(*both, "training.r1_gamma=0")
        step(state, SceneSource(16, state.run.data), WordEncoder(), Ranks())
        penalties.append(state.means.sums["loss/r1"])
    for exact, rough in gradients.values():
        assert not torch.equal(exact, rough)
        assert float(torch.cosine_similarity(exact, rough, dim=0)) > 0.99
    # The penalty is computed in fp32 either way; only the text vector it is given was rounded.
    assert float(penalties[1]) == pytest.approx(float(penalties[0]), rel=1e-2)


def test_discriminator_and_generator_get_their_own_updates(monkeypatch):
    state = fresh_state()
    before = {n: p.detach().clone() for n, p in state.generator.named_parameters()}
    seen = {}

    def record(state, names, ranks):
        (name,) = names
        other = state.generator if name == "discriminator" else state.discriminator
        seen[name] = [p.grad for p in other.parameters() if p.grad is not None and name == "generator"]
        state.trained[name].optimizer.step()
        state.trained[name].optimizer.zero_grad(set_to_none=True)

    monkeypatch.setattr(trainer, "_update", record)
    step(state, SceneSource(16, state.run.data), WordEncoder(), Ranks())
    assert seen["generator"] == []  # the discriminator gets no gradient in the generator's update
    assert any(not torch.equal(p, before[n]) for n, p in state.generator.named_parameters())
    assert all(p.requires_grad for p in state.discriminator.parameters())


def test_pairs_are_matched_from_the_source_to_the_discriminator(monkeypatch):
    """What the discriminator is shown as a matching pair is one, by the oracle, and its features are those of
    the picture's own caption."""
    seen = []

    def record(critics, batch, fake, run, **options):
        seen.append(batch)
        return {}

    monkeypatch.setattr(trainer, "discriminator_backward", record)
    run = override(RUNS["aurora-debug"](), [*SMALL, "training.batch=16", "training.log_every=16"])
    state = TrainingState.fresh(run, torch.device("cpu"))
    source = SceneSource(64, SceneOptions(max_objects=1, textures=False))
    encoder = WordEncoder()
    monkeypatch.setattr(trainer, "generator_backward", lambda *a, **k: {})
    step(state, source, encoder, Ranks())
    (batch,) = seen
    for index, (picture, caption) in enumerate(zip(to_images(batch.images), batch.captions, strict=True)):
        assert score_image(picture, caption).overall > 0.9, caption
        own = encoder.encode([caption])
        assert torch.equal(batch.text.tokens[index][batch.text.mask[index]], own.tokens[0])


@pytest.mark.parametrize(
    ("group", "expected"), [(0, [[0, 2, 4, 6], [1, 3, 5, 7]]), (2, [[0, 1, 4, 5], [2, 3, 6, 7]])]
)
def test_two_ranks_share_the_global_order(group, expected):
    """Neighbours that the discriminator compares stay together."""
    run = find_run("aurora-debug", [*SMALL, f"discriminator.deviation_group={group}"])
    source, positions = SceneSource(16, run.data), []
    for rank in (0, 1):
        state = TrainingState.fresh(run, torch.device("cpu"))

        class Watched:
            def batch(self, chosen):
                positions.append(list(chosen))
                return source.batch(chosen)

            def near_misses(self, chosen):
                return source.near_misses(chosen)

        trainer._micro_batches(state, Watched(), WordEncoder(), Ranks(rank=rank, world_size=2))
    assert positions == expected
