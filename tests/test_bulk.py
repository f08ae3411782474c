"""Many pictures from a file: which ones, exact resume, several processes, and a picture drawn again."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from impasto.cli import main
from impasto.drawing import RECORD, Order, batches
from impasto.orders import read_orders
from impasto.pictures import read_settings, save_png

MODEL = ("--model", "aurora-debug")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["generate", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture
def prompts(tmp_path):
    lines = [
        {"prompt": "a red circle"},
        {"prompt": "一个蓝色的圆形", "seed": 40, "n": 2},
        {"prompt": "a star\u2028of gold", "truncation": 0.5},
        {"prompt": "a square", "truncation": 0.5, "n": 3},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def test_a_file_says_what_is_drawn(prompts, tmp_path):
    orders = read_orders(prompts, num_images=1, seed=100, options={"truncation": 0.9})
    assert [order.seed for order in orders] == [100, 40, 41, 103, 104, 105, 106]
    assert [order.options["truncation"] for order in orders] == [0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5]
    assert batches(orders, 2) == [range(2), range(2, 3), range(3, 5), range(5, 7)]
    plain = tmp_path / "prompts.txt"
    plain.write_text("\ufeffa red circle\r\n\na star\u2028of gold\n", encoding="utf-8")
    orders = read_orders(plain, num_images=2, seed=0, options={})
    assert orders == [Order(*pair) for pair in (
        ("a red circle", 0), ("a red circle", 1), ("a star\u2028of gold", 2), ("a star\u2028of gold", 3)
    )]  # fmt: skip


def test_what_was_cut_short_goes_on_to_the_same_bytes(prompts, tmp_path, capsys):
    arguments = ("--prompts", str(prompts), *MODEL, "--batch-size", "2", "--out")
    status, printed, _ = run(capsys, *arguments, str(tmp_path / "whole"))
    assert status == 0 and "wrote 7 of 7 pictures" in printed
    whole, cut = files(tmp_path / "whole"), tmp_path / "cut"
    assert sorted(whole) == [f"{number:06d}.png" for number in range(7)]
    assert read_settings(tmp_path / "whole/000002.png")["seed"] == 41
    run(capsys, *arguments, str(cut))
    for name in ("000001.png", "000004.png", "000006.png"):
        (cut / name).unlink()
    status, printed, _ = run(capsys, *arguments, str(cut))
    assert status == 0 and "wrote 6 of 7 pictures" in printed and "1 were there" in printed  # whole batches
    assert files(cut) == whole
    status, printed, _ = run(capsys, *arguments, str(cut))
    assert "wrote 0 of 7" in printed
    status, _, errors = run(capsys, *arguments, str(cut), "--seed", "1")
    assert status == 2 and "another drawing" in errors and files(cut) == whole
    (cut / RECORD).unlink()
    status, _, errors = run(capsys, *arguments, str(cut))
    assert status == 2 and "not empty" in errors


@pytest.mark.long
def test_two_processes_draw_the_same(prompts, tmp_path, capsys):
    arguments = ["--prompts", str(prompts), *MODEL, "--batch-size", "2", "--out"]
    run(capsys, *arguments, str(tmp_path / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "impasto.cli", "generate", *arguments, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote 7 of 7 pictures") == 1
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_a_picture_is_drawn_again_by_its_settings(tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    options = (
        "--truncation",
        "0.5",
        "--truncation-mode",
        "prompt",
        "--upscale",
        "2",
        "--upscaler",
        "lanczos",
    )
    run(capsys, "a red circle", "--seed", "9", *MODEL, *options, "--out", str(first))
    picture = str(first / "000000.png")
    assert run(capsys, "--like", picture, "--out", str(again))[0] == 0
    assert (again / "000000.png").read_bytes() == (first / "000000.png").read_bytes()
    run(capsys, "--like", picture, "--seed", "3", "-n", "2", "--truncation", "1", "--out", str(again))
    settings = read_settings(again / "000001.png")
    assert settings["seed"] == 4 and settings["truncation"] == 1 and settings["upscale"] == 2
    settings["model"] = "my-own"
    save_png(Image.open(picture), first / "other.png", settings)
    status, _, errors = run(capsys, "--like", str(first / "other.png"))
    assert status == 2 and "was made by 'my-own'; say where that is with --model" in errors
    assert run(capsys, "--like", str(first / "other.png"), *MODEL, "--out", str(again))[0] == 0


def test_mistakes_name_the_line(tmp_path, capsys):
    for text, message in (
        ('{"prompt": "a"}\n{"prompt": 3}', 'prompts.jsonl:2: should be an object with a "prompt"'),
        ('{"prompt": "a", "sed": 3}', "prompts.jsonl:1: unknown key 'sed'; did you mean 'seed'?"),
        ('{"prompt": "a", "seed": true}', "prompts.jsonl:1: seed=True should be a int"),
        ('{"prompt": "a", "n": 0}', "prompts.jsonl:1: n=0 should be at least 1"),
        ('{"prompt": "a", "top_k": 3}', "--top-k means nothing to 'aurora-debug'"),
        ('{"prompt"', "prompts.jsonl:1: not JSON"),
        ("\n", "no prompt in it"),
    ):
        path = tmp_path / "prompts.jsonl"
        path.write_text(text)
        status, _, errors = run(capsys, "--prompts", str(path), *MODEL, "--out", str(tmp_path / "out"))
        assert status == 2 and message in errors and errors.count("\n") == 1, errors
    assert not (tmp_path / "out").exists()
    plain = tmp_path / "plain.png"
    Image.new("RGB", (4, 4)).save(plain)
    for arguments, message in (
        (["a", "--prompts", "x"], "give one of"),
        ([], "give one of"),
        (["--like", str(plain)], "carries no settings"),
        (["--like", "absent.png"], "absent.png: no such file"),
        (["--prompts", "absent.txt"], "absent.txt: no such file"),
        (["--prompts", str(plain)], "not a text in UTF-8"),
    ):
        status, _, errors = run(capsys, *arguments)
        assert status == 2 and message in errors, errors
