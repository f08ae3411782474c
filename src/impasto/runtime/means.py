"""Running means of what a run logs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from impasto.runtime.dist import Ranks


class Means:
    """Sums in fp64 of numbers and scalar tensors [], on their device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        for name, value in metrics.items():
            summand = value.detach().double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + summand
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self, ranks: Ranks) -> dict[str, float]:
        """The means over all ranks since the last call; they start anew. All ranks call this together."""
        parts = ranks.gather_objects(self.state_dict())
        self.sums, self.counts = {}, {}
        names = dict.fromkeys(name for part in parts for name in part["sums"])
        return {
            name: sum(part["sums"].get(name, 0.0) for part in parts)
            / sum(part["counts"].get(name, 0) for part in parts)
            for name in names
        }

    def state_dict(self) -> dict[str, Any]:
        """For the JSON of a checkpoint."""
        sums = {name: float(total) for name, total in self.sums.items()}
        return {"sums": sums, "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
