"""What the project promises of its speed and memory, each promise judged by the results that are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """One promise: which result, what is read there, the bound; why it is missed, why it may be missing."""

    text: str
    result: str
    value: Callable[[Document], float]
    bound: float
    at_least: bool = True
    reason: str = ""
    missing: str = ""

    def row(self, found: Document | None) -> str:
        """Of the table; `found` is None where the result is not there."""
        try:
            value = self.value(found or {})
        except (KeyError, IndexError, StopIteration):
            return f"| {self.text} | {self.bound:g} | not measured | {self.missing} |"
        holds = value >= self.bound if self.at_least else value <= self.bound
        sign = ">=" if self.at_least else "<="
        said = "holds" if holds else f"missed. {self.reason}".strip()
        return f"| {self.text} | {sign} {self.bound:g} | {value:.3g} | {said} |"


def _first(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _sliced(experts: int, backward: bool) -> Callable[[Document], float]:
    """Against dense, where an expert has at least 256 tokens, of the largest batch measured."""

    def value(found: Document) -> float:
        rows = [row for row in found["rows"] if row["experts"] == experts and row["backward"] == backward]
        enough = [row for row in rows if row["tokens"] >= 256 * experts]
        return max(enough, key=lambda row: row["tokens"])["against_dense"]["sliced"]

    return value


def _speed(batch: int, tokens: int) -> Callable[[Document], float]:
    def value(found: Document) -> float:
        row = _first(found["speeds"], batch=batch, tokens=tokens)
        return row["transformers"]["processor"]["median"] / row["ours"]["processor"]["median"]

    return value


MATMULS = "Most of ours is matrix products at the rate their sizes allow (docs/aurora.md, roofline)"
AIMS = (
    Aim("generator, published size, batch 1: times the transcription's speed", "generator_full",
        lambda d: d["rows"][0]["ratio"]["fp32"], 3.5, reason=f"{MATMULS}. The ratio moves with the price "
        "of a page, which half of the transcription's seconds are"),
    Aim("the same: processor seconds", "generator_full",
        lambda d: d["rows"][0]["seconds"]["impasto_fp32"]["median"], 8, at_least=False,
        reason="Seconds of a thread whose core others use; 7.5 on a quieter day (docs/aurora.md)"),
    Aim("the same: GB at the peak of a process", "generator_full",
        lambda d: d["processes"]["full_float32"]["peak_bytes"] / 1e9, 6, at_least=False),
    Aim("the same in bf16: processor seconds", "generator_bfloat16",
        lambda d: d["rows"][0]["seconds"]["impasto_bf16"]["median"], 2.5, at_least=False,
        missing="This processor has no units for bf16 and takes 60 to 200 times as long as in fp32"),
    Aim("generator, 32 px, batch 8: times the transcription's speed", "generator",
        lambda d: _first(d["rows"], batch=8)["ratio"]["fp32"], 3, reason=MATMULS),
    Aim("16 experts, forward, in units of the dense layer", "moe", _sliced(16, False), 1.15, at_least=False,
        reason="With 256 tokens an expert routing and sorting weigh most; with 4,096 it was 0.92 "
        "(docs/aurora.md)"),
    Aim("16 experts, with backward", "moe", _sliced(16, True), 1.15, at_least=False),
    Aim("64 experts, forward", "moe_many", _sliced(64, False), 1.3, at_least=False),
    Aim("64 experts, with backward", "moe_many", _sliced(64, True), 1.3, at_least=False),
    Aim("a training step: generator, times gigagan-pytorch's speed", "training",
        lambda d: d["parts"]["generator"]["ratio"], 2),
    Aim("discriminator", "training", lambda d: d["parts"]["discriminator"]["ratio"], 2),
    Aim("penalty (R1)", "training", lambda d: d["parts"]["penalty"]["ratio"], 2,
        reason="Convolutions and their second derivatives take half and more of it (docs/aurora.md)"),
    Aim("penalty, with a layer that theirs lacks and the shipped models have", "training",
        lambda d: d["parts"]["penalty with deviation layer"]["ratio"], 2,
        reason="That layer alone bends, and its second derivative goes back through all before it"),
    Aim("reading pictures: times webdataset's speed", "data", lambda d: d["against_webdataset"], 0.95),
    Aim("features of pictures: times a plain loop's speed", "evaluation",
        lambda d: d["against_plain_loop"], 1),
    Aim("the same: times torch-fidelity's reader", "evaluation", lambda d: d["against_torch_fidelity"], 1.2,
        missing="torch-fidelity imports torchvision, which is not installed"),
    Aim("MARS, 1 picture of 64 tokens: times the speed of transformers' generate", "mars", _speed(1, 64), 2,
        reason="The gain is one batch for both branches of guidance; what is left are the same products"),
    Aim("MARS, 8 pictures of 256 tokens", "mars", _speed(8, 256), 2,
        reason="As above"),
    Aim("estimator of MARS: largest error of memory, six configurations", "estimate",
        lambda d: d["worst"]["memory"], 0.15, at_least=False),
    Aim("the same: of time", "estimate", lambda d: d["worst"]["time"], 0.30, at_least=False),
)  # fmt: skip


def aims(documents: Mapping[str, Document]) -> list[str]:
    lines = ["## Aims", "", "| aim | bound | measured | |", "|---|---|---|---|"]
    lines += [aim.row(documents.get(aim.result)) for aim in AIMS]
    return [*lines, ""]
