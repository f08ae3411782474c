"""Exponential moving average of weights whose memory is counted in images, not steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto.runtime.checkpoint import CheckpointError


class AverageByImages:
    """Averages of the parameters of a module, in float32 or better; buffers are copied.

    After `half_life_images` more images what was averaged before weighs half. While fewer than
    half_life_images / ramp_up images were seen the half-life is `ramp_up` times the images seen, as in
    StyleGAN2 (Karras et al., training loop): the poor first weights are forgotten fast. ramp_up=None: never.
    """

    def __init__(
        self, source: nn.Module | Mapping[str, Tensor], half_life_images: float, ramp_up: float | None = 0.05
    ) -> None:
        """`source` is a module, or its state dict; of a state dict every floating tensor is averaged.
        ValueError unless `half_life_images` and `ramp_up` are above 0."""
        if half_life_images <= 0 or (ramp_up is not None and ramp_up <= 0):
            raise ValueError(f"half_life_images={half_life_images} and ramp_up={ramp_up} should be above 0")
        self.half_life_images = half_life_images
        self.ramp_up = ramp_up
        averaged, copied = _split(source)
        self.parameters = {name: _wide(tensor).clone() for name, tensor in averaged.items()}
        self.buffers = {name: tensor.detach().clone() for name, tensor in copied.items()}

    def decay(self, batch_images: int, images_seen: int) -> float:
        """Weight of the old average in an update by `batch_images`, 0 when none were seen before."""
        half_life = self.half_life_images
        if self.ramp_up is not None:
            half_life = min(half_life, images_seen * self.ramp_up)
        return 0.5 ** (batch_images / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, source: nn.Module | Mapping[str, Tensor], batch_images: int, images_seen: int) -> float:
        """Once after each optimiser step, with the images of that step over all accumulation rounds and
        ranks, and the images seen before it. Returns the decay used. Tensors keep the shapes they had at the
        start; ValueError where the names are others."""
        averaged, copied = _split(source)
        if averaged.keys() != self.parameters.keys() or copied.keys() != self.buffers.keys():
            odd = sorted((averaged.keys() | copied.keys()) ^ (self.parameters.keys() | self.buffers.keys()))
            raise ValueError(
                f"'{(odd or ['a tensor'])[0]}' changed since the average was begun; make a new one"
            )
        decay = self.decay(batch_images, images_seen)
        averages = list(self.parameters.values())
        present = [_wide(averaged[name]) for name in self.parameters]
        if averages:
            torch._foreach_lerp_(averages, present, 1.0 - decay)
        if copied:
            torch._foreach_copy_(list(self.buffers.values()), [copied[name] for name in self.buffers])
        return decay

    def state_dict(self) -> dict[str, Tensor]:
        """Averages and buffers, of the module's names and shapes; not copies."""
        return self.parameters | self.buffers

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> list[str]:
        """Continue from a saved average. Names that were not saved (layers grown since) keep the weights the
        average was begun with and are returned. CheckpointError for a tensor of another shape."""
        fresh = []
        for name, tensor in self.state_dict().items():
            if name not in state:
                fresh.append(name)
            elif state[name].shape != tensor.shape:
                found, wanted = tuple(state[name].shape), tuple(tensor.shape)
                raise CheckpointError(
                    f"the average of '{name}' has shape {found}, the model {wanted};"
                    f" resume with the configuration of the run"
                )
            else:
                tensor.copy_(state[name])
        return fresh

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Give `module` the averaged weights and the buffers, in its own number type. ValueError where its
        names are not those of the average."""
        target = _tensors(module.state_dict(keep_vars=True))
        if target.keys() != self.state_dict().keys():
            odd = sorted(target.keys() ^ self.state_dict().keys())
            raise ValueError(f"'{odd[0]}' is not in both the average and the module")
        for name, tensor in self.state_dict().items():
            target[name].copy_(tensor)


def _split(source: nn.Module | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(to average, to copy)."""
    if isinstance(source, nn.Module):
        tensors = _tensors(source.state_dict(keep_vars=True))
        chosen = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    else:
        tensors = _tensors(source)
        chosen = {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    averaged = {name: tensor.detach() for name, tensor in tensors.items() if name in chosen}
    copied = {name: tensor.detach() for name, tensor in tensors.items() if name not in chosen}
    return averaged, copied


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: in bfloat16 an average would not move."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
