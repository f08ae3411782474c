"""One of two processes that train together; run by test_two_ranks.py. Writes what it has to a file."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from impasto.aurora.launch import find_run
from impasto.aurora.trainer import step
from impasto.aurora.training_state import TrainingState
from impasto.data.scene_source import SceneSource
from impasto.runtime.dist import Ranks
from tests.aurora.test_guidance import TinyClip, TinyVision
from tests.aurora.test_training import WordEncoder

# Everything that could depend on who computes what: both penalties at every step, near misses, groups that
# are compared, losses through frozen networks, latents of real pictures.
SETTINGS = [
    "training.batch=8", "training.log_every=8", "training.r1_interval=2", "training.path_length_weight=0.1",
    "training.path_length_interval=2", "training.contrastive_weight=0.5", "discriminator.contrastive=true",
    "data.near_misses=0.5", "data.pictures_per_caption=2", "discriminator.deviation_group=2",
    "training.reconstruction_weight=1.0", "guidance.vision_aided_weight=0.5",
    "model.generator.moe.balance_scope=batch",
]  # fmt: skip


class Doubled(SceneSource):
    """Pictures in the default type."""

    def batch(self, positions) -> tuple[Tensor, list[str]]:
        images, captions = super().batch(positions)
        return images.to(torch.get_default_dtype()), captions


def train(ranks: Ranks, steps: int, dtype: torch.dtype, *settings: str) -> dict[str, Tensor]:
    """Weights, averages and running means after so many steps; the gradients of the first step too."""
    from impasto.aurora import trainer
    from impasto.aurora.guidance import Guides

    torch.set_default_dtype(dtype)
    run = find_run("aurora-debug", [*SETTINGS, *settings])
    torch.manual_seed(0)
    guides = Guides(clip=TinyClip(), vision=TinyVision())
    state = TrainingState.fresh(run, torch.device("cpu"), guides=guides)
    source, found = Doubled(run.model.resolution, run.data, seed=0), {}
    original = trainer._update

    def update(state, names, ranks):
        for name in names if state.images == 0 else ():
            network = state.trained[name].network
            ranks.all_reduce_gradients(list(network.parameters()))
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient/{name}.{key}"] = parameter.grad.clone()
        original(state, names, ranks)

    trainer._update = update
    for _ in range(steps):
        step(state, source, WordEncoder(), ranks)
    trainer._update = original
    for name, part in state.trained.items():
        found |= {f"weight/{name}.{key}": value for key, value in part.network.state_dict().items()}
    found |= {f"average/{key}": value for key, value in state.average.state_dict().items()}
    found["mean/path"] = state.path_mean
    logged = {f"logged/{key}": torch.tensor(value) for key, value in state.means.take(ranks).items()}
    return {key: value.detach().clone() for key, value in (found | logged).items()}


if __name__ == "__main__":
    out, steps, dtype = Path(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
    ranks = Ranks.from_environment("cpu")
    torch.save(train(ranks, steps, dtype), out / f"{ranks.rank}.pt")
    ranks.close()
