"""Streams of random numbers found by what they are for."""

import hashlib

import torch


def random_stream(*key: int | str) -> torch.Generator:
    """A generator on the CPU for every key of whole numbers and names, the same on every machine.

    torch keeps only the low 32 bits of a CPU generator's seed, so that numbers put side by side in a large
    seed would all give one stream; here they are hashed.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
