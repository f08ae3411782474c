"""What a checkpoint holds of networks and optimisers, as tensors and JSON."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from impasto.runtime.checkpoint import CheckpointError

# How a step is computed, not what it computes: the present machine decides.
_IMPLEMENTATION = {"params", "foreach", "fused", "capturable", "differentiable"}
Named = Iterable[tuple[str, Tensor]]


class Restored(NamedTuple):
    """Names that a restored optimiser had no state for, and saved names that it has no parameter for."""

    fresh: list[str]
    unused: list[str]


def load_network(network: nn.Module, tensors: Mapping[str, Tensor], otherwise: str) -> None:
    """Take up all tensors of a network, of the same names and shapes. CheckpointError, which begins with
    `otherwise`, if they are of another."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{otherwise}: {str(error).splitlines()[-1].strip()}") from None


def optimizer_tensors(optimizer: Optimizer, named: Named) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of `optimizer` as tensors 'exp_avg/NAME', of the optimiser's own shapes, and JSON. `named` is
    `module.named_parameters()`, more names than the optimiser has are fine; ValueError for fewer."""
    names = {id(parameter): name for name, parameter in named}
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    shapes, groups = {}, []
    for group in optimizer.param_groups:
        members = [_name_of(parameter, names) for parameter in group["params"]]
        options = {key: _plain(value) for key, value in group.items() if key not in _IMPLEMENTATION}
        groups.append({"options": options, "parameters": members})
        for name, parameter in zip(members, group["params"], strict=True):
            shapes[name] = list(parameter.shape)
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{key}/{name}"] = value
                else:
                    values.setdefault(name, {})[key] = value
    return tensors, {"shapes": shapes, "groups": groups, "values": values}


def load_optimizer(
    optimizer: Optimizer,
    named: Named,
    tensors: Mapping[str, Tensor],
    saved: Mapping[str, Any],
    *,
    options: bool = True,
) -> Restored:
    """Give `optimizer` the state saved under the names of its parameters, bit for bit. A parameter whose name
    was not saved (a layer grown since) starts fresh. `options` also restores the learning rate and the like
    of each group, found by the first of its parameters that was saved. CheckpointError for a parameter of
    another shape than was saved, ValueError for one that `named` does not name."""
    names = {id(parameter): name for name, parameter in named}
    shapes, fresh = saved["shapes"], []
    by_name: dict[str, dict[str, Any]] = {name: dict(values) for name, values in saved["values"].items()}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        by_name.setdefault(name, {})[kind] = tensor.clone()
    group_of = {name: group["options"] for group in saved["groups"] for name in group["parameters"]}
    document = optimizer.state_dict()
    document["state"] = {}
    present = set()
    for group, described in zip(optimizer.param_groups, document["param_groups"], strict=True):
        members = [_name_of(parameter, names) for parameter in group["params"]]
        present.update(members)
        for name, parameter, index in zip(members, group["params"], described["params"], strict=True):
            if name not in shapes:
                fresh.append(name)
            elif shapes[name] != list(parameter.shape):
                found, wanted = tuple(shapes[name]), tuple(parameter.shape)
                raise CheckpointError(
                    f"optimiser state of '{name}' has shape {found}, the model {wanted};"
                    f" resume with the configuration of the run"
                )
            elif name in by_name:
                document["state"][index] = by_name[name]
        known = next((group_of[name] for name in members if name in group_of), None)
        if options and known is not None:
            described.update({key: _like(value, group.get(key)) for key, value in known.items()})
    optimizer.load_state_dict(document)
    return Restored(fresh, sorted(shapes.keys() - present))


def _name_of(parameter: Tensor, names: Mapping[int, str]) -> str:
    try:
        return names[id(parameter)]
    except KeyError:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} of the optimiser has no name"
        ) from None


def _plain(value: Any) -> Any:
    """JSON of nested tuples and scalar tensors."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Tensor, numpy.generic)):
        return value.item()
    return value


def _like(value: Any, present: Any) -> Any:
    """JSON as what the optimiser has now: tuples such as betas, a learning rate in a tensor."""
    if isinstance(present, tuple):
        return tuple(value)
    if isinstance(present, Tensor):
        return torch.full_like(present, value)
    return value
