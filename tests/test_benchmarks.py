"""The scripts of `benchmarks/` run, at small sizes, and write what they print."""

import json
import sys

import pytest
from benchmarks import generator, moe, scaling, training
from benchmarks.common import Spread, take_turns


def test_ways_take_turns_after_a_round_of_warming_up():
    called = []
    spent = take_turns({name: lambda name=name: called.append(name) for name in "ab"}, rounds=2)
    assert called == ["b", "a", "a", "b", "b", "a"]
    assert set(spent) == {"a", "b"} and all(s.least <= s.median <= s.most for s in spent.values())
    assert str(Spread.of([2.0, 1.0, 4.0])) == "2 [1, 4]"


def test_sparse_experts_against_dense(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(moe, "WIDTH", 16)
    assert moe.main(["--quick", "--dtypes", "float32", "--json", str(tmp_path / "moe.json")]) == 0
    rows = json.loads((tmp_path / "moe.json").read_text())["rows"]
    assert len(rows) == 4 and all(set(row["against_dense"]) == {*moe.METHODS, "published"} for row in rows)
    assert capsys.readouterr().out.count("\n") == 6


def test_parts_of_a_training_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "import_peer", lambda: None)
    assert training.main(["--quick", "--json", str(tmp_path / "training.json")]) == 0
    found = json.loads((tmp_path / "training.json").read_text())
    assert tuple(found["parts"]) == training.PARTS and found["torch"]
    assert found["parts"]["generator"]["impasto"]["system"] >= 0 and found["microseconds_a_page"] > 0
    assert "not installed" in capsys.readouterr().out


def test_reading_pictures(tmp_path, capsys):
    pytest.importorskip("webdataset")
    from benchmarks import data

    assert data.main(["--quick", "--json", str(tmp_path / "data.json")]) == 0
    found = json.loads((tmp_path / "data.json").read_text())
    assert set(found["samples_per_core_second"]) == {"impasto", "webdataset", "decode"} and found["torch"]
    assert found["against_decode_alone"] < 1 and "against webdataset" in capsys.readouterr().out


def test_selecting_rows(tmp_path, capsys):
    pytest.importorskip("duckdb")
    from benchmarks import data_select

    assert data_select.main(["--quick", "--rows", "4000", "--json", str(tmp_path / "select.json")]) == 0
    found = json.loads((tmp_path / "select.json").read_text())
    assert 0 < found["kept"] < found["rows"] == 4000 and found["peak_gigabytes"] > 0.01


def test_peers_leave_a_result_each_and_go_on(tmp_path, monkeypatch, capsys):
    from benchmarks import peers

    arguments = ["--quick", "--out", str(tmp_path)]
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert peers.main([*arguments, "--peers", "aurora,diffusers"]) == 2  # before anything is trained
    assert "diffusers cannot be imported" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert peers.main([*arguments, "--peers", "arora"]) == 2
    assert "aurora" in capsys.readouterr().err
    assert peers.main([*arguments, "--peers", "aurora"]) == 0
    found = json.loads((tmp_path / "results/aurora.json").read_text())
    (way,) = found["ways"]
    assert found["seconds"] >= 2 and found["images"] % 16 == 0 and way["frechet"] > found["real_against_real"]
    assert (tmp_path / "peers.png").is_file() and (tmp_path / "pictures.png").is_file()
    assert peers.main([*arguments, "--peers", "aurora"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert peers.main([*arguments, "--peers", "aurora", "--seed", "1"]) == 2
    assert "of another budget" in capsys.readouterr().err


@pytest.mark.long
def test_the_generator_against_the_transcription(tmp_path):
    assert generator.main(["--quick", "--dtypes", "float32", "--json", str(tmp_path / "generator.json")]) == 0
    found = json.loads((tmp_path / "generator.json").read_text())
    assert len(found["rows"]) == 2 and all(row["ratio"]["fp32"] > 0 for row in found["rows"])
    assert found["processes"]["tiny_float32"]["peak_bytes"] > 2**20


@pytest.mark.long
def test_processes_side_by_side(tmp_path, capsys):
    assert scaling.main(["--quick", "--json", str(tmp_path / "scaling.json")]) == 0
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["measured"]["1"]["exchanging"] < 0.01 < found["measured"]["2"]["exchanging"] < 1
    assert found["projected"]["1"]["exchanging"] == 0 < found["projected"]["2"]["exchanging"]
    assert "Assumed: 2 devices" in capsys.readouterr().out
