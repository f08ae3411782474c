"""Streams of different keys differ, also where only the high bits of a large seed would."""

import itertools

import torch

from impasto.runtime.streams import random_stream


def test_every_key_has_its_own_stream_and_always_the_same():
    keys = [("step", seed, number, images) for seed in (0, 5) for number in (0, 1) for images in (0, 16)]
    keys += [("latent", 0, 16), ("latent", 5, 16), ("latent", 0, 17)]
    drawn = {key: torch.randn(4, generator=random_stream(*key)) for key in keys}
    for one, other in itertools.combinations(keys, 2):
        assert not torch.equal(drawn[one], drawn[other]), (one, other)
    assert torch.equal(torch.randn(4, generator=random_stream("latent", 0, 16)), drawn["latent", 0, 16])
