"""Sparse mixture of experts: a feed-forward layer with many experts of which each token visits one.

Routing is top-1 (Switch Transformer) and sees the token *and* the text-integrated latent w (Aurora, eq. 9).
Tokens are sorted by expert. On a CPU each expert takes its slice of them; on CUDA every projection is one
grouped matmul, and in bf16 nothing waits for the device. An expert without tokens still has (zero) gradients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.nn.modules import normal
from impasto.nn.precision import at_least_float32, autocast_dtype, without_autocast
from impasto.nn.style import Dense, ModulatedLinear, leaky_relu

ExpertKind = Literal["geglu", "gelu"]
RouterInput = Literal["feature_and_w", "feature", "w"]
BalanceScope = Literal["image", "batch", "global"]
GroupedMethod = Literal["sliced", "grouped", "padded"]
CPU_ROWS = 1024  # tokens at a time through an expert (measured)


@dataclass(frozen=True)
class Routing:
    """Where the tokens of one MoE layer went.

    expert_index [B, T] int64; probability [B, T], the chosen expert's; load [B, E], the share of a sample's
    tokens sent to each expert (no gradient); mean_probability [B, E]; z, scalar mean of logsumexp(logits)^2;
    kept [B, T] bool, False where a capacity made the token skip its expert.
    """

    expert_index: Tensor
    probability: Tensor
    load: Tensor
    mean_probability: Tensor
    z: Tensor
    kept: Tensor | None = None

    def on_grid(self, height: int, width: int) -> "Routing":
        """The same with expert_index and probability as [B, height, width] maps."""
        kept = None if self.kept is None else self.kept.unflatten(1, (height, width))
        return Routing(
            self.expert_index.unflatten(1, (height, width)),
            self.probability.unflatten(1, (height, width)),
            self.load,
            self.mean_probability,
            self.z,
            kept,
        )


def balance_loss(
    routing: Routing, scope: BalanceScope = "image", reduce_mean: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Switch Transformer's load balancing, E * sum_e f_e P_e, a scalar []: one when uniform, E when
    collapsed.

    f is the share of tokens, P the mean probability, taken over each image and averaged (the published code),
    over the batch, or over the batches of all ranks: `reduce_mean` averages f across ranks. It needs no
    gradient, so averaging the gradients of the ranks then gives the gradient of the global loss. Scalar.
    """
    experts = routing.load.shape[-1]
    load, probability = routing.load, routing.mean_probability
    if scope != "image":
        load, probability = load.mean(0, keepdim=True), probability.mean(0, keepdim=True)
    if scope == "global" and reduce_mean is not None:
        load = reduce_mean(load)
    return experts * (load * probability).sum(-1).mean()


class Router(nn.Module):
    """Modulated 1x1 convolution to one logit per expert, leaky ReLU, softmax; always in fp32 (or fp64).

    `router_input` is the ablation: "feature_and_w" (published), "feature" (a plain linear map of the token),
    or "w" (one decision for a whole image).
    """

    def __init__(
        self,
        width: int,
        experts: int,
        style_dim: int,
        *,
        router_input: RouterInput,
        kernels: int = 1,
        equalized: bool = True,
    ):
        super().__init__()
        self.router_input = router_input
        if router_input == "feature_and_w":
            self.logits: nn.Module = ModulatedLinear(
                width, experts, style_dim, kernels=kernels, activation="lrelu", equalized=equalized
            )
        else:
            seen = width if router_input == "feature" else style_dim
            self.logits = Dense(seen, experts, equalized=equalized)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, T, C], w [B, D] -> logits [B, T, E] in fp32 (fp64 stays)."""
        dtype = at_least_float32(x)
        with without_autocast(x):
            x, w = x.to(dtype), w.to(dtype)
            if self.router_input == "feature_and_w":
                return self._in_dtype(dtype)(x, w)
            if self.router_input == "feature":
                return leaky_relu(self._in_dtype(dtype)(x))
            return leaky_relu(self._in_dtype(dtype)(w))[:, None].expand(-1, x.shape[1], -1)

    def _in_dtype(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        """The logit layer with its parameters seen in `dtype` (they may be stored in bf16)."""
        if next(self.logits.parameters()).dtype == dtype:
            return self.logits
        seen = {name: parameter.to(dtype) for name, parameter in self.logits.named_parameters()}
        return lambda *inputs: torch.func.functional_call(self.logits, seen, inputs)


class Experts(nn.Module):
    """E two-layer perceptrons with equalised weights, run on tokens sorted by expert.

    "geglu" (published code): value * GELU(gate) with the exact erf GELU, value first in `weight_in`'s rows;
    "gelu": the two-layer MLP of the paper's text. weight_in [E, H or 2H, C], weight_out [E, C, H].
    """

    def __init__(
        self, experts: int, width: int, hidden: int, *, kind: ExpertKind = "geglu", equalized: bool = True
    ):
        super().__init__()
        self.kind: ExpertKind = kind
        rows = 2 * hidden if kind == "geglu" else hidden
        fan_in, fan_hidden = 1 / math.sqrt(width), 1 / math.sqrt(hidden)
        self.gain_in, self.gain_out = (fan_in, fan_hidden) if equalized else (1.0, 1.0)
        stored_in, stored_out = (1.0, 1.0) if equalized else (fan_in, fan_hidden)
        self.weight_in = nn.Parameter(normal(experts, rows, width, scale=stored_in))
        self.bias_in = nn.Parameter(torch.zeros(experts, rows))
        self.weight_out = nn.Parameter(normal(experts, width, hidden, scale=stored_out))
        self.bias_out = nn.Parameter(torch.zeros(experts, width))

    @property
    def count(self) -> int:
        """How many experts."""
        return self.weight_in.shape[0]

    def forward(self, x: Tensor, expert_index: Tensor, method: GroupedMethod | None = None) -> Tensor:
        """x [T, C], expert_index [T] int64 in [0, E) -> [T, C], each token through its own expert."""
        x = x.to(autocast_dtype(x))
        method = method or best_method(x)
        if method == "sliced":
            return self._sliced(x, expert_index)
        dtype = x.dtype
        if method == "grouped":
            slot, rows_per_expert, offsets = plan_grouped(expert_index, self.count, group_alignment(x))
        else:
            slot, rows_per_expert, offsets = plan_padded(expert_index, self.count)
        rows = rows_per_expert.shape[0]
        buffer = x.new_zeros(rows, x.shape[1]).index_copy(0, slot, x * self.gain_in)
        hidden = grouped_linear(buffer, self.weight_in.to(dtype), offsets)
        # A row's bias as a product with one-hot membership: its gradient is a matmul, not a scatter.
        hidden = hidden + F.one_hot(rows_per_expert, self.count).to(dtype) @ self.bias_in.to(dtype)
        hidden = self.activate(hidden) * self.gain_out
        output = grouped_linear(hidden, self.weight_out.to(dtype), offsets)
        bias = F.one_hot(expert_index, self.count).to(dtype) @ self.bias_out.to(dtype)
        return output.index_select(0, slot) + bias

    def _sliced(self, x: Tensor, expert_index: Tensor) -> Tensor:
        """Expert after expert on its slice of the sorted tokens, where the host knows the counts anyway: a
        slice stays in the cache from one projection to the next, and biases and gains come with the matmul.
        Without gradients in pieces, so that memory is used again instead of asked for."""
        counts = torch.bincount(expert_index, minlength=self.count).tolist()
        order = expert_index.argsort(stable=True)
        slices = x.index_select(0, order).split(counts)
        most = len(x) if torch.is_grad_enabled() else CPU_ROWS
        parameters = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        outputs = []
        for of_expert, *own in zip(slices, *(p.to(x.dtype).unbind() for p in parameters), strict=True):
            weight_in, bias_in, weight_out, bias_out = own
            for rows in of_expert.split(most):
                count, alignment = rows.shape[0], group_alignment(x)
                rows = F.pad(rows, (0, 0, 0, -count % alignment))
                hidden = torch.addmm(bias_in, rows, weight_in.t(), alpha=self.gain_in)
                hidden = self.activate(hidden)
                outputs.append(torch.addmm(bias_out, hidden, weight_out.t(), alpha=self.gain_out)[:count])
        return x.new_empty(x.shape).index_copy(0, order, torch.cat(outputs))

    def activate(self, hidden: Tensor) -> Tensor:
        """[..., H or 2H] -> [..., H]."""
        if self.kind == "geglu":
            value, gate = hidden.chunk(2, dim=-1)
            return value * F.gelu(gate)
        return F.gelu(hidden)


def best_method(x: Tensor) -> GroupedMethod:
    """For tokens x [T, C]: slices on a CPU, grouped matmul where CUDA has it (not in fp64, nor where a row is
    no multiple of 16 bytes), padding elsewhere."""
    if x.device.type == "cpu":
        return "sliced"
    supported = x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    aligned = x.shape[-1] * x.element_size() % 16 == 0  # the kernel reads 16-byte rows
    return "grouped" if supported and aligned and x.device.type == "cuda" else "padded"


def group_alignment(x: Tensor) -> int:
    """What the rows of a group of tokens x [T, C] are a multiple of: on CUDA 8, which are 16 bytes in bf16.
    On a CPU in bf16 64: there a matmul of a size not met before costs milliseconds of set-up, and token
    counts are new at every step."""
    if x.device.type == "cuda":
        return 8
    return 64 if x.dtype == torch.bfloat16 else 1


def plan_grouped(expert_index: Tensor, experts: int, align: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """A row for every token of expert_index [T] int64, such that the rows of one expert follow each other.

    Returns slot [T], rows_per_expert [R] (the expert that owns each row) and offsets [E] int32, the end of
    each expert's rows. Groups start at multiples of `align`; R depends on T and E alone, so the host need
    not know the counts, and the last group owns what is left over.
    """
    tokens, device = expert_index.shape[0], expert_index.device
    counts = F.one_hot(expert_index, experts).sum(0)
    sizes = (counts + align - 1) // align * align
    rows = (tokens + align - 1) // align * align + experts * align if align > 1 else tokens
    ends = sizes.cumsum(0)
    ends = torch.cat((ends[:-1], torch.full_like(ends[:1], rows)))
    starts = torch.cat((torch.zeros_like(ends[:1]), ends[:-1]))
    order = expert_index.argsort(stable=True)
    sorted_index = expert_index[order]
    first = counts.cumsum(0) - counts
    position = torch.arange(tokens, device=device) - first[sorted_index] + starts[sorted_index]
    slot = torch.empty_like(order).index_copy_(0, order, position)
    rows_per_expert = torch.searchsorted(ends, torch.arange(rows, device=device), right=True)
    return slot, rows_per_expert, ends.to(torch.int32)


def plan_padded(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `plan_grouped`, with every expert padded to the fullest one, for a batched matmul: slot [T],
    rows_per_expert [E * rows of the fullest], offsets None.

    Waits for the device once, to learn the largest count. On the meta device an even split is assumed.
    """
    tokens, device = expert_index.shape[0], expert_index.device
    counts = F.one_hot(expert_index, experts).sum(0)
    height = math.ceil(tokens / experts) if device.type == "meta" else max(int(counts.max()), 1)
    order = expert_index.argsort(stable=True)
    sorted_index = expert_index[order]
    first = counts.cumsum(0) - counts
    position = torch.arange(tokens, device=device) - first[sorted_index] + height * sorted_index
    slot = torch.empty_like(order).index_copy_(0, order, position)
    rows_per_expert = torch.arange(experts, device=device).repeat_interleave(height)
    return slot, rows_per_expert, None


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
    """Each group of rows of x [R, in] by its own weight [E, out, in]: [R, out]."""
    if offsets is not None:
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=offsets)
    return (x.unflatten(0, (weight.shape[0], -1)) @ weight.transpose(-2, -1)).flatten(0, 1)


class FeedForward(nn.Module):
    """One expert for every token: the dense baseline, and the published network where experts < 2."""

    def __init__(self, width: int, hidden: int, *, kind: ExpertKind = "geglu", equalized: bool = True):
        super().__init__()
        self.kind: ExpertKind = kind
        self.project_in = Dense(width, 2 * hidden if kind == "geglu" else hidden, equalized=equalized)
        self.project_out = Dense(hidden, width, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        hidden = self.project_in(x)
        if self.kind == "geglu":
            value, gate = hidden.chunk(2, dim=-1)
            return self.project_out(value * F.gelu(gate))
        return self.project_out(F.gelu(hidden))


class SparseFeedForward(nn.Module):
    """Router and experts: y = p * Expert_e(x), where e is the most probable expert and p its probability.

    `scale_by_probability=False` drops p, equation (9) of the paper as printed: then only the balance loss
    trains the router. `capacity` bounds the tokens of one sample an expert may take, by order of position;
    the others pass through unchanged, times p (published code, where the bound is never met). It exists for
    comparison with capacity-bound systems: skipped tokens are computed and then replaced, which costs
    nothing extra and keeps every shape static.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        style_dim: int,
        *,
        kind: ExpertKind = "geglu",
        router_input: RouterInput = "feature_and_w",
        router_kernels: int = 1,
        scale_by_probability: bool = True,
        capacity: int | None = None,
        equalized: bool = True,
    ):
        super().__init__()
        self.scale_by_probability, self.capacity = scale_by_probability, capacity
        self.router = Router(
            width,
            experts,
            style_dim,
            router_input=router_input,
            kernels=router_kernels,
            equalized=equalized,
        )
        self.experts = Experts(experts, width, hidden, kind=kind, equalized=equalized)

    def forward(self, x: Tensor, w: Tensor, method: GroupedMethod | None = None) -> tuple[Tensor, Routing]:
        """x [B, T, C], w [B, D] -> (y [B, T, C], Routing)."""
        logits = self.router(x, w)
        probabilities = logits.softmax(-1)
        probability, expert_index = probabilities.max(-1)
        y = self.experts(x.flatten(0, 1), expert_index.flatten(), method).view_as(x)
        one_hot = F.one_hot(expert_index, self.experts.count)
        kept = None
        if self.capacity is not None:
            rank = (one_hot.cumsum(1) * one_hot).sum(-1)
            kept = rank <= self.capacity
            y = torch.where(kept[..., None], y, x.to(y.dtype))
        if self.scale_by_probability:
            y = y * probability[..., None].to(y.dtype)
        routing = Routing(
            expert_index=expert_index,
            probability=probability,
            load=one_hot.to(probabilities.dtype).mean(1),
            mean_probability=probabilities.mean(1),
            z=logits.logsumexp(-1).square().mean(),
            kept=kept,
        )
        return y, routing
