"""All benchmarks in a row, and the page of their numbers."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import estimate, everything, growth, page, plots, roofline
from PIL import Image

ABOUT = {
    "processor": "a processor",
    "threads": 1,
    "torch": "2.13.0",
    "python": "3.11",
    "date": "2026-01-02",
    "command": "python data.py --quick --json x.json",
}
SPREAD = {"median": 1.0, "least": 0.5, "most": 2.0}
DATA = {
    **ABOUT,
    "seconds_a_batch": {"impasto": SPREAD},
    "samples_per_core_second": {"impasto": 8.0},
    "against_webdataset": 0.5,
}


def test_every_script_is_a_job_or_said_not_to_be():
    of_jobs = {job.script for job in everything.JOBS.values()}
    assert of_jobs.isdisjoint(everything.NOT_HERE)
    assert everything.scripts() <= of_jobs | set(everything.NOT_HERE)
    assert of_jobs <= everything.scripts() and set(everything.JOBS) <= set(page.SECTIONS)


def test_each_number_of_the_readme_stands_on_the_page():
    """Decimals and thousands; sizes, counts in words and versions are no measurements."""
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    prose = " ".join(re.sub(r"```.*?```|\]\([^)]*\)", "", readme, flags=re.DOTALL).replace("*", "").split())
    quoted = [quotation for quotation, _ in page.README_NUMBERS]
    assert [quotation for quotation in quoted if quotation not in prose] == []
    numbers = re.findall(r"(?<![\w.-])(?:\d+\.\d+|\d+,\d{3}|\de-\d+)", prose)
    versions = {"3.11", "2.11"}
    found = set(re.findall(r"(?<![\w.-])(?:\d+\.\d+|\d+,\d{3}|\de-\d+)", " ".join(quoted)))
    assert set(numbers) - versions == found and len(found) > 8


def test_what_has_a_result_is_skipped_and_a_failure_stops_nothing(tmp_path, monkeypatch, capsys):
    asked = []

    def run(command, env):
        assert env["OMP_NUM_THREADS"] == "1"
        asked.append(command[2])
        return SimpleNamespace(returncode=int(command[2] == "benchmarks.mars"))

    monkeypatch.setattr(everything, "QUICK", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    assert everything.main(["--quick", "--only", "data,mars,growth"]) == 1
    assert asked == ["benchmarks.mars", "benchmarks.growth"]
    assert "data: there already" in (printed := capsys.readouterr().out) and "failed: mars" in printed
    asked.clear()
    assert everything.main(["--quick", "--only", "data", "--again"]) == 0 and asked == ["benchmarks.data"]
    with pytest.raises(SystemExit):
        everything.main(["--only", "dta"])


def test_finished_results_take_the_places_of_old_ones_together(tmp_path, monkeypatch):
    new, kept = tmp_path / "new", tmp_path / "kept"
    kept.mkdir()
    (kept / "data.json").write_text(json.dumps({**DATA, "against_webdataset": 0.1}))
    (kept / "mars.json").write_text("{}")

    def run(command, env):
        if fails and command[2] == "benchmarks.growth":
            return SimpleNamespace(returncode=1)
        name = command[2].removeprefix("benchmarks.")
        (new / f"{name}.json").write_text(json.dumps(DATA))
        (new / f"{name}.png").write_text("")
        return SimpleNamespace(returncode=0)

    for name, folder in (("UNFINISHED", new), ("RESULTS", kept)):
        monkeypatch.setattr(everything, name, folder)
    monkeypatch.setattr(everything, "write_page", lambda folder: folder / "page")
    monkeypatch.setattr(subprocess, "run", run)
    fails, arguments = True, ["--only", "data,growth"]
    assert everything.main(arguments) == 1
    assert json.loads((kept / "data.json").read_text())["against_webdataset"] == 0.1
    fails = False
    assert everything.main(arguments) == 0 and not new.exists()
    assert json.loads((kept / "data.json").read_text()) == DATA
    assert {path.name for path in kept.iterdir()} == {
        "data.json", "data.png", "growth.json", "growth.png", "mars.json",
    }  # fmt: skip


def test_the_page_judges_what_is_there_and_names_what_is_not(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(page, "RESULTS", folder)
    monkeypatch.setattr(page, "HERE", tmp_path)
    (tmp_path / "data.py").write_text('"""How fast.\n\nMore."""\n')
    (folder / "data.json").write_text(json.dumps(DATA))
    text = page.write_page(folder).read_text()
    assert "| reading pictures: times webdataset's speed | >= 0.95 | 0.5 | missed." in text
    assert "times gigagan-pytorch's speed | 2 | not measured |" in text
    assert "| impasto | 1 [0.5, 2] | 8 |" in text and "How fast. **Toy sizes" in text and "More." not in text
    (folder / "data.json").write_text(json.dumps({**DATA, "against_webdataset": 1.25}))
    assert "| >= 0.95 | 1.25 | holds |" in page.write_page(folder).read_text()


def test_the_page_of_the_repository_is_of_its_results():
    kept = (page.HERE / page.PAGE).read_text()
    sections = [line[3:].replace(" ", "_") for line in kept.splitlines() if line.startswith("## ")]
    there = set(sections) & set(page.SECTIONS)
    assert len(there) > 8 and all((page.RESULTS / f"{name}.json").is_file() for name in there)
    for line in kept.splitlines():
        if line.startswith("!["):
            picture = page.HERE / line.partition("(")[2].rstrip(")")
            assert picture.is_file() and picture.stat().st_size < 150_000


def test_a_chart_and_the_pictures_of_results(tmp_path):
    pytest.importorskip("matplotlib")
    plots.chart("title", "x", [plots.Line("a", [(1, 2), (10, 30)])], tmp_path / "chart.png")
    rows = [{"size": 1, "seconds": 0.1, "bytes": 1e6}, {"size": 4, "seconds": 0.3, "bytes": 3e6}]
    growth.picture("batch", rows, tmp_path / "growth.png")
    part = {"gflop": 1.0, "gigabytes": 0.1, "gflop_a_second": 20.0}
    roofline.picture({"MARS: drawing": part}, 60e9, 10e9, tmp_path / "roofline.png")
    for name in ("chart", "growth", "roofline"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 300


def test_two_configurations_fit_the_estimate():
    costs = [
        SimpleNamespace(flops=f, traffic=b, peak_bytes=p) for f, b, p in ((1e9, 2e9, 10.0), (4e9, 1e9, 30.0))
    ]
    found = [
        {
            "bytes": 2 * cost.peak_bytes + 5,
            "seconds": estimate.Spread.of([cost.flops / 1e10 + cost.traffic / 1e9]),
        }
        for cost in costs
    ]
    fit = estimate.Fit.of(costs, found)
    assert (fit.factor, fit.constant) == (2.0, 5.0)
    assert fit.flops_a_second == pytest.approx(1e10) and fit.bytes_a_second == pytest.approx(1e9)


@pytest.mark.long
@pytest.mark.parametrize("script", [estimate, growth, roofline])
def test_the_scripts_run_at_toy_size(script, tmp_path, capsys):
    assert script.main(["--quick", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["command"]
