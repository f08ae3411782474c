"""Frozen networks are read once a process; each model gets copies of its own."""

import copy
import functools

import pytest

from impasto.vision import two_tower


@functools.cache
def read_once(backbone: str, side: int):
    config = two_tower.TwoTowerConfig(backbone=backbone, side=side)
    features, encoder = READ(config)
    _ = encoder.fingerprint  # kept by the copies
    return features, encoder


READ = two_tower.frozen_parts


@pytest.fixture(autouse=True)
def _frozen_networks_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        two_tower, "frozen_parts", lambda config: copy.deepcopy(read_once(config.backbone, config.side))
    )
