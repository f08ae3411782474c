"""Blind pairs: nothing tells which is which, and the key gives it back."""

import re

import pytest

from impasto.config import ConfigError
from impasto.evaluation.blind import score_blind, write_blind
from impasto.metrics.blind import (
    answer_sheet,
    key_document,
    make_pairs,
    read_answers,
    score_answers,
)
from impasto.metrics.intervals import wilson
from tests.metrics.test_picture_sets import write_pictures

FIRST = [(f"{n:06d}.png", f"prompt {n // 2}") for n in range(60)]
SECOND = [(f"b{n:06d}.png", f"prompt {n // 2}") for n in range(60)]


def test_wilson_by_hand():
    """8 of 10: (0.8 + z^2/20 +- z sqrt(0.8 0.2/10 + z^2/400)) / (1 + z^2/10), z^2 = 3.841459."""
    found = wilson(8, 10)
    assert found.mean == 0.8
    assert found.low == pytest.approx(0.490162, abs=1e-6)
    assert found.high == pytest.approx(0.943318, abs=1e-6)
    assert wilson(0, 4).low == 0 and wilson(0, 4).high == pytest.approx(3.841459 / 7.841459, abs=1e-6)
    assert wilson(4, 4).high == pytest.approx(1)
    for successes, trials in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, trials)


def test_pairs_have_one_prompt_and_no_fixed_side():
    pairs = make_pairs(FIRST, SECOND, seed=3)
    assert len(pairs) == 60 and {p.a for p in pairs} == {name for name, _ in FIRST}
    assert all(f"b{p.a}" == p.b for p in pairs)  # picture k of a prompt with picture k of it
    assert 15 < sum(p.a_left for p in pairs) < 45
    assert pairs != sorted(pairs, key=lambda p: p.a)
    assert pairs == make_pairs(FIRST, SECOND, seed=3) != make_pairs(FIRST, SECOND, seed=4)
    assert len(make_pairs(FIRST, SECOND, most=7)) == 7


def test_a_rater_who_always_knows_is_found_out():
    pairs = make_pairs(FIRST, SECOND[:40], seed=1)
    key = key_document(pairs, "a", "b", 1)
    lines = answer_sheet(key["page"], len(pairs)).splitlines()
    for number, pair in enumerate(pairs, start=1):
        lines[number + 1] += "left" if pair.a_left else " Right "
    lines[2], lines[3] = "1,tie", "2,"
    verdict = score_answers(read_answers("\n".join(lines), key), key)
    assert (verdict.a, verdict.b, verdict.ties, verdict.unanswered) == (38, 0, 1, 1)
    assert verdict.share == wilson(38, 38)
    nothing = score_answers({}, key)
    assert nothing.share is None and nothing.unanswered == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("page,other\n1,left", "answers to page other"),
        ("1,left", "page None"),
        ("page,PAGE\n61,left", "line 2: there is no pair '61'"),
        ("page,PAGE\n1,best", "'best' should be left, right, tie"),
        ("page,PAGE\n1,left\n1,left", "answered before"),
    ],
)
def test_wrong_answers_are_named(text, message):
    key = key_document(make_pairs(FIRST, SECOND), "a", "b", 0)
    with pytest.raises(ConfigError, match=message):
        read_answers(text.replace("PAGE", key["page"]), key)


def test_no_prompt_in_common():
    with pytest.raises(ConfigError, match="share no prompt"):
        make_pairs(FIRST, [("x.png", "another"), ("y.png", None)])


def test_the_page_says_nothing_and_the_key_everything(tmp_path):
    prompts = ["a <red> star", "two hearts"]
    first = write_pictures(tmp_path / "secret_one", 4, prompts=prompts)
    second = write_pictures(tmp_path / "secret_two", 5, prompts=[*prompts, "no partner"], seed=1)
    (second / "000004.png").write_bytes(b"nothing")
    out = tmp_path / "blind"
    told = write_blind(str(first), str(second), out, seed=2)
    assert told.startswith("3 pairs; without a partner or not drawn: 1 of") and "000004.png" in told
    page = (out / "blind.html").read_text()
    assert "secret" not in page and ".png" not in page and "<script" not in page and "http" not in page
    assert "a &lt;red&gt; star" in page and len(re.findall("data:image/png", page)) == 6
    sheet = out / "answers.csv"
    sheet.write_text(re.sub(r"(?m)^(\d+),$", r"\1,left", sheet.read_text()))
    assert "Wilson's 95 % interval" in score_blind(sheet, out) and (out / "blind.json").is_file()
    with pytest.raises(ConfigError, match="holds answers"):
        write_blind(str(first), str(second), out, seed=2)
    with pytest.raises(ConfigError, match=r"no key.json"):
        score_blind(sheet, tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        score_blind(tmp_path / "absent.csv", out)
    sheet.write_bytes("pair,prefer\n0,l\xe4ft\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"answers.csv is not UTF-8; save it as"):
        score_blind(sheet, out)
