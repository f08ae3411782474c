"""64 clients at once for a minute; and a server that is stopped under load."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

import impasto
from impasto.drawing import draw
from tests.serve.running import process

CLIENTS = Path(__file__).with_name("clients.py")
MODEL, THREADS = "aurora-scenes-32", {"OMP_NUM_THREADS": "1"}


def started_clients(url: str, clients: int, seconds: float) -> subprocess.Popen:
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, str(CLIENTS), host, port, str(clients), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def offline_rate(pipe, seconds: float) -> float:
    """Pictures a second of whole batches, files included, in this process."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        prompts = [f"a red circle {n % 7}" for n in range(8)]
        drawn = draw(pipe, prompts, range(count, count + 8), {}, batch_size=8)
        count += len([one.png() for one in drawn])
    return count / (time.perf_counter() - began)


@pytest.mark.long
def test_a_minute_of_64_clients(tmp_path):
    pipe = impasto.load(MODEL)
    draw(pipe, ["warm"], [0], {}, batch_size=8)
    log, arguments = tmp_path / "log", ("--model", MODEL, "--no-page", "--queue", "40", "--upscaler", "none")
    with process(log, *arguments, **THREADS) as running:
        before = offline_rate(pipe, 15)
        clients = started_clients(running.url, 64, 60)
        memory, server = [], psutil.Process(running.process.pid)
        while clients.poll() is None:
            memory.append(server.memory_info().rss / 2**20)
            time.sleep(1)
        told = json.loads(clients.stdout.read())
        after = offline_rate(pipe, 15)
        metrics = httpx.get(f"{running.url}/metrics").text
    assert set(told["seen"]) == {"200", "429"}, told
    drawn = re.search(r'impasto_rows_total\{model="[^"]+",work="draw"\} ([\d.]+)', metrics)
    assert float(drawn[1]) == told["seen"]["200"]  # what was drawn was answered
    settled = memory[len(memory) // 3 :]
    growth = sum(settled[-10:]) / 10 - sum(settled[:10]) / 10
    assert growth < 30, memory  # MiB; addresses of pictures are kept, about 2 kB each
    own = told["seconds"] - told["cpu"] / os.cpu_count()
    rate, offline = told["seen"]["200"] / own, (before + after) / 2
    print(f"{told}; {rate:.1f} pictures/s, offline {before:.1f} and {after:.1f}: {rate / offline:.2f}")
    print(f"memory {settled[0]:.0f} to {settled[-1]:.0f} MiB")
    assert rate >= 0.7 * offline


@pytest.mark.long
def test_stopped_under_load_it_loses_nothing_it_accepted(tmp_path):
    log = tmp_path / "log"
    with process(log, "--model", MODEL, "--no-page", "--upscaler", "none", **THREADS) as running:
        clients = started_clients(running.url, 64, 60)
        time.sleep(5)
        running.process.send_signal(signal.SIGTERM)
        told = json.loads(clients.communicate(timeout=90)[0])
        assert running.process.wait(30) == 0
    assert told["seen"]["200"] > 0 and "cut" not in told["seen"], told
    assert set(told["seen"]) <= {"200", "429", "not taken", "503"}, told
    # Every request that the log says came in was answered: 200s at both ends agree.
    lines = re.findall(r"POST v1/images/generations (\d+)", log.read_text())
    assert lines.count("200") == told["seen"]["200"] and "500" not in lines
    assert "Traceback" not in log.read_text()
