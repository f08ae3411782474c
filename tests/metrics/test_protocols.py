"""Protocols: the same captions for everybody, pictures drawn once, and the same numbers on two ranks."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import impasto
import impasto.metrics.extractors as extractors
from impasto.cli import main
from impasto.config import ConfigError
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.picture_sources import open_pictures
from impasto.metrics.protocols import make_plans
from impasto.pictures import read_settings
from tests.metrics.test_picture_sets import TinyExtractor, write_pictures

SCENES = ["--protocol", "train-10k", "--reference", "scenes:24:16", "--allow-small", "--count", "8"]
WRITER = """
import json, sys
from PIL import Image
for number, line in enumerate(open(sys.argv[1], encoding="utf-8")):
    if number == int(sys.argv[3]):
        sys.exit(3)
    asked = json.loads(line)
    Image.new("RGB", (40, 30), (asked["seed"] * 9, 80, 99)).save(sys.argv[2] + "/" + asked["file"])
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(extractors, "load_extractor", lambda spec, device: TinyExtractor())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_captions_and_reference_are_the_same_for_everybody_and_apart():
    one, again = (make_plans("train-10k", "scenes:24:16", count=8, allow_small=True)[0] for _ in range(2))
    assert one.prompts == again.prompts and len(one.prompts) == len(one.reference) == 8
    whole = make_plans("train-10k", "scenes:24:16", count=12, allow_small=True)[0]
    real = {whole.reference.read(index).name for index in range(12)}
    every = open_pictures("scenes:24:16")
    others = [stored for stored in map(every.read, range(24)) if stored.name not in real]
    assert sorted(stored.prompt for stored in others) == sorted(whole.prompts) and len(real) == 12
    with pytest.raises(ConfigError, match="takes 10,000 captions and as many other pictures"):
        make_plans("train-10k", "scenes:24:16")
    with pytest.raises(ConfigError, match="10,000 pictures; add --allow-small for 8"):
        make_plans("train-10k", "scenes:24:16", count=8)


def test_a_model_is_drawn_with_the_options_of_generate(tmp_path, capsys):
    asked = ["aurora-debug", *SCENES, "--resize", "16", "--batch-size", "8"]
    for name, options in (("plain", []), ("mean", ["--truncation", "0"])):
        status, _, errors = run(capsys, *asked, "--out", tmp_path / name, *options)
        assert status == 0, errors
    drawn = [(tmp_path / name / "pictures" / "000001.png") for name in ("plain", "mean")]
    assert drawn[0].read_bytes() != drawn[1].read_bytes() and read_settings(drawn[1])["truncation"] == 0
    preset = json.loads((tmp_path / "mean" / "report.json").read_text())["preset"]
    assert preset["options"] == {"truncation": 0}
    for target, option, message in (
        ("aurora-debug", "--guidance", "means nothing to 'aurora-debug'"),
        (tmp_path / "mean" / "pictures", "--guidance", "means something only with a MODEL"),
    ):
        status, _, errors = run(capsys, target, *SCENES, option, "2")
        assert status == 2 and message in errors


def test_a_model_draws_once_and_goes_on_after_a_kill(tmp_path, capsys, monkeypatch):
    out = tmp_path / "report"
    asked = ["aurora-debug", *SCENES, "--resize", "16", "--out", out, "--batch-size", "3"]
    status, printed, errors = run(capsys, *asked)
    assert status == 0, errors
    assert "Protocol train-10k, 8 captions" in printed
    files = sorted((out / "pictures").iterdir())
    assert len(files) == 8 and read_settings(files[5])["seed"] == 5
    bytes_before = [file.read_bytes() for file in files]
    first = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    assert "Not comparable" in page and "<td>Aurora</td><td>8.28</td><td>6.45</td>" in page
    assert "| this report | FD-Tiny" in (out / "report.md").read_text()
    assert first["preset"]["model"] == {"preset": "aurora-debug"} and first["preset"]["batch"] == 3
    files[4].unlink()  # as if killed: of the second batch of three
    kept = [file.stat().st_mtime_ns for file in files[:3]]
    assert run(capsys, *asked)[0] == 0
    assert [file.read_bytes() for file in files] == bytes_before
    assert [file.stat().st_mtime_ns for file in files[:3]] == kept
    monkeypatch.setattr(impasto, "load", lambda *a: pytest.fail("drawn again"))
    assert run(capsys, *asked)[0] == 0
    assert json.loads((out / "report.json").read_text())["results"] == first["results"]
    status, _, errors = run(capsys, *asked, "--seed", "1")
    assert status == 2 and "holds pictures of another drawing" in errors
    again = tmp_path / "again"
    assert run(capsys, out / "pictures", *SCENES, "--resize", "16", "--out", again)[0] == 0
    assert json.loads((again / "report.json").read_text())["results"] == first["results"]
    files[0].unlink()
    status, _, errors = run(capsys, out / "pictures", *SCENES, "--out", again)
    assert status == 2 and "1 captions of the protocol have no picture, 0 pictures are of none" in errors


def test_a_command_writes_the_pictures(tmp_path, capsys):
    (tmp_path / "writer.py").write_text(WRITER)
    out = tmp_path / "report"

    def asked(stop):
        line = f"{sys.executable} {tmp_path / 'writer.py'} {{prompts}} {{out}} {stop}"
        return ["--command", line, *SCENES, "--out", out]

    status, _, errors = run(capsys, *asked(5))
    assert status == 2 and "ended with status 3; 3 of 8 pictures are missing, the first 000005.png" in errors
    assert not (out / "report.json").exists()
    status, _, errors = run(capsys, *asked(99))
    assert status == 2 and "another drawing" in errors  # another line would be another generator
    record = json.loads((out / "drawing.json").read_text())
    record["command"] = asked(99)[1]
    (out / "drawing.json").write_text(json.dumps(record))
    status, _, errors = run(capsys, *asked(99))
    assert status == 0, errors
    told = [json.loads(line) for line in (out / "prompts-0.jsonl").read_text().splitlines()]
    assert [line["file"] for line in told] == ["000005.png", "000006.png", "000007.png"]
    document = json.loads((out / "report.json").read_text())
    assert document["sets"]["pictures"]["with_prompts"] == 8 and document["preparation"]["resize"] == 64
    assert document["sets"]["pictures"]["size"] == [40, 30]
    for line, message in (
        ("draw.py {prompts}", "where {out} goes"),
        ("absent {prompts} {out}", "be started"),
    ):
        status, _, errors = run(capsys, "--command", line, *SCENES, "--out", tmp_path / message[:2])
        assert status == 2 and message in errors


def test_coco(tmp_path, capsys):
    real = write_pictures(tmp_path / "val2014", 9, side=70)
    for number, file in enumerate(sorted(real.iterdir())):
        file.rename(real / f"COCO_val2014_{number + 40:012d}.png")
    captions = tmp_path / "captions.csv"
    rows = [f"{40 + n},a picture of {n}" for n in range(7)]
    captions.write_text("\n".join(["image_id,caption", *rows]) + "\n")
    asked = ["aurora-debug", "--protocol", "coco-30k", "--reference", real, "--captions", captions]
    for extra, message in (
        ([], "has 7 captions of 30,000"),
        (["--allow-small", "--count", "7", "--resize", "16", "--out", tmp_path / "whole"], ""),
        (
            [
                "--allow-small",
                "--count",
                "6",
                "--own-references",
                "--resize",
                "16",
                "--out",
                tmp_path / "own",
            ],
            "",
        ),
    ):
        status, _, errors = run(capsys, *asked, *extra)
        assert (status, message in errors) == (2 if message else 0, True), errors
    whole, own = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("whole", "own"))
    assert whole["sets"]["reference"]["count"] == 9 and own["sets"]["reference"]["count"] == 6
    assert own["preset"]["own_references"] and "the 6 of the captions" in own["sets"]["reference"]["source"]
    assert whole["preset"]["captions_sha256"] == read_captions(captions).sha256
    with pytest.raises(ConfigError, match="holds 9 pictures, the whole set of coco-30k has 40,504"):
        captions.write_text("caption\n" + "a\n" * 30_000)
        make_plans("coco-30k", str(real), captions=captions)
    captions.write_text("image_id,caption\n41,a\n977,b\n")
    with pytest.raises(ConfigError, match=r"1 pictures of .* are not in .*, such as 977"):
        make_plans("coco-30k", str(real), captions=captions, own_references=True, count=2, allow_small=True)


def test_lists_of_captions(tmp_path):
    for name, text in (
        ("a.txt", "one  thing\n\ntwo\n"),
        ("a.tsv", "image_id\ttext\n1\tone thing\n2\ttwo\n"),
        ("a.jsonl", '{"prompt": "one thing"}\n{"prompt": "two"}\n'),
    ):
        (tmp_path / name).write_text(text)
        assert read_captions(tmp_path / name).captions == ("one thing", "two")
    assert read_captions(tmp_path / "a.tsv").pictures == ("1", "2")
    for name, text, message in (
        ("b.csv", "title\nx\n", "row 1 has no caption or text"),
        ("b.jsonl", "[]\n", "line 1 is no JSON object"),
        ("b.txt", "\n", "holds no caption"),
        ("b.doc", "x", "should be a .txt"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_captions(tmp_path / name)


def test_open_glyphs_is_measured_part_by_part(tmp_path, capsys):
    for seed, part in enumerate(("heldout_concepts", "heldout_cells")):
        folder = write_pictures(tmp_path / "glyphs" / part, 8, side=64, seed=seed)
        for number, file in enumerate(sorted(folder.glob("*.png"))):
            file.with_suffix(".txt").write_text(f"{part} {number}\n")
    out = tmp_path / "report"
    asked = ["--protocol", "openglyphs", "--allow-small", "--out", out, "--resize", "16"]
    status, printed, errors = run(capsys, "aurora-debug", "--reference", tmp_path / "glyphs", *asked)
    assert status == 0, errors
    assert "## heldout concepts" in printed and "## heldout cells" in (out / "report.md").read_text()
    document = json.loads((out / "heldout_cells" / "report.json").read_text())
    assert document["preset"]["part"] == "heldout_cells" and document["sets"]["pictures"]["count"] == 8
    status, _, errors = run(capsys, "aurora-debug", "--reference", tmp_path, *asked)
    assert status == 2 and "should be what `impasto data build openglyphs` wrote" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aurora-debug", "--protocol", "train-10k"], "needs --reference"),
        (["aurora-debug", *SCENES, "--captions", "x.txt"], "takes its captions from the reference"),
        (["aurora-debug", "--protocol", "coco-30k", "--reference", "x"], "needs --captions FILE"),
        (["aurora-debug", *SCENES, "--own-references"], "only with --protocol coco-30k"),
        (["aurora-debug", "--captions", "x.txt"], "another --protocol than scenes"),
        (["--command", "x {prompts} {out}"], "--command needs --protocol"),
        (["aurora-debug", *SCENES, "--made-by", "aurora-debug"], "pictures that are there already"),
    ],
)
def test_mistakes_are_named(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, errors = run(capsys, *arguments)
    assert status == 2 and message in errors and len(errors.strip().splitlines()) == 1


RANK = """
import sys
import impasto.metrics.extractors as extractors
import impasto.metrics.picture_sets as sets
from tests.metrics.test_picture_sets import TinyExtractor
from impasto.cli import main
extractors.load_extractor = lambda spec, device: TinyExtractor()
sys.exit(main(sys.argv[1:]))
"""


def test_two_ranks_give_the_numbers_of_one(tmp_path, capsys):
    asked = ["evaluate", "aurora-debug", *SCENES, "--resize", "16", "--batch-size", "3", "--no-cache"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parent.parent.parent
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *asked, "--out", str(tmp_path / "two")],
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "FD-Tiny" in printed[0][0] and not printed[1][0]
    assert main([*asked, "--out", str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["results"] == two["results"]
    for name in ("pictures", "reference"):
        assert one["sets"][name]["content_sha256"] == two["sets"][name]["content_sha256"]
