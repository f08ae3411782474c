"""The order of samples: every sample once an epoch, another order every epoch, nothing kept in memory."""

from collections import Counter

import numpy as np
import pytest

from impasto.data.order import Order


def test_every_epoch_is_a_permutation_of_any_count():
    for count in [*range(1, 40), 97, 256, 1000]:
        order = Order(count, seed=3)
        for epoch in (0, 1, 7):
            seen = [order.index(epoch * count + place) for place in range(count)]
            assert sorted(seen) == list(range(count)), count


def test_seeds_and_epochs_give_other_orders():
    def epoch(seed: int, number: int) -> tuple[int, ...]:
        return tuple(Order(50, seed).index(50 * number + place) for place in range(50))

    assert len({epoch(seed, number) for seed in range(4) for number in range(4)}) == 16
    assert epoch(1, 2) == epoch(1, 2)


def test_every_sample_is_as_likely_at_every_place():
    count, epochs = 5, 2000
    order = Order(count, seed=0)
    for place in range(count):
        found = Counter(order.index(epoch * count + place) for epoch in range(epochs))
        expected = epochs / count
        chi_square = sum((found[index] - expected) ** 2 / expected for index in range(count))
        assert chi_square < 23.5  # 0.0001 of chance at four degrees of freedom


def test_neighbours_in_storage_do_not_stay_neighbours():
    order = Order(4096, seed=1)
    seen = np.array([order.index(place) for place in range(4096)])
    assert abs(np.corrcoef(seen[:-1], seen[1:])[0, 1]) < 0.06
    assert np.mean(np.abs(np.diff(seen)) == 1) < 0.005


def test_a_place_of_a_huge_set_is_found_at_once():
    count = 10**12 + 39
    order = Order(count, seed=5)
    places = [0, 1, count // 2, count - 1]
    assert len({order.index(place) for place in places}) == 4
    assert all(0 <= order.index(place) < count for place in places)


def test_who_follows_is_the_rest_of_the_epoch_then_its_start():
    order = Order(10, seed=2)
    epoch = [order.index(30 + place) for place in range(10)]
    assert list(order.following(37)) == epoch[7:] + epoch[:7]


def test_an_empty_order_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Order(0, seed=0)
