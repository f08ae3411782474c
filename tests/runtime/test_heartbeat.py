"""A rank that falls silent is named, and nothing of the run is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as distributed

from impasto.runtime import heartbeat
from impasto.runtime.checkpoint import checkpoints, verify_checkpoint
from impasto.runtime.dist import Ranks, RanksError
from impasto.runtime.heartbeat import HeartBeat, Silence
from impasto.runtime.log import read_metrics
from tests.runtime.start_ranks import start_ranks


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.3)


def test_a_rank_that_stops_counting_is_named():
    store = distributed.HashStore()
    beats = [HeartBeat(store, rank, 3) for rank in range(3)]
    time.sleep(0.7)
    assert beats[0].listen() == Silence()
    beats[0].exchanges = 4
    beats[1].exchanges = 4
    time.sleep(0.7)
    assert beats[0].listen() == Silence(behind=(2,))
    beats[1].stop()
    time.sleep(0.7)
    assert beats[0].listen().silent == (1,)
    assert "rank 1 no longer answers" in str(beats[0].listen())
    for beat in beats:
        beat.stop()


def test_a_rank_that_never_counted_is_silent_and_a_lost_store_is_told():
    class Lost:
        def set(self, *arguments):
            raise RuntimeError("Broken pipe")

        check = set

    alone = HeartBeat(distributed.HashStore(), 1, 3)
    time.sleep(0.7)
    assert alone.listen().silent == (0, 2)
    alone.stop()
    found = HeartBeat(Lost(), 1, 2).listen()
    assert found.meeting_point and "rank 0" in str(found)


def test_a_timeout_that_is_no_number_is_refused():
    for wrong in ("0", "nan", "inf", "-1"):
        with pytest.raises(RanksError, match="number of minutes"):
            Ranks.from_environment("cpu", {"IMPASTO_RANK_TIMEOUT": wrong})
    assert Ranks.from_environment("cpu", {"IMPASTO_RANK_TIMEOUT": "0.5"}).timeout_minutes == 0.5
    with pytest.raises(RanksError, match="number of minutes"):
        Ranks.from_environment("cpu", {"IMPASTO_RANK_TIMEOUT": "soon"})


def train_command(out: Path, *settings: str) -> list[str]:
    command = ["-m", "impasto.cli", "train", "aurora-debug", "--out", str(out)]
    for setting in ("images=100000", "sample_every=6400", "checkpoint_every=32", *settings):
        command += ["--set", f"training.{setting}"]
    return command


def wait_for_checkpoints(out: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(checkpoints(out)) < count and time.monotonic() < deadline:
        time.sleep(0.2)


def check_whole_and_resume(out: Path, command: list[str]) -> None:
    """What is saved is whole, nothing is left lying about, and the same command goes on by itself."""
    saved = checkpoints(out)
    assert saved and not list(out.rglob("*.tmp"))
    for folder in saved:
        verify_checkpoint(folder)
    again = [sys.executable, *command, "--time-limit", "0.05"]
    resumed = subprocess.run(again, capture_output=True, text=True, timeout=240)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.long
@pytest.mark.parametrize(("what", "which"), [("SIGKILL", 1), ("SIGSTOP", 1), ("SIGSTOP", 0), ("SIGTERM", 1)])
def test_a_lost_rank_ends_the_run_with_a_line_and_a_whole_folder(tmp_path, what, which):
    out = tmp_path / "run"
    command = train_command(out)
    with start_ranks([sys.executable, *command], 2, IMPASTO_RANK_TIMEOUT="0.3") as processes:
        wait_for_checkpoints(out, 2)
        processes[which].send_signal(getattr(signal, what))
        other = processes[1 - which]
        printed, _ = other.communicate(timeout=120)
        if what == "SIGTERM":
            assert other.returncode == 0 and "another rank stopped" in printed
        else:
            last = printed.splitlines()[-1]
            told = "rank 1 no longer answers" if which else "rank 0, or the torchrun that holds the meeting"
            assert other.returncode == 2 and told in last and "Traceback" not in printed
    check_whole_and_resume(out, command)


@pytest.mark.long
def test_a_disk_that_is_full_for_the_rank_that_writes_stops_all(tmp_path):
    """No file may grow beyond 300 KiB: the small ones are written, the checkpoint's are not."""
    out = tmp_path / "run"
    command = train_command(out)
    first = subprocess.run(
        [sys.executable, *command, "--set", "training.images=32"], capture_output=True, text=True, timeout=240
    )
    assert first.returncode == 0, first.stderr
    limited = ["bash", "-c", 'test "$RANK" = 1 || ulimit -f 300; exec "$@"', "bash", sys.executable, *command]
    with start_ranks(limited, 2, IMPASTO_RANK_TIMEOUT="0.3") as processes:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    line = printed[0].splitlines()[-1]
    assert line.startswith("impasto: error:") and "000000000064 cannot be written" in line
    assert "make room on this disk, then resume" in line and "rank 0" in printed[1].splitlines()[-1]
    assert all("Traceback" not in text for text in printed)
    assert [folder.name for folder in checkpoints(out)] == ["000000000032"]
    check_whole_and_resume(out, command)


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]


def worker(parent: int) -> int:
    """The last process that torchrun started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return max(map(int, found.stdout.split()))


@pytest.mark.long
def test_torchrun_starts_lost_ranks_again_and_they_go_on(tmp_path):
    out, settings = tmp_path / "run", ("images=320", "sample_every=320", "log_every=32")
    command = [*torchrun("--max-restarts", "1"), *train_command(out, *settings)]
    environment = {**os.environ, "IMPASTO_RANK_TIMEOUT": "0.3", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        wait_for_checkpoints(out, 1)
        os.kill(worker(process.pid), signal.SIGKILL)
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and "finished" in printed
    assert [row["images"] for row in read_metrics(out / "metrics.jsonl") if "loss/r1" in row] == [
        *range(32, 321, 32)
    ]


@pytest.mark.long
def test_sigterm_to_torchrun_saves_and_stops(tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen([*torchrun(), *train_command(out)], stderr=subprocess.PIPE, text=True) as process:
        wait_for_checkpoints(out, 1)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=120)
    assert "SIGTERM: saving a checkpoint and stopping" in printed
    check_whole_and_resume(out, train_command(out))
