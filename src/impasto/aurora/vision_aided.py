"""Vision-aided discriminator heads (GigaGAN, after Kumari et al. 2022): small networks that judge pictures by
the features of a frozen image network. Not part of Aurora's published recipe; an option."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from impasto.aurora.discriminator import Scores
from impasto.aurora.discriminator_blocks import Convolution, Head
from impasto.nn.modules import module_list


class VisionAidedHeads(nn.Module):
    """One head per feature map: a fixed random projection of the channels (Projected GAN), a 3x3
    convolution, then a text-modulated and an unconditional 1x1 layer."""

    def __init__(
        self, channels: Sequence[int], text_width: int, *, width: int = 64, equalized: bool = True
    ):  # width: guess
        super().__init__()
        for n, count in enumerate(channels):
            self.register_buffer(f"projection_{n}", torch.randn(width, count) / math.sqrt(count))
        self.convolutions = module_list(Convolution(width, width, equalized=equalized) for _ in channels)
        self.heads = module_list(Head(width, text_width, layers=1, equalized=equalized) for _ in channels)

    def forward(self, maps: Sequence[Tensor], text: Tensor) -> Scores:
        """maps: frozen features [B, C_n, h_n, w_n], best standardised per channel; text [B, D].

        Returns {(0, n): [B, 1, h_n, w_n]}: one level with an output per map, in the form the losses take.
        """
        scores: Scores = {}
        for n, (x, convolution, head) in enumerate(zip(maps, self.convolutions, self.heads, strict=True)):
            projected = torch.einsum("oc,bchw->bohw", getattr(self, f"projection_{n}"), x)
            tokens = convolution(projected).flatten(2).transpose(1, 2)[:, None]
            scores[0, n] = head(tokens, text).unflatten(2, x.shape[2:])
        return scores
