"""Run by test_checkpoint: `killed_while_saving.py RUN ROUNDS`. Children save checkpoints in a loop, the
parent kills each at a random moment and then checks that nothing it was told of is lost."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from impasto.runtime.checkpoint import (
    checkpoints,
    clean_leftovers,
    images_of,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)

SIZE = 100_000


def contents(images: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {"w": torch.full((SIZE,), float(images))} for name in ("generator", "discriminator", "average")
    }


def child(run: Path, images: int, told: int) -> None:
    """Saves images+1, +2, ..., each second one twice, and says so after each."""
    while True:
        images += 1
        for _ in range(1 + images % 2):
            save_checkpoint(run, images, contents(images), {"images": images})
            os.write(told, f"{images}\n".encode())
        prune(run, keep_last=2)


def seconds_to_save(run: Path) -> float:
    """How long one checkpoint takes here and now, so that a busy machine is given as many saves as an idle
    one."""
    started = time.perf_counter()
    for _ in range(3):
        save_checkpoint(run, 0, contents(0), {"images": 0})
    return (time.perf_counter() - started) / 3


def one_round(run: Path, images: int, rng: random.Random) -> int:
    """Start a child after `images`, kill it within its first six saves; the number it said last."""
    longest = 6 * seconds_to_save(run.with_name("pace"))
    hear, tell = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(hear)
            child(run, images, tell)
        finally:
            os._exit(1)
    os.close(tell)
    time.sleep(rng.uniform(0.0, longest))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with os.fdopen(hear) as pipe:
        lines = pipe.read().split()
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return int(lines[-1]) if lines else images


def main() -> None:
    torch.set_num_threads(1)
    run, rounds = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    images = leftovers = 0
    for _ in range(rounds):
        said = one_round(run, images, rng)
        leftovers += len(clean_leftovers(run))
        path = latest_checkpoint(run, warn=lambda line: sys.exit(f"warned: {line}"))
        found = images_of(path) if path else 0
        assert said <= found <= said + 1, f"said {said}, found {found}"
        for path in checkpoints(run):
            tensors, state = load_checkpoint(path)
            assert state["images"] == images_of(path)
            assert all(
                torch.equal(tensors[name]["w"], t["w"]) for name, t in contents(images_of(path)).items()
            )
        images = found
    print(json.dumps({"rounds": rounds, "saved": images, "leftovers": leftovers}))


if __name__ == "__main__":
    main()
