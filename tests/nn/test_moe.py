"""Sparse experts against a loop over experts, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F

from impasto.nn.moe import (
    Experts,
    FeedForward,
    Router,
    SparseFeedForward,
    balance_loss,
    plan_grouped,
    plan_padded,
)
from tests.conftest import relative_difference


def looped(experts: Experts, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """One pass per expert with a boolean mask: the published way."""
    y = torch.zeros_like(x)
    for expert in range(experts.count):
        mine = index == expert
        hidden = F.linear(x[mine], experts.weight_in[expert] * experts.gain_in, experts.bias_in[expert])
        if experts.kind == "geglu":
            value, gate = hidden.chunk(2, -1)
            hidden = value * F.gelu(gate)
        else:
            hidden = F.gelu(hidden)
        out = F.linear(hidden, experts.weight_out[expert] * experts.gain_out, experts.bias_out[expert])
        y = y.masked_scatter(mine[:, None], out)
    return y


def randomised_experts(kind: str, dtype=torch.float32) -> Experts:
    experts = Experts(5, 8, 16, kind=kind).to(dtype)
    with torch.no_grad():
        experts.bias_in.normal_()
        experts.bias_out.normal_()
    return experts


@pytest.mark.parametrize("kind", ["geglu", "gelu"])
@pytest.mark.parametrize("tokens", [1, 7, 64])
@pytest.mark.parametrize("method", ["sliced", "grouped", "padded"])
def test_sorted_experts_equal_the_loop_in_value_and_gradient(method, tokens, kind):
    experts = randomised_experts(kind)
    x = torch.randn(tokens, 8, requires_grad=True)
    index = torch.randint(0, 4, (tokens,))  # expert 4 never gets a token
    weights = torch.randn(tokens, 8)
    inputs = (x, *experts.parameters())
    expected = looped(experts, x, index)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    actual = experts(x, index, method)
    gradients = torch.autograd.grad((actual * weights).sum(), inputs)
    assert relative_difference(actual, expected) < 1e-5
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-7)


def test_an_expert_without_tokens_stays_in_the_graph_with_zero_gradient():
    for method in ("sliced", "grouped", "padded"):
        experts = randomised_experts("geglu")
        experts(torch.randn(6, 8), torch.zeros(6, dtype=torch.long), method).sum().backward()
        for parameter in experts.parameters():
            assert parameter.grad is not None
            assert float(parameter.grad[0].abs().max()) > 0
            assert float(parameter.grad[1:].abs().max()) == 0


def test_double_precision_passes_gradcheck_twice():
    experts = randomised_experts("geglu", torch.float64)
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 2, 2, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda x, *_: experts(x, index), (x, *experts.parameters()))
    assert torch.autograd.gradgradcheck(lambda x: experts(x, index), (x,))


@pytest.mark.parametrize("method", ["sliced", "grouped"])
def test_second_order_gradients_equal_those_of_the_padded_form(method):
    experts = randomised_experts("geglu")
    x, index = torch.randn(9, 8, requires_grad=True), torch.randint(0, 5, (9,))

    def penalty(method):
        (gradient,) = torch.autograd.grad(experts(x, index, method).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (x, experts.weight_in, experts.weight_out))

    for actual, padded in zip(penalty(method), penalty("padded"), strict=True):
        assert torch.allclose(actual, padded, atol=1e-4 * float(padded.abs().max()))


def test_bfloat16_experts_stay_near_single_precision():
    experts = Experts(4, 32, 64)
    x, index = torch.randn(40, 32), torch.randint(0, 4, (40,))
    low = experts.bfloat16()(x.bfloat16(), index)
    assert low.dtype == torch.bfloat16
    assert relative_difference(low.float(), experts.float()(x, index)) < 0.05


@pytest.mark.parametrize("align", [1, 8])
def test_plans_give_every_token_a_row_of_its_expert(align, monkeypatch):
    index = torch.tensor([3, 0, 3, 1, 3, 0, 3])
    slot, rows_per_expert, ends = plan_grouped(index, 5, align)
    assert ends is not None and int(ends[-1]) == len(rows_per_expert)
    assert len(set(slot.tolist())) == len(index)
    assert torch.equal(rows_per_expert[slot], index)
    starts = torch.cat((torch.zeros(1, dtype=ends.dtype), ends[:-1]))
    assert all(int(start) % align == 0 for start in starts)
    for row, expert in enumerate(rows_per_expert.tolist()):
        assert int(starts[expert]) <= row < int(ends[expert])
    slot, rows_per_expert, ends = plan_padded(index, 5)
    assert ends is None and torch.equal(rows_per_expert[slot], index)


@pytest.mark.parametrize("method", ["sliced", "grouped"])
def test_aligned_groups_compute_the_same(method, monkeypatch):
    experts = randomised_experts("geglu")
    x, index = torch.randn(21, 8, requires_grad=True), torch.randint(0, 5, (21,))
    inputs = (x, *experts.parameters())
    plain = torch.autograd.grad(experts(x, index, method).square().sum(), inputs)
    monkeypatch.setattr("impasto.nn.moe.group_alignment", lambda x: 8)
    aligned = torch.autograd.grad(experts(x, index, method).square().sum(), inputs)
    for a, b in zip(aligned, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))


def layer(**options) -> SparseFeedForward:
    return SparseFeedForward(8, 16, 4, 6, **options)


def test_output_is_the_experts_times_the_probability():
    moe = layer()
    x, w = torch.randn(2, 9, 8), torch.randn(2, 6)
    y, routing = moe(x, w)
    probabilities = moe.router(x, w).softmax(-1)
    assert torch.equal(routing.expert_index, probabilities.argmax(-1))
    expected = looped(moe.experts, x.flatten(0, 1), routing.expert_index.flatten()).view_as(x)
    assert relative_difference(y, expected * probabilities.max(-1).values[..., None]) < 1e-5
    unscaled = layer(scale_by_probability=False)
    unscaled.load_state_dict(moe.state_dict())
    assert relative_difference(unscaled(x, w)[0], expected) < 1e-5


def test_router_learns_through_the_probability_and_not_without_it():
    for scaled in (True, False):
        moe = layer(scale_by_probability=scaled)
        moe(torch.randn(2, 9, 8), torch.randn(2, 6))[0].sum().backward()
        reached = moe.router.logits.bank.weight.grad is not None
        assert reached == scaled


@pytest.mark.parametrize("router_input", ["feature_and_w", "feature", "w"])
def test_router_inputs(router_input):
    router = Router(8, 4, 6, router_input=router_input)
    x, w = torch.randn(2, 9, 8), torch.randn(2, 6)
    logits = router(x, w)
    assert logits.shape == (2, 9, 4)
    sees_w = not torch.allclose(router(x, -w), logits)
    sees_x = not torch.allclose(router(-x, w), logits)
    assert (sees_x, sees_w) == (router_input != "w", router_input != "feature")
    half = router.bfloat16()(x.bfloat16(), w.bfloat16())
    assert half.dtype == torch.float32  # routing never loses precision it was given
    with torch.autocast("cpu", torch.bfloat16):
        assert router.float()(x, w).dtype == torch.float32


def test_balance_loss_by_hand():
    moe = layer()
    _, routing = moe(torch.randn(3, 10, 8), torch.randn(3, 6))
    p = routing.mean_probability.detach()
    f = F.one_hot(routing.expert_index, 4).float().mean(1)
    per_image = sum(4 * float((f[b] * p[b]).sum()) for b in range(3)) / 3
    assert balance_loss(routing, "image").item() == pytest.approx(per_image, rel=1e-5)
    assert balance_loss(routing, "batch").item() == pytest.approx(
        4 * float((f.mean(0) * p.mean(0)).sum()), rel=1e-5
    )
    doubled = balance_loss(routing, "global", lambda load: 2 * load)
    assert doubled.item() == pytest.approx(2 * balance_loss(routing, "batch").item(), rel=1e-5)
    logits = moe.router(torch.zeros(1, 5, 8), torch.zeros(1, 6))
    assert logits.shape == (1, 5, 4)


def test_capacity_passes_late_tokens_through_by_position():
    moe = layer(capacity=2)
    x, w = torch.randn(2, 12, 8), torch.randn(2, 6)
    y, routing = moe(x, w)
    free = layer()
    free.load_state_dict(moe.state_dict())
    expected, _ = free(x, w)
    assert routing.kept is not None
    for b in range(2):
        seen: dict[int, int] = {}
        for t in range(12):
            expert = int(routing.expert_index[b, t])
            seen[expert] = seen.get(expert, 0) + 1
            kept = seen[expert] <= 2
            assert bool(routing.kept[b, t]) == kept
            wanted = expected[b, t] if kept else x[b, t] * routing.probability[b, t]
            assert torch.allclose(y[b, t], wanted, atol=1e-5)


def test_dense_feed_forward_is_an_expert():
    dense, experts = FeedForward(8, 16), Experts(1, 8, 16)
    with torch.no_grad():
        experts.weight_in[0], experts.weight_out[0] = dense.project_in.weight, dense.project_out.weight
    x = torch.randn(5, 8)
    assert relative_difference(experts(x, torch.zeros(5, dtype=torch.long)), dense(x)) < 1e-5


def test_load_counts_shares():
    _, routing = layer()(torch.randn(2, 10, 8), torch.randn(2, 6))
    assert torch.allclose(routing.load.sum(-1), torch.ones(2))
    assert routing.on_grid(2, 5).expert_index.shape == (2, 2, 5)


@pytest.mark.parametrize("router_input", ["feature_and_w", "feature", "w"])
def test_the_whole_layer_passes_gradcheck_in_double_precision(router_input):
    """Routing is constant near a point, so the layer is differentiable there, twice; losses included."""
    moe = SparseFeedForward(4, 6, 3, 5, router_input=router_input).double()
    x = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def call(x, w, *_):
        y, routing = moe(x, w)
        return y, balance_loss(routing), balance_loss(routing, "batch"), routing.z

    assert torch.autograd.gradcheck(call, (x, w, *moe.parameters()))
    assert torch.autograd.gradgradcheck(lambda x, w: moe(x, w)[0], (x, w))


def test_the_dense_layer_passes_gradcheck_in_double_precision():
    for kind in ("geglu", "gelu"):
        dense = FeedForward(4, 6, kind=kind).double()
        x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *_, layer=dense: layer(x), (x, *dense.parameters()))
        assert torch.autograd.gradgradcheck(dense, (x,))
