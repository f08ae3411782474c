"""The speed benchmark runs, and counts what a step reads."""

import json

from benchmarks.mars import QUICK, base_model, bytes_per_step, main, mars_model


def test_the_benchmark_runs(tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert main(["--quick", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert len(found["speeds"]) == 4 and found["memory_bytes"]["same_picture"]
    assert all(row["ours"]["wall"]["median"] > 0 and row["share_of_bound"] > 0 for row in found["speeds"])
    assert found["memory_bytes"]["weights_without_language"] < found["memory_bytes"]["weights_whole"]
    assert "copy bandwidth" in capsys.readouterr().out


def test_a_step_reads_one_expert():
    model = mars_model(base_model(QUICK), QUICK)
    layers = sum(p.numel() for n, p in model.layers.named_parameters() if "visual" in n or "norm" in n)
    one, two = (bytes_per_step(model, rows, 4) for rows in (1, 2))
    cache = 2 * 2 * 1 * 32 * 4 * (12 + 2)  # keys and values, layers, heads, channels, bytes, tokens
    assert two - one == cache
    assert one - cache == 4 * (layers + model.tokens.codes * 64)
