"""Run by test_dist under two ranks: each trains on its half of a batch; the main one writes what came out."""

import sys

import torch
from torch import nn

from impasto.runtime import dist
from impasto.runtime.dist import Ranks

BATCH = 8


class Network(nn.Module):
    """`sometimes` is only used for rows below 4, which are all on rank 0; `never` not at all."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(5, 7)
        self.coarse = nn.Linear(7, 7).bfloat16()
        self.sometimes = nn.Linear(5, 3)
        self.never = nn.Linear(5, 3)
        self.frozen = nn.Linear(5, 7).requires_grad_(False)

    def forward(self, x: torch.Tensor, first_row: int) -> torch.Tensor:
        y = self.first(x).tanh() + self.frozen(x)
        rows = y.square().sum(1) + 0.1 * self.coarse(y.bfloat16()).float().sum(1)
        chosen = x[: max(0, 4 - first_row)]
        if len(chosen):
            rows = torch.cat([rows[: len(chosen)] + self.sometimes(chosen).sum(1), rows[len(chosen) :]])
        return rows.mean()


def batch() -> torch.Tensor:
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(5))


def main(path: str) -> None:
    torch.set_num_threads(1)
    dist.BUCKET_BYTES = 150  # several buckets
    ranks = Ranks.from_environment("cpu")
    network = Network(seed=ranks.rank)
    ranks.broadcast(network.state_dict().values())
    share = BATCH // ranks.world_size
    loss = network(batch()[ranks.rank * share : (ranks.rank + 1) * share], ranks.rank * share)
    loss.backward()
    before = network.sometimes.weight.grad is None
    ranks.all_reduce_gradients(network.parameters())
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    with torch.no_grad():  # as optimisers do, weight decay included: pass over what has no gradient
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.mul_(0.99).sub_(parameter.grad, alpha=0.1)
    report = {
        "rank": ranks.rank,
        "was_none": before,
        "gradients": gradients,
        "weights": network.state_dict(),
        "loss": ranks.mean_across_ranks(loss),
        "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
    }
    reports = ranks.gather_objects(report)
    ranks.barrier()
    if ranks.is_main:
        torch.save(reports, path)
    ranks.close()


if __name__ == "__main__":
    main(sys.argv[1])
