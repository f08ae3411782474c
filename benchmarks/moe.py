"""What sparse experts cost, against a dense feed-forward layer of equal activated compute.

    python -m benchmarks.moe [--quick] [--json FILE] [--dtypes float32,bfloat16] [--tokens 4096,65536]

A token visits one expert whatever their number, so the dense layer of one expert's width does the same
arithmetic; the rest is routing, sorting and smaller matmuls. Forward alone, and forward with backward, in
fp32 and bf16 (forward: bf16 weights; with backward: autocast); processor seconds of ways that take turns. The
ways: the sparse layer as it is (on a CPU expert after expert on slices), its form for CUDA (one grouped
matmul a projection), the padded form, and the published way (a boolean mask for each expert).

Aim: 1.15 times dense at 16 experts and 1.3 times at 64, with at least 256 tokens for each.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from typing import Any

import torch
from benchmarks.common import Spread, add_dtypes, arguments_of, take_turns, write_result
from torch import Tensor

from impasto.nn.moe import FeedForward, GroupedMethod, SparseFeedForward

WIDTH, STYLE = 256, 256
METHODS: tuple[GroupedMethod, ...] = ("sliced", "grouped", "padded")


def published(layer: SparseFeedForward, x: Tensor, w: Tensor) -> Tensor:
    """Every expert in turn on the tokens a mask picks."""
    experts = layer.experts
    probability, index = layer.router(x, w).softmax(-1).max(-1)
    y = torch.zeros_like(x)
    for expert in range(experts.count):
        mine = index == expert
        hidden = x[mine] @ (experts.weight_in[expert] * experts.gain_in).t() + experts.bias_in[expert]
        value, gate = hidden.chunk(2, -1)
        hidden = value * torch.nn.functional.gelu(gate)
        out = hidden @ (experts.weight_out[expert] * experts.gain_out).t() + experts.bias_out[expert]
        y[mine] = out.to(y.dtype)
    return y * probability[..., None].to(y.dtype)


def ways_of(experts: int, tokens: int, backward: bool, low: bool) -> dict[str, Callable[[], object]]:
    """Name to one pass over so many tokens, in four samples, of layers with random weights."""
    torch.manual_seed(0)
    hidden = 4 * WIDTH
    dense = FeedForward(WIDTH, hidden)
    sparse = SparseFeedForward(WIDTH, hidden, max(experts, 1), STYLE)
    x = torch.randn(4, tokens // 4, WIDTH, requires_grad=backward)
    w = torch.randn(4, STYLE)
    if low and not backward:  # as `--dtype bfloat16` draws; training keeps fp32 weights, under autocast
        for parameter in (*dense.parameters(), *sparse.parameters()):
            parameter.data = parameter.data.to(torch.bfloat16)
        x, w = x.bfloat16(), w.bfloat16()

    def timed(layer: Callable[[], Tensor]) -> Callable[[], object]:
        def run() -> None:
            if not backward:
                with torch.no_grad():
                    layer()
                return
            layer().sum().backward()
            for module in (dense, sparse):
                module.zero_grad(set_to_none=True)
            x.grad = None

        return run

    ways = {"dense": timed(lambda: dense(x)), "published": timed(lambda: published(sparse, x, w))}
    for method in METHODS:
        ways[method] = timed(lambda method=method: sparse(x, w, method)[0])
    return ways


def measure(experts: int, tokens: int, backward: bool, low: bool, rounds: int) -> dict[str, Any]:
    with torch.autocast("cpu", torch.bfloat16, enabled=low and backward):
        spent = take_turns(ways_of(experts, tokens, backward, low), rounds)
    against = {way: spent[way].median / spent["dense"].median for way in spent if way != "dense"}
    return {
        "experts": experts,
        "tokens": tokens,
        "backward": backward,
        "type": "bf16" if low else "fp32",
        "seconds": spent,
        "against_dense": against,
    }


def row(found: dict[str, Any]) -> str:
    dense: Spread = found["seconds"]["dense"]
    kind = "forward + backward" if found["backward"] else "forward"
    ratios = " | ".join(f"{found['against_dense'][way]:.2f}" for way in (*METHODS, "published"))
    start = f"| {found['experts']} | {found['tokens']:,} | {kind} | {found['type']}"
    return f"{start} | {1000 * dense.median:.0f} ms | {ratios} |"


def main(argv: list[str] | None = None) -> int:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--tokens", default="4096,65536", help="sizes of a batch (default 4096,65536)")
        parser.add_argument("--experts", default="1,4,16,64", help="counts (default 1,4,16,64)")
        parser.add_argument("--rounds", type=int, help="of each way (default 9, 3 above 10,000 tokens)")
        add_dtypes(parser)

    arguments = arguments_of(__doc__, argv, add)
    counts, sizes = (
        [1, 4] if arguments.quick else [int(count) for count in arguments.experts.split(",")],
        [256] if arguments.quick else [int(size) for size in arguments.tokens.split(",")],
    )
    print("| experts | tokens | | type | dense | " + " | ".join((*METHODS, "published")) + " |")
    print("|---|---|---|---|---|" + "---|" * (len(METHODS) + 1))
    results = []
    for tokens, experts, dtype, backward in product(sizes, counts, arguments.dtypes, (False, True)):
        rounds = arguments.rounds or (2 if arguments.quick else 9 if tokens < 10_000 else 3)
        found = measure(experts, tokens, backward, dtype == "bfloat16", rounds)
        print(row(found), flush=True)
        results.append(
            {**found, "seconds": {way: asdict(spread) for way, spread in found["seconds"].items()}}
        )
    write_result(arguments.json, {"width": WIDTH, "rows": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
