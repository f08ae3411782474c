"""Runs end in good order."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from impasto.runtime.guards import Deadline, Graceful, NonFiniteError, NonFiniteGuard

LOOP = """
import time
from impasto.runtime.guards import Graceful
with Graceful() as graceful:
    print("running", flush=True)
    while not graceful.requested:
        time.sleep(0.01)
    print("saved after", graceful.reason, flush=True)
    time.sleep({linger})
"""


def run_loop(linger):
    command = [sys.executable, "-c", LOOP.format(linger=linger)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    return process


def test_sigterm_ends_a_loop_in_good_order():
    process = run_loop(linger=0)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert output == "saved after SIGTERM\n" and process.returncode == 0
    assert errors.strip() == "SIGTERM: saving a checkpoint and stopping; once more stops at once"


def test_a_second_signal_stops_at_once():
    process = run_loop(linger=60)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saved after SIGINT\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt: SIGTERM after SIGINT" in errors and process.returncode != 0


def test_handlers_are_given_back(capfd):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Graceful() as graceful:
        os.kill(os.getpid(), signal.SIGTERM)
        assert graceful.requested and graceful.reason == "SIGTERM"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    seen = []
    thread = threading.Thread(target=lambda: seen.append(Graceful().__enter__().requested))
    thread.start()
    thread.join()
    assert seen == [False]  # no handlers outside the main thread, and no error


def test_deadline():
    now = [1000.0]
    deadline = Deadline(2, clock=lambda: now[0])
    assert deadline.seconds_left == 120 and not deadline.passed
    now[0] += 120
    assert deadline.passed
    assert not Deadline(None).passed and Deadline(None).seconds_left == float("inf")
    with pytest.raises(ValueError, match="above 0"):
        Deadline(0)


def test_non_finite_gradients_are_zeroed_and_counted():
    guard = NonFiniteGuard(max_consecutive=3)
    good = [torch.tensor([1.0, -2.0]), None, torch.empty(0), torch.tensor(3.0).double()]
    assert guard.clean(good) == 0 and guard.bad_steps == 0
    large = torch.full((4,), 3e38)  # its norm overflows
    assert guard.clean([large]) == 0 and guard.bad_steps == 0 and large[0] > 2e38
    bad = [
        torch.tensor([float("nan"), 2.0, float("inf")]),
        torch.tensor([[float("-inf")], [1.5]], dtype=torch.bfloat16),
        torch.tensor([4.0, 1e300], dtype=torch.float64),
    ]
    assert guard.clean(bad) == 3
    assert [t.flatten().tolist() for t in bad] == [[0.0, 2.0, 0.0], [0.0, 1.5], [4.0, 1e300]]
    assert (guard.bad_steps, guard.consecutive) == (1, 1)


def test_it_stops_after_k_in_a_row_and_names_the_checkpoint(tmp_path):
    guard = NonFiniteGuard(max_consecutive=3, name="discriminator")
    nan = float("nan")
    for _ in range(5):  # never three in a row
        guard.clean([torch.tensor([nan])])
        guard.clean([torch.tensor([nan])])
        guard.clean([torch.tensor([1.0])])
    guard.clean([torch.tensor([nan])])
    resumed = NonFiniteGuard(max_consecutive=3, name="discriminator")
    resumed.load_state_dict(guard.state_dict())
    resumed.clean([torch.tensor([nan])], 640, tmp_path)
    gradient = torch.tensor([nan, 1.0])
    with pytest.raises(NonFiniteError) as caught:
        resumed.clean([gradient], 672, tmp_path)
    message = str(caught.value)
    assert message.startswith("discriminator: not finite in 3 steps in a row, at 672 images; resume from")
    assert str(tmp_path) in message and "\n" not in message
    assert resumed.bad_steps == 13 and gradient.tolist() == [0.0, 1.0]
    with pytest.raises(NonFiniteError, match="no checkpoint yet"):
        NonFiniteGuard(1).clean([torch.tensor([nan])])
