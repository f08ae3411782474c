"""All of runtime together: a run that was abandoned and resumed equals one that was not, bit for bit."""

from pathlib import Path

import numpy
import torch
from torch import nn

from impasto.runtime.checkpoint import (
    CHECKPOINTS,
    images_of,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from impasto.runtime.ema import AverageByImages
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.log import MetricsWriter, read_metrics
from impasto.runtime.training_state import load_optimizer, optimizer_tensors

BATCH, INTERVAL = 8, 64


def train(run: Path, total: int, resume: bool = False) -> dict[str, torch.Tensor]:
    """A loop as trainers have it. Dropout, a shuffled data order and a bad gradient now and then."""
    torch.manual_seed(7)
    module = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, betas=(0.0, 0.99))
    average = AverageByImages(module, half_life_images=100, ramp_up=0.5)
    guard = NonFiniteGuard(max_consecutive=100)
    images = 0
    with MetricsWriter(run / "metrics.jsonl") as metrics:
        if resume:
            path = latest_checkpoint(run)
            images = images_of(path)
            tensors, state = load_checkpoint(path, verified=True)
            module.load_state_dict(tensors["generator"])
            average.load_state_dict(tensors["average"])
            load_optimizer(optimizer, module.named_parameters(), tensors["optimizer"], state["optimizer"])
            guard.load_state_dict(state["guard"])
            metrics.truncate_to(images)
        while images < total:
            data = numpy.random.default_rng(
                (7, images)
            )  # all that is random is of (seed, images), as in trainers
            torch.manual_seed(images)
            x = torch.from_numpy(data.standard_normal((BATCH, 6), dtype="float32"))
            if data.random() < 0.2:
                x[0, 0] = float("nan")
            optimizer.zero_grad()
            loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            bad = guard.clean([parameter.grad for parameter in module.parameters()], images)
            optimizer.step()
            average.update(module, BATCH, images)
            images += BATCH
            metrics.write(images, {"loss": loss, "bad": bad, "bad_steps": guard.bad_steps})
            if images % INTERVAL == 0:
                tensors, described = optimizer_tensors(optimizer, module.named_parameters())
                metrics.sync()
                save_checkpoint(
                    run,
                    images,
                    {
                        "generator": module.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": tensors,
                    },
                    {"optimizer": described, "guard": guard.state_dict()},
                )
                prune(run)
    return module.state_dict() | {f"average.{name}": t for name, t in average.state_dict().items()}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 512)
    train(tmp_path / "parts", 256 + 40)  # the last 40 are lost
    (tmp_path / "parts" / CHECKPOINTS / "000000000256" / "generator.safetensors").write_bytes(b"")  # and this
    resumed = train(tmp_path / "parts", 512, resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    assert lines[0] == lines[1] and len(lines[0]) == 512 / BATCH and lines[0][-1]["bad_steps"] > 3
    for name in ("000000000448", "000000000512"):
        files = [tmp_path / run / CHECKPOINTS / name for run in ("whole", "parts")]
        for file in ("manifest.json", "state.json", "generator.safetensors", "optimizer.safetensors"):
            assert (files[0] / file).read_bytes() == (files[1] / file).read_bytes()
