"""`impasto data select`: every rule by rows counted by hand, and against a plain reading of the rules."""

import hashlib
import json
import random
import shlex
import sys
from pathlib import Path

import pyarrow
import pytest
import regex
from pyarrow import parquet

from impasto.cli import main
from impasto.config import ConfigError
from impasto.data.records import DataError
from impasto.data.select import report, select
from impasto.data.select_rules import SelectionOptions

OFF = {
    "minimum_side": None,
    "maximum_aspect": None,
    "maximum_watermark": None,
    "maximum_unsafe": None,
    "minimum_caption": None,
    "maximum_caption": None,
    "duplicates": (),
}
GOOD = {
    "url": "u",
    "text": "a red apple",
    "width": 400,
    "height": 300,
    "image_phash": "aa",
    "clip_similarity_vitb32": 0.3,
    "nsfw_score_opennsfw2": 0.1,
    "watermark_score": 0.1,
    "aesthetic_score_laion_v2": 5.0,
}
LAION = {
    "url": "URL",
    "text": "TEXT",
    "width": "WIDTH",
    "height": "HEIGHT",
    "clip_similarity_vitb32": "similarity",
    "nsfw_score_opennsfw2": "punsafe",
    "watermark_score": "pwatermark",
    "aesthetic_score_laion_v2": "AESTHETIC_SCORE",
}


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def good(*changes: dict) -> list[dict]:
    """Rows that pass every rule, but for the changes; each with an address of its own."""
    return [{**GOOD, "url": f"https://example.com/{n}", **change} for n, change in enumerate(changes)]


def rows_of(out: Path) -> list[dict]:
    return [row for part in sorted(out.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]


def dropped(tmp_path: Path, rows: list[dict], **options) -> dict[str, int]:
    """What the rules dropped that dropped anything. The counts have to add up."""
    write(tmp_path / "in.parquet", rows)
    told = select([str(tmp_path / "in.parquet")], tmp_path / "out", SelectionOptions(**{**OFF, **options}))
    assert told["rows"] == len(rows) == told["kept"] + sum(told["dropped"].values())
    assert told["kept"] == len(rows_of(tmp_path / "out"))
    return {name: count for name, count in told["dropped"].items() if count}


@pytest.mark.parametrize(
    ("options", "changes", "expected"),
    [
        (
            {},
            [{"url": None}, {"url": " "}, {"text": None}, {"text": " \n"}, {}],
            {"no url": 2, "no caption": 2},
        ),
        (
            {"minimum_side": 300},
            [{}, {"height": 299}, {"width": 299}, {"width": None}, {"height": 0}],
            {"minimum_side": 2, "no size": 2},
        ),
        (
            {"maximum_aspect": 2.0},
            [{"width": 600}, {"width": 601}, {"width": 149}, {"height": None}],
            {"maximum_aspect": 2, "no size": 1},
        ),
        (
            {"minimum_similarity": 0.3},
            [{}, {"clip_similarity_vitb32": 0.29}, {"clip_similarity_vitb32": float("nan")}],
            {"minimum_similarity": 1, "no similarity": 1},
        ),
        ({"minimum_aesthetic": 5.0}, [{}, {"aesthetic_score_laion_v2": 4.9}], {"minimum_aesthetic": 1}),
        (
            {"maximum_watermark": 0.1, "maximum_unsafe": 0.1},
            [{}, {"watermark_score": 0.2, "nsfw_score_opennsfw2": 0.2}, {"nsfw_score_opennsfw2": 0.2}],
            {"maximum_watermark": 1, "maximum_unsafe": 1},
        ),
        (
            {"minimum_caption": 3, "maximum_caption": 5},
            [{"text": t} for t in ("ab", "abc", " 一只猫 ", "abcdef", "一只猫一只")],
            {"minimum_caption": 1, "maximum_caption": 1},
        ),
        (
            {"languages": ("zh",)},
            [{"text": "一只红苹果 red"}, {"text": "red apples 苹果"}, {"text": "りんごの木"}, {"text": "12"}],
            {"languages": 3},
        ),
        (
            {"languages": ("latin", "ja")},
            [{"text": t} for t in ("une pomme à côté", "красное", "林檎の木", "苹果", "12")],
            {"languages": 3},
        ),
        ({"duplicates": ("url",)}, [{"url": "a"}, {"url": "a", "text": "b"}, {}], {"duplicate url": 1}),
        (
            {"duplicates": ("pair",)},
            [{"url": "a"}, {"url": "a"}, {"url": "a", "text": "b"}],
            {"duplicate pair": 1},
        ),
        (
            {"duplicates": ("hash",)},
            [{}, {}, {"image_phash": "bb"}, {"image_phash": None}, {"image_phash": None}],
            {"duplicate hash": 1, "no hash": 2},
        ),
        (
            {"duplicates": ("hash",), "missing": "keep", "minimum_side": 300},
            [{}, {}, {"image_phash": None}, {"image_phash": None}, {"width": None}],
            {"duplicate hash": 2},
        ),
        ({"maximum_rows": 2}, [{}] * 5, {"maximum_rows": 3}),
    ],
)
def test_each_rule_drops_what_it_says(tmp_path, options, changes, expected):
    assert dropped(tmp_path, good(*changes), **options) == expected


def test_a_language_that_is_stated_is_believed(tmp_path):
    rows = good({"language": "en"}, {"language": "ZH-cn"}, {"language": "fr"}, {"language": None})
    assert dropped(tmp_path, rows, languages=("en", "zh")) == {"languages": 1, "no language": 1}
    assert dropped(tmp_path, rows, languages=("zh",), language_from="script") == {"languages": 4}


def test_a_share_is_near_its_size_and_nested(tmp_path):
    rows = good(*[{}] * 2000)
    gone = dropped(tmp_path, rows, share=0.25)["share"]
    assert 1400 < gone < 1600
    small = {row["url"] for row in rows_of(tmp_path / "out")}
    dropped(tmp_path, rows, share=0.5)
    assert small < {row["url"] for row in rows_of(tmp_path / "out")}
    dropped(tmp_path, rows, share=0.25, seed=1)
    assert small != {row["url"] for row in rows_of(tmp_path / "out")}


def random_rows(rng: random.Random, count: int) -> list[dict]:
    texts = [
        "a red apple",
        "红苹果在桌上",
        "красное яблоко",
        "りんごの木です",
        "abc",
        "",
        "x" * 30,
        "été à la mer",
    ]
    return [
        {
            "url": rng.choice([None, *[f"https://example.com/{n}" for n in range(count // 2)]]),
            "text": rng.choice([None, *texts]),
            "width": rng.choice([None, 0, 64, 100, 200, 400]),
            "height": rng.choice([64, 100, 200, 400]),
            "image_phash": rng.choice([None, *[f"{n:04x}" for n in range(count // 3)]]),
            "clip_similarity_vitb32": rng.choice([None, *[n / 100 for n in range(20, 40)]]),
            "nsfw_score_opennsfw2": rng.choice([None, *[n / 10 for n in range(8)]]),
            "watermark_score": rng.choice([n / 10 for n in range(8)]),
            "aesthetic_score_laion_v2": rng.choice([None, *[4 + n / 4 for n in range(8)]]),
        }
        for _ in range(count)
    ]


def digest(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode()).digest(), "little")


def plain(rows: list[dict], options: SelectionOptions) -> tuple[list[dict], dict[str, int]]:
    """The same rules, row by row: the rows kept, in order, and the counts."""
    counts: dict[str, int] = {}
    left = []
    for row in rows:
        row = dict(zip(GOOD, row.values(), strict=True))
        row = {
            key: None if value in ("", 0) and key in ("text", "width") else value
            for key, value in row.items()
        }
        why = plain_reason(row, options)
        if why:
            counts[why] = counts.get(why, 0) + 1
        else:
            order = ("text", "width", "height", "clip_similarity_vitb32", "aesthetic_score_laion_v2")
            order += ("watermark_score", "nsfw_score_opennsfw2", "image_phash", "language")
            texts = ["\x1e" if row.get(key) is None else str(row[key]) for key in order]
            left.append((digest(f"{options.seed}:{row['url']}"), digest("\x1f".join(texts)), row))
    keys = {
        "pair": lambda e: (e[0], e[2]["text"]),
        "url": lambda e: e[0],
        "hash": lambda e: e[2]["image_phash"] or id(e),
    }
    for way in options.duplicates:
        best: dict = {}
        for entry in sorted(left, key=lambda e: (e[1], e[0])):
            best.setdefault(keys[way](entry), entry)
        counts[f"duplicate {way}"] = len(left) - len(best)
        left = list(best.values())
    left.sort(key=lambda e: e[:2])
    if options.maximum_rows is not None:
        counts["maximum_rows"] = max(0, len(left) - options.maximum_rows)
        left = left[: options.maximum_rows]
    return [entry[2] for entry in left], {name: count for name, count in counts.items() if count}


def plain_reason(row: dict, options: SelectionOptions) -> str | None:
    if row["url"] is None or row["text"] is None:
        return "no url" if row["url"] is None else "no caption"
    drop = options.missing == "drop"
    if row["width"] is None and drop:
        return "no size"
    short, long = sorted((row["width"] or row["height"], row["height"]))
    if short < options.minimum_side:
        return "minimum_side"
    if long > options.maximum_aspect * short:
        return "maximum_aspect"
    for name, key in (
        ("minimum_similarity", "clip_similarity_vitb32"),
        ("minimum_aesthetic", "aesthetic_score_laion_v2"),
        ("maximum_watermark", "watermark_score"),
        ("maximum_unsafe", "nsfw_score_opennsfw2"),
    ):
        bound, value = getattr(options, name), row[key]
        if value is None:
            if drop:
                return f"no {name.split('_')[1]}"
        elif (value < bound) if name.startswith("minimum") else (value > bound):
            return name
    if len(row["text"]) < options.minimum_caption:
        return "minimum_caption"
    if len(row["text"]) > options.maximum_caption:
        return "maximum_caption"
    letters = regex.findall(r"\p{L}", row["text"])
    latin = sum(bool(regex.match(r"\p{Latin}", letter)) for letter in letters) >= len(letters) / 2
    han = sum(bool(regex.match(r"\p{Han}", letter)) for letter in letters) >= len(letters) / 2
    if not latin and not (han and not regex.search(r"[\p{Hiragana}\p{Katakana}]", row["text"])):
        return "languages"
    if drop and row["image_phash"] is None and "hash" in options.duplicates:
        return "no hash"
    return "share" if digest(f"{options.seed}:{row['url']}") >= options.share * 2**128 else None


@pytest.mark.parametrize("number", range(3))
def test_the_same_as_reading_row_by_row_in_any_order_with_any_threads(tmp_path, number):
    rng = random.Random(number)
    rows = random_rows(rng, 600)
    options = SelectionOptions(
        minimum_similarity=0.22,
        minimum_aesthetic=4.25,
        maximum_watermark=0.6,
        maximum_unsafe=0.6,
        minimum_side=65,
        minimum_caption=4,
        maximum_caption=25,
        languages=("latin", "zh"),
        share=0.8,
        duplicates=rng.choice([("url",), ("pair", "url", "hash"), ("hash",), ()]),
        missing=rng.choice(["drop", "keep"]),
        maximum_rows=rng.choice([None, 20]),
        seed=number,
        part_rows=7,
    )
    expected, counts = plain(rows, options)
    assert len(expected) > 10
    for turn, threads in enumerate((1, 2)):
        folder = tmp_path / str(turn)
        for start in range(0, 600, 200):
            write(folder / f"{turn * (600 - start)}-{start}.parquet", rows[start : start + 200])
        rng.shuffle(rows)  # the second time in another order, of other files
        told = select([str(folder)], tmp_path / f"out{turn}", options, threads=threads)
        assert told["kept"] + sum(told["dropped"].values()) == told["rows"] == 600
        assert {name: count for name, count in told["dropped"].items() if count} == counts
        written = rows_of(tmp_path / f"out{turn}")
        assert [(row["url"], row["caption"], row["similarity"], row["hash"]) for row in written] == [
            (row["url"], row["text"], row["clip_similarity_vitb32"], row["image_phash"]) for row in expected
        ]
        assert [part["rows"] for part in told["parts"]] == [
            min(7, len(expected) - start) for start in range(0, len(expected), 7)
        ]
        assert all(row["select_key"] == hashlib.md5(row["url"].encode()).hexdigest() for row in written)


def test_laion_and_coyo_together(tmp_path):
    """Files of both, by their own names; an address in both counts once."""
    coyo = good({"url": "a"}, {"url": "b"}, {"url": "c", "watermark_score": 0.9})
    laion = [{LAION[key]: row[key] for key in LAION} for row in good({"url": "b"}, {"url": "d"})]
    for row in laion:
        row["WIDTH"] = float(row["WIDTH"])
    write(tmp_path / "in" / "coyo.parquet", coyo)
    write(tmp_path / "in" / "sub" / "laion.parquet", laion)
    told = select([str(tmp_path / "in" / "**" / "*.parquet")], tmp_path / "out")
    assert {name: count for name, count in told["dropped"].items() if count} == {
        "maximum_watermark": 1,
        "duplicate url": 1,
    }
    written = rows_of(tmp_path / "out")
    assert sorted(row["url"] for row in written) == ["a", "b", "d"]
    write(tmp_path / "in" / ".hidden" / "left.parquet", coyo)
    again = select([str(tmp_path / "in"), f"{tmp_path}/in/../in/coyo.parquet"], tmp_path / "again")
    assert again["rows"] == 5 and rows_of(tmp_path / "again") == written
    assert all((row["width"], row["aesthetic"]) == (400, 5.0) for row in written)


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    rows = good({}, {})
    for row in rows:
        del row["watermark_score"]
    file = write(tmp_path / "in.parquet", rows)

    def message(kind: type[Exception], source: Path = file, **options) -> str:
        with pytest.raises(kind) as error:
            select([str(source)], tmp_path / "out", SelectionOptions(**options))
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".*"))
        return str(error.value)

    text = message(ConfigError)
    for part in (
        "in.parquet has no column 'watermark_score'",
        "--columns watermark=",
        "maximum_watermark=null",
    ):
        assert part in text
    text = message(ConfigError, maximum_watermark=None, columns={"similarity": "clip_similarity_vitb23"})
    assert "did you mean 'clip_similarity_vitb32'?" in text
    assert "latin" in message(ConfigError, maximum_watermark=None, languages=("en",))
    assert "no column 'txet'" in message(ConfigError, maximum_watermark=None, keep=("txet",))
    assert "taken" in message(ConfigError, maximum_watermark=None, keep=("width",))
    assert "no parquet file" in message(DataError, tmp_path / "nothing")
    whole = write(
        tmp_path / "whole.parquet", good(*[{"text": f"caption {n}"} for n in range(5000)])
    ).read_bytes()
    cut, damaged = tmp_path / "cut.parquet", tmp_path / "damaged.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    damaged.write_bytes(whole[:50] + bytes(20000) + whole[20050:])
    assert "cut.parquet cannot be read" in message(DataError, cut)
    assert "damaged.parquet cannot be read" in message(DataError, damaged)
    for wrong in ({"share": 0}, {"minimum_caption": 9, "maximum_caption": 8}, {"columns": {"urll": "x"}}):
        with pytest.raises(ConfigError):
            SelectionOptions(**wrong)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'impasto[select]'" in message(ConfigError)


def test_only_its_own_folder_is_replaced(tmp_path):
    file = write(tmp_path / "in" / "a.parquet", good(*[{}] * 5))
    out = tmp_path / "out"
    select([str(file)], out, SelectionOptions())
    before = (out / "selection.json").stat().st_mtime_ns
    left = tmp_path / ".out.select.tmp"  # of a run that was killed
    (left / "selection").mkdir(parents=True)
    (left / "rows.duckdb").write_bytes(b"half a database")
    select([str(file)], out, SelectionOptions())  # the same: nothing to do
    assert (out / "selection.json").stat().st_mtime_ns == before and not left.exists()
    part = out / "part-00000.parquet"
    stored = part.read_bytes()
    for damage in (part.unlink, lambda: part.write_bytes(stored[:-1])):  # by hand: made again
        damage()
        select([str(file)], out, SelectionOptions())
        assert part.read_bytes() == stored and len(rows_of(out)) == 5
    assert select([str(file)], out, SelectionOptions(maximum_rows=2))["kept"] == 2 == len(rows_of(out))
    (out / "00000.tar").write_bytes(b"somebody else's")
    for place in (out, tmp_path / "in", file):
        with pytest.raises(DataError, match=r"choose another folder"):
            select([str(file)], place, SelectionOptions())
    assert (out / "00000.tar").exists() and file.exists()


def test_the_command_end_to_end(tmp_path, capsys):
    rows = good({"extra": "x"}, {"width": 30}, {"text": "short"}, {"clip_similarity_vitb32": 0.1})
    write(tmp_path / "in" / "it's [1].parquet", rows)
    out = tmp_path / "chosen rows"
    arguments = ["data", "select", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]
    arguments += [
        "--set",
        "minimum_similarity=0.2",
        "--set",
        "keep=extra",
        "--columns",
        "unsafe=watermark_score",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "rows read" in printed and "dropped: minimum_side" in printed
    told = json.loads((out / "selection.json").read_text())
    assert report(told) in printed and told["command"] in printed
    assert (told["rows"], told["kept"]) == (4, 1)
    assert told["made_of"]["inputs"][0]["columns"]["unsafe"] == "watermark_score"
    words = shlex.split(told["command"])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    table = parquet.read_table(out / "part-00000.parquet")
    columns = json.loads(options["--save_additional_columns"])
    assert {options["--url_col"], options["--caption_col"], *columns} | {"width", "height"} == set(
        table.column_names
    )
    assert options["--url_list"] == str(out) and "extra" in columns
    assert main([*arguments, "--set", "minimum_size=3"]) == 2
    assert "did you mean 'minimum_side'" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
