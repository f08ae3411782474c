"""Two ranks that share a model out train as one does that has all of it; checkpoints go both ways."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from impasto.cli import main
from impasto.runtime.checkpoint import (
    DamagedCheckpointError,
    checkpoint_path,
    checkpoints,
    clean_leftovers,
    latest_checkpoint,
    prune,
)
from impasto.runtime.dist import Ranks, RanksError
from impasto.runtime.sharded_checkpoint import INDEX, load_sharded_checkpoint
from impasto.runtime.sharding import shard
from tests.mars.sharded_ranks import (
    END,
    HALF,
    VARIANTS,
    drawings,
    fresh,
    go_on,
    stage_run,
    variant,
    weights,
    write_parts,
)
from tests.runtime.start_ranks import free_port

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
ONE = Ranks()


def two_ranks(*command: object) -> tuple[list[int], list[str]]:
    """Exit codes and what was printed, of a command started twice as torchrun would."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
        return [process.returncode for process in processes], said
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Parts, the run of one rank ("one"), and all that two ranks did."""
    home = tmp_path_factory.mktemp("sharding")
    write_parts(home)
    state, pictures = fresh(home, ONE, torch.float64)
    go_on(state, pictures, ONE, HALF).save(home / "one")
    go_on(state, pictures, ONE, END).save(home / "one")
    codes, said = two_ranks("-m", "tests.mars.sharded_ranks", home)
    assert codes == [0, 9], "\n".join(said)  # the second one ends while saving
    return home


def saved(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    return load_sharded_checkpoint(path, lambda *_: None)[0]


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_two_ranks_train_as_one(home):
    one = saved(checkpoint_path(home / "one", END))
    two = load_file(home / "two.safetensors")
    difference = largest_difference(one["visual"], two)
    assert difference < 1e-8
    begun = saved(checkpoint_path(home / "one", HALF))["visual"]
    assert largest_difference(one["visual"], begun) > 1e-4  # it did learn


@pytest.mark.parametrize("name", VARIANTS)
def test_first_gradients_are_those_of_one_rank(home, name):
    one, two = variant(home, ONE, name), load_file(home / f"{name}.safetensors")
    assert one.keys() == two.keys()
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-10}[VARIANTS[name][0]]
    tolerance = 0.05 if name == "bfloat16" else tolerance
    scale = max(float(tensor.abs().max()) for key, tensor in one.items() if key != "norm")
    for key, tensor in one.items():
        difference = float((two[key] - tensor).abs().max())
        assert difference <= tolerance * (float(tensor.norm()) + 0.01 * scale), key


def test_the_index_names_every_row_once(home):
    path = checkpoint_path(home / "two", HALF)
    files = sorted(file.name for file in path.iterdir())
    assert files == [
        INDEX, "manifest.json", "state.json",
        "visual-00000-of-00002.safetensors", "visual-00001-of-00002.safetensors",
        "visual_optimizer-00000-of-00002.safetensors", "visual_optimizer-00001-of-00002.safetensors",
    ]  # fmt: skip
    index = json.loads((path / INDEX).read_text())
    assert index["ranks"] == 2
    for group, names in index["groups"].items():
        for name, entry in names.items():
            rows = sum(stop - start for _, start, stop in entry["parts"])
            assert rows == (entry["shape"][0] if entry["shape"] else 0), (group, name)
    sizes = [(path / f"visual-0000{rank}-of-00002.safetensors").stat().st_size for rank in range(2)]
    assert abs(sizes[0] - sizes[1]) < 0.05 * sizes[0]  # neither rank holds the whole


def test_stopped_and_resumed_on_as_many_ranks_is_the_same_bits(home):
    whole, resumed = (saved(checkpoint_path(home / name, END)) for name in ("two", "again"))
    for group in ("visual", "visual_optimizer"):
        assert whole[group].keys() == resumed[group].keys()
        assert all(torch.equal(whole[group][name], resumed[group][name]) for name in whole[group])


def test_saved_on_one_resumed_on_two(home):
    whole, resumed = (saved(checkpoint_path(home / name, END)) for name in ("one", "from_one"))
    for group in ("visual", "visual_optimizer"):
        assert largest_difference(whole[group], resumed[group]) < 1e-8


def test_saved_on_two_resumed_on_one(home):
    state, pictures = fresh(home, ONE, torch.float64)
    state.restore(checkpoint_path(home / "two", HALF))
    assert state.images == HALF and state.shards is None
    go_on(state, pictures, ONE, END)
    assert largest_difference(saved(checkpoint_path(home / "one", END))["visual"], weights(state)) < 1e-8
    drawn = drawings(state)
    assert largest_difference(drawn, load_file(home / "drawings.safetensors")) == 0 and len(drawn) == 3


def test_a_save_that_failed_leaves_what_was(home):
    """One rank could not write, then one died: both left no checkpoint and no half of one."""
    assert [path.name for path in checkpoints(home / "two")] == [f"{n:012d}" for n in (HALF, END)]
    clean_leftovers(home / "two")
    assert sorted(path.name for path in (home / "two/checkpoints").iterdir()) == [
        ".lock", f"{HALF:012d}", f"{END:012d}",
    ]  # fmt: skip


def test_a_damaged_shard_is_refused(home, tmp_path):
    shutil.copytree(home / "two", tmp_path / "run")
    newest = checkpoint_path(tmp_path / "run", END)
    shard_file = newest / "visual-00001-of-00002.safetensors"
    content = bytearray(shard_file.read_bytes())
    content[-1] ^= 1
    shard_file.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=rf"{shard_file.name} has the wrong checksum") as caught:
        saved(newest)
    assert "\n" not in str(caught.value)
    said: list[str] = []
    assert latest_checkpoint(tmp_path / "run", said.append) == checkpoint_path(tmp_path / "run", HALF)
    assert len(said) == 1
    shard_file.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"visual-00001-of-00002\.safetensors is missing"):
        saved(newest)
    assert prune(tmp_path / "run", keep_last=1) == [newest]  # it is not whole


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(RanksError, match="start it with torchrun"):
        shard(torch.nn.Linear(2, 2), [], ONE)


def test_the_command_trains_and_exports(home, tmp_path):
    """Two ranks through the command: samples, checkpoint and the whole model; then one rank goes on."""
    run = stage_run(home)
    step = 8 * run.image_length
    every = [
        f"training.{name}={step}" for name in ("tokens", "log_every", "sample_every", "checkpoint_every")
    ]
    settings = [*every, "training.sample_prompts=1", "model.language.feed_forward=45"]
    settings += ["training.image_to_text=0"]
    settings += [f"{name}={home / name}" for name in ("tokenizer", "language")]
    arguments = ["train", "mars-debug/stage1", *(part for text in settings for part in ("--set", text))]
    assert main([*map(str, arguments), "--out", str(tmp_path / "one")]) == 0
    arguments += ["--set", "training.shard_model=true", "--out", tmp_path / "two"]
    codes, said = two_ranks("-m", "impasto.cli", *arguments)
    assert codes == [0, 0], "\n".join(said)
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    assert (checkpoint_path(tmp_path / "two", 8) / INDEX).is_file()
    assert sorted(path.name for path in (tmp_path / "two/samples").iterdir()) == sorted(
        path.name for path in (tmp_path / "one/samples").iterdir()
    )
    assert main([*map(str, arguments)]) == 0  # one process, over the finished run of two
