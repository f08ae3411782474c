"""What a model remembers of the runs before its own."""

import json

import torch

from impasto.runtime.lineage import FILE, images_before, provenance_of, remember, with_lineage
from impasto.runtime.model_directory import save_model

FIRST = {"preset": "a", "images_seen": 30, "training_networks": {"clip": "11", "text_encoder": "22"}}


def model(folder, provenance):
    save_model(folder, "aurora", {"provenance": provenance}, {"x": torch.zeros(1)}, "card")
    return folder


def test_a_chain_of_runs_adds_up(tmp_path):
    remember(tmp_path, str(model(tmp_path / "one", FIRST)))
    second = with_lineage({"images_seen": 20, "training_networks": {"text_encoder": "22"}}, tmp_path)
    assert second["training_networks"] == {"text_encoder": "22", "clip": "11"}
    assert second["began_from"] == FIRST and images_before(second) == 30
    run = tmp_path / "two"
    run.mkdir()
    model(run / "model", second)
    remember(tmp_path, str(run))  # a run's folder stands for its model
    third = with_lineage({"images_seen": 5, "training_networks": {"clip": "33"}}, tmp_path)
    assert third["training_networks"] == {"clip": "33", "text_encoder": "22", "earlier clip": "11"}
    assert images_before(third) == 50
    remember(tmp_path, str(model(tmp_path / "three", third)))
    fourth = with_lineage({"training_networks": {"clip": "44"}}, tmp_path)
    assert set(fourth["training_networks"].values()) == {"44", "33", "22", "11"}


def test_a_run_from_nothing_has_no_past(tmp_path):
    remember(tmp_path, str(model(tmp_path / "one", FIRST)))
    remember(tmp_path, None)
    remember(tmp_path, None)
    assert not (tmp_path / FILE).exists()
    assert with_lineage(FIRST, tmp_path) == FIRST and images_before(FIRST) == 0


def test_a_file_is_known_by_its_name(tmp_path):
    file = tmp_path / "aurora_v1.pth"
    file.write_bytes(b"")
    assert provenance_of(file) == {"file": "aurora_v1.pth"}
    remember(tmp_path, str(file))
    assert json.loads((tmp_path / FILE).read_text()) == {"file": "aurora_v1.pth"}
    assert images_before(with_lineage({}, tmp_path)) == 0
