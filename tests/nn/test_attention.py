"""Attention by distance and by dot product against direct formulas."""

import pytest
import torch

from impasto.nn.attention import _distance_factors, attend, merge_heads, split_heads
from tests.conftest import relative_difference


def inputs(queries=6, keys=7, dtype=torch.float64):
    shape = (2, 3)
    return (
        torch.randn(*shape, queries, 4, dtype=dtype, requires_grad=True),
        torch.randn(*shape, keys, 4, dtype=dtype, requires_grad=True),
        torch.randn(*shape, keys, 5, dtype=dtype, requires_grad=True),
    )


def reference(q, k, v, distance, scale, mask):
    difference = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)
    logits = {
        "l2": -difference.sqrt(),
        "l2_squared": -difference,
        "dot": (q[..., :, None, :] * k[..., None, :, :]).sum(-1),
    }[distance] * scale
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None], float("-inf"))
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("distance", ["l2", "l2_squared", "dot"])
def test_attend_equals_the_formula(distance, fused, masked):
    q, k, v = inputs()
    mask = torch.rand(2, 7) < 0.6 if masked else None
    if mask is not None:
        mask[:, 0] = True
    result = attend(q, k, v, distance=distance, scale=0.7, key_mask=mask, fused=fused)
    assert relative_difference(result, reference(q, k, v, distance, 0.7, mask)) < 1e-10


@pytest.mark.parametrize("rows", [16, 64])
def test_plain_distance_agrees_with_cdist_also_when_tied(rows):
    """cdist is what the published code calls. Above 25 rows it computes as we do, with a noisy diagonal."""
    q, k = torch.randn(2, 3, rows, 16), torch.randn(2, 3, rows, 16)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    for keys in (q, k):
        expected = torch.softmax(-torch.cdist(q, keys, **exact) * 0.25, -1) @ q
        assert relative_difference(attend(q, keys, q, distance="l2", scale=0.25), expected) < 1e-5


def test_masked_keys_have_no_influence():
    q, k, v = inputs()
    mask = torch.tensor([[True, True, False, False, True, True, True]] * 2)
    other = v.detach().clone()
    other[:, :, 2:4] = 1e3
    far = k.detach().clone()
    far[:, :, 2:4] = -50.0
    for distance in ("l2", "l2_squared", "dot"):
        a = attend(q, k, v, distance=distance, scale=0.5, key_mask=mask)
        b = attend(q, far, other, distance=distance, scale=0.5, key_mask=mask)
        assert torch.allclose(a, b)


@pytest.mark.parametrize("distance", ["l2", "l2_squared", "dot"])
def test_gradients_of_first_and_second_order(distance):
    q, k, v = inputs(3, 4)

    def call(q, k, v):
        return attend(q, k, v, distance=distance, scale=0.5, fused=False)

    assert torch.autograd.gradcheck(call, (q, k, v))
    assert torch.autograd.gradgradcheck(call, (q, k, v))


def test_tied_queries_and_keys_have_finite_gradients_at_zero_distance():
    x = torch.randn(1, 1, 30, 4, requires_grad=True)
    y = attend(x, x, x, distance="l2", scale=0.5).square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert bool(gradient.isfinite().all()) and bool(second.isfinite().all())
    exact = x.detach().double().requires_grad_()
    z = attend(exact, exact, exact, distance="l2", scale=0.5).square().sum()
    (expected,) = torch.autograd.grad(z, exact)
    assert relative_difference(gradient.double(), expected) < 1e-3


def test_heads_split_and_merge():
    x = torch.randn(2, 5, 12)
    assert torch.equal(merge_heads(split_heads(x, 3)), x)
    assert torch.equal(split_heads(x, 3)[:, 1], x[:, :, 4:8])


def test_squared_distance_in_single_precision():
    q, k = torch.randn(50, 64), torch.randn(40, 64)
    expected = torch.cdist(0.3 * q.double(), 0.3 * k.double()).square()
    left, right = _distance_factors(q, k, 0.3)
    assert relative_difference((left @ right).double(), expected) < 1e-5


@pytest.mark.parametrize("block", [3, 40, 200, 10_000])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_blocks_of_distances_give_what_the_whole_map_gives(block, masked, tied, monkeypatch):
    monkeypatch.setattr("impasto.nn.attention.CPU_BLOCK", block)
    q, k, v = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 5)
    k = q if tied else k[:, :, :7]
    v = v[:, :, : k.shape[2]]
    mask = torch.arange(k.shape[2]) < torch.tensor([[4], [k.shape[2]]]) if masked else None
    whole = attend(q.requires_grad_(True), k, v, distance="l2", scale=0.7, key_mask=mask)
    with torch.no_grad():
        blocks = attend(q, k, v, distance="l2", scale=0.7, key_mask=mask)
    assert whole.requires_grad and not blocks.requires_grad
    assert blocks.is_contiguous() and relative_difference(blocks, whole.detach()) < 1e-6
