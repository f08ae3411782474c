"""The key-value cache: growing, fixed size, from a prefix."""

import pytest
import torch

from impasto.nn.kv_cache import KeyValueCache, KeyValuePrefix, join_left_padded

SHAPE = {"layers": 2, "batch": 3, "heads": 2, "head_dim": 4, "dtype": torch.float32}


def new_cache(capacity: int, *, static: bool = False) -> KeyValueCache:
    return KeyValueCache(**SHAPE, capacity=capacity, device=torch.device("cpu"), static=static)


def tokens(count: int) -> torch.Tensor:
    return torch.randn(3, 2, count, 4)


def ones(count: int) -> torch.Tensor:
    return torch.ones(3, count, dtype=torch.bool)


def test_it_gives_back_what_was_written_in_order():
    cache, first, second = new_cache(8), tokens(3), tokens(2)
    for new in (first, second):
        assert cache.admit(ones(new.shape[2])).all()
        for layer in range(2):
            keys, values = cache.extend(layer, new + layer, new - layer)
    assert torch.equal(keys, torch.cat((first, second), 2) + 1)
    assert torch.equal(values, torch.cat((first, second), 2) - 1)
    assert cache.length == 5 and cache.lengths.tolist() == [5, 5, 5]


def test_more_than_it_holds_is_refused():
    cache = new_cache(2)
    with pytest.raises(ValueError, match="holds 2"):
        cache.admit(ones(3))


def test_the_fixed_size_form_holds_the_same_and_masks_the_rest():
    mask = torch.tensor([[0, 1], [1, 1], [0, 0]], dtype=torch.bool)
    keys, values = (tuple(tokens(2) for _ in range(2)) for _ in range(2))
    prefix = KeyValuePrefix(keys, values, mask)
    growing, fixed = (KeyValueCache.after(prefix, 5, static=static) for static in (False, True))
    for _ in range(2):
        new = tokens(1)
        seen = [cache.admit(ones(1)) for cache in (growing, fixed)]
        both = [cache.extend(0, new, new) for cache in (growing, fixed)]
    assert torch.equal(both[0][0], both[1][0][:, :, :4])
    assert torch.equal(seen[0], seen[1][:, :4]) and not seen[1][:, 4:].any()
    with pytest.raises(ValueError, match="one token"):
        fixed.admit(ones(2))
    fixed.rewind(2)
    assert torch.equal(fixed.prefix().mask, mask) and fixed.lengths.tolist() == [1, 2, 0]


def test_prefixes_join_at_the_right_end():
    single = [
        KeyValuePrefix((k := (torch.randn(1, 2, n, 4),)), k, torch.ones(1, n, dtype=torch.bool))
        for n in (3, 0, 1)
    ]
    joined = join_left_padded(single, torch.device("cpu"))
    assert joined.mask.int().tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert torch.equal(joined.keys[0][2, :, 2:], single[2].keys[0][0])
    taken = joined.rows(torch.tensor([2, 2, 0]))
    assert taken.lengths.tolist() == [1, 1, 3]
