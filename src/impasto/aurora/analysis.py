"""Numbers about a generator that need no weights: parameters in total and activated, operations, memory."""

from dataclasses import dataclass

import torch

from impasto.aurora.config import AuroraConfig
from impasto.aurora.generator import Generator
from impasto.nn.moe import Experts
from impasto.runtime.estimate import memory_of, operations_of, parameter_bytes

PROMPT_TOKENS = 77  # CLIP's context; a sentence encoder's is shorter


@dataclass(frozen=True)
class ModelSize:
    """Parameters, and the cost of generating or training with a batch of one in fp32.

    `activated` counts one expert per MoE layer: what touches the path of one feature point. `flops` are per
    image (a multiply-add counts two). Memory in bytes: weights plus the peak of live activations; training
    memory is weights, gradients, two Adam moments and an average of the weights, plus activations and their
    gradients. `training_activation_bytes` is what one more image keeps for the backward pass (a little too
    much: rescaled weights are in it once). The discriminator is not in it.
    """

    parameters: int
    activated: int
    by_part: dict[str, int]
    flops: int
    inference_bytes: int
    training_bytes: int
    training_activation_bytes: int

    def lines(self) -> list[str]:
        """For people."""
        gigabyte = 2**30
        return [
            f"parameters            {self.parameters:>15,}",
            f"activated per point   {self.activated:>15,}   (one expert per MoE layer)",
            *(f"  {part:20s}{count:>15,}" for part, count in self.by_part.items()),
            f"operations per image  {self.flops / 1e9:>15,.1f}   GFLOP (multiply-add = 2)",
            f"memory to generate    {self.inference_bytes / gigabyte:>15,.2f}   GiB, fp32, batch 1",
            f"memory to train       {self.training_bytes / gigabyte:>15,.2f}   GiB, fp32, batch 1",
            "  generator alone: weights, gradients, two Adam moments, moving average, activations",
            f"  each further image  {self.training_activation_bytes / gigabyte:>15,.2f}   GiB",
        ]


def measure(config: AuroraConfig) -> ModelSize:
    """Build the generator on the meta device and account for it; allocates nothing."""
    with torch.device("meta"):
        generator = Generator(config.generator)
        z = torch.empty(1, config.generator.z_dim)
        tokens = torch.empty(1, PROMPT_TOKENS, config.generator.text_head.input_dim)
        eot = torch.zeros(1, dtype=torch.long)
    total = sum(p.numel() for p in generator.parameters())
    idle = 0
    for module in generator.modules():
        if isinstance(module, Experts):
            owned = sum(p.numel() for p in module.parameters())
            idle += owned - owned // module.count

    def training_loss() -> torch.Tensor:
        output = generator(z, tokens, eot)
        return output.image.mean() + output.moe_loss

    weights = parameter_bytes(generator)
    training = memory_of(training_loss, backward=True)
    generator.requires_grad_(False)
    inference = memory_of(lambda: generator(z, tokens, eot))
    # `training.peak_bytes` holds the gradients of the parameters; moments and average come on top.
    return ModelSize(
        parameters=total,
        activated=total - idle,
        by_part=_by_part(generator),
        flops=operations_of(lambda: generator(z, tokens, eot)),
        inference_bytes=weights + inference.peak_bytes,
        training_bytes=weights * 4 + training.peak_bytes,
        training_activation_bytes=training.kept_bytes,
    )


def _by_part(generator: Generator) -> dict[str, int]:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    parts = {"text head": count(generator.text_head), "mapping": count(generator.mapping)}
    for level in generator.levels:
        parts[f"level {level.resolution}"] = count(level)
    parts["experts (all levels)"] = sum(count(m) for m in generator.modules() if isinstance(m, Experts))
    return parts
