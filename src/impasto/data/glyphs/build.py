"""`impasto data build openglyphs`: packages, drawings, duplicates, splits, shards, data card.

Every step is a function of the packages and of what was asked for, so that the same build gives the same
shards. A build that was stopped goes on with the styles and shards that are missing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from PIL import features

from impasto.data.glyphs import card, sources
from impasto.data.glyphs.concepts import Concepts, read_concepts
from impasto.data.glyphs.dedupe import duplicates
from impasto.data.glyphs.fetch import default_folder, find_packages
from impasto.data.glyphs.folder import DESCRIPTION, WORK, claim, dump, finished
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.glyphs import read_glyphs
from impasto.data.glyphs.options import BuildOptions
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.pictures import GlyphRecords, Picture, captions_of_picture
from impasto.data.glyphs.render import require_renderer
from impasto.data.glyphs.splits import SPLITS, TRAIN, fraction, split_cells
from impasto.data.glyphs.spool import Spool, find_spool, paint_style
from impasto.data.options import DatasetOptions
from impasto.data.pack import pack_records
from impasto.data.records import DataError, Faults
from impasto.runtime.files import atomic_write_text

VERSION = 1
Progress = Callable[[str, int, int], None]


def build(out: Path, options: BuildOptions, progress: Progress = lambda step, done, total: None) -> str:
    """Build the set into `out`; returns the data card's table of counts. progress(step, done, total).

    ConfigError or DataError, in one line: `out` holds another build, a package is absent, no renderer."""
    out = Path(out)
    wanted = [one for one in sources.SETS if one.group in options.groups]
    packages = [sources.LABELS, *(one.package for one in wanted)]
    folder = options.packages or default_folder()
    made_of = _made_of(options)
    counts = finished(out, made_of)
    if counts is not None:
        return card.table_of(counts)
    digests = find_packages(
        packages,
        folder,
        fetch=options.packages is None,
        progress=lambda done, total: progress("packages", done, total),
    )
    made_of |= {"packages": digests}
    claim(out, made_of)
    concepts = read_concepts(folder / sources.LABELS.file_name)
    glyphs = read_wanted(wanted, folder, concepts)
    spools = _paint_missing(out / WORK, wanted, glyphs, options, progress)
    pictures, faults = arrange(wanted, spools, {style: found for style, (found, _) in glyphs.items()})
    if not pictures:
        raise DataError(f"no drawing is left: {faults.summary()}")
    for split in SPLITS:
        _write_split(out / split, [one for one in pictures if one.split == split], made_of, options, progress)
    counts = card.counts_of(pictures, faults, glyphs)
    captions = [caption.text for one in pictures for caption in captions_of_picture(one)]
    card.write_card(out, pictures, counts, made_of, captions)
    atomic_write_text(out / DESCRIPTION, dump({"made_of": made_of, "counts": counts}))
    shutil.rmtree(out / WORK)
    return card.table_of(counts)


def read_wanted(
    wanted: Sequence[GlyphSet], folder: Path, concepts: Concepts
) -> dict[str, tuple[list[Glyph], Faults]]:
    """{style: its drawings, and what has no name}."""
    found = {}
    for glyph_set in wanted:
        faults = Faults()
        found[glyph_set.style] = (list(read_glyphs(glyph_set, folder, concepts, faults)), faults)
    return found


def arrange(
    wanted: Sequence[GlyphSet], spools: dict[str, Spool], glyphs: dict[str, list[Glyph]]
) -> tuple[list[Picture], Faults]:
    """The pictures that are kept, in their splits; and what was left out. Repeats go, the first style of the
    list stays; then every cell gets its split."""
    faults = Faults()
    every: list[Picture] = []
    for glyph_set in wanted:
        spool = spools[glyph_set.style]
        for reason, name in spool.faults:
            faults.add(reason, name)
        drawn = {glyph.name: glyph for glyph in glyphs[glyph_set.style]}
        every += [Picture(glyph_set, spool, kept, drawn[kept.name], TRAIN) for kept in spool.kept]
    repeats = duplicates((one.concept.key, one.kept.look) for one in every)
    for number in repeats:
        faults.add("duplicate", f"{every[number].glyph_set.style}:{every[number].kept.name}")
    chosen = [one for number, one in enumerate(every) if number not in repeats]
    cells = [
        [one.cell for one in chosen if one.glyph_set.group == group]
        for group in dict.fromkeys(glyph_set.group for glyph_set in wanted)
    ]
    splits = split_cells(cells)
    return [one._replace(split=splits[one.cell]) for one in chosen], faults


def limited(glyphs: dict[str, tuple[list[Glyph], Faults]], limit: int) -> dict[str, list[Glyph]]:
    """The drawings of whole concepts, in an order of concepts that is always the same, up to `limit`."""
    every = {style: found for style, (found, _) in glyphs.items()}
    if not limit:
        return every
    sizes: dict[str, int] = {}
    for found in every.values():
        for glyph in found:
            sizes[glyph.concept.base] = sizes.get(glyph.concept.base, 0) + 1
    left, chosen = limit, set()
    for base in sorted(sizes, key=lambda base: (fraction("openglyphs limit", base), base)):
        if sizes[base] <= left:
            left -= sizes[base]
            chosen.add(base)
    return {style: [g for g in found if g.concept.base in chosen] for style, found in every.items()}


def _paint_missing(
    folder: Path,
    wanted: Sequence[GlyphSet],
    glyphs: dict[str, tuple[list[Glyph], Faults]],
    options: BuildOptions,
    progress: Progress,
) -> dict[str, Spool]:
    """Every style painted."""
    chosen = limited(glyphs, options.limit)
    total, done = sum(map(len, chosen.values())), 0
    spools = {}
    for glyph_set in wanted:
        style, found = glyph_set.style, chosen[glyph_set.style]
        spools[style] = find_spool(folder, style) or paint_style(
            glyph_set,
            found,
            glyphs[style][1],
            folder,
            size=options.size,
            backgrounds=options.backgrounds,
            workers=options.workers,
            progress=partial(_told, progress, done, total),
        )
        done += len(found)
    return spools


def _told(progress: Progress, before: int, total: int, done: int) -> None:
    progress("drawings", before + done, total)


def _write_split(
    out: Path, pictures: list[Picture], made_of: dict[str, Any], options: BuildOptions, progress: Progress
) -> None:
    if not pictures:
        return
    fingerprint = hashlib.sha256(dump(made_of).encode("utf-8")).hexdigest()
    pack_records(
        GlyphRecords(pictures, fingerprint),
        out.name,
        out,
        DatasetOptions(max_bad=0.0),
        workers=options.workers,
        progress=lambda done, total: progress(f"shards of {out.name}", done, total),
    )


def _made_of(options: BuildOptions) -> dict[str, Any]:
    """What the bytes depend on, besides the packages."""
    asked = asdict(options)
    del asked["packages"], asked["workers"]
    painters = {"resvg-py": require_renderer(), "zlib": features.version("zlib"), "pillow": _pillow()}
    return {"version": VERSION, **json.loads(json.dumps(asked)), "painted_with": painters}


def _pillow() -> str:
    from PIL import __version__

    return __version__
