"""A rank that falls silent is named, and nothing of the run is lost."""

import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as distributed

from impasto.runtime import heartbeat
from impasto.runtime.checkpoint import checkpoints, verify_checkpoint
from impasto.runtime.dist import Ranks, RanksError
from impasto.runtime.heartbeat import HeartBeat, Silence
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


@pytest.mark.long
@pytest.mark.parametrize("what", ["SIGKILL", "SIGSTOP", "SIGTERM"])
def test_a_lost_rank_ends_the_run_with_a_line_and_a_whole_folder(tmp_path, what):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "impasto.cli", "train", "aurora-debug", "--out", str(out)]
    for setting in ("images=100000", "sample_every=6400", "checkpoint_every=32"):
        command += ["--set", f"training.{setting}"]
    with start_ranks(command, 2, IMPASTO_RANK_TIMEOUT="0.3") as processes:
        deadline = time.monotonic() + 240
        while len(checkpoints(out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        processes[1].send_signal(getattr(signal, what))
        printed, _ = processes[0].communicate(timeout=120)
        if what == "SIGTERM":
            assert processes[0].returncode == 0 and "another rank stopped" in printed
        else:
            assert processes[0].returncode == 2
            assert "rank 1 no longer answers" in printed.splitlines()[-1] and "Traceback" not in printed
    saved = checkpoints(out)
    assert saved and not list(out.rglob("*.tmp"))
    for folder in saved:
        verify_checkpoint(folder)
    again = [*command, "--time-limit", "0.05"]
    resumed = subprocess.run(again, capture_output=True, text=True, timeout=240)
    assert resumed.returncode == 0, resumed.stderr
