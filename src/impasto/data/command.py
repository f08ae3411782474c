"""`impasto data`: its sub-verbs. Heavy imports live inside them, so that --help answers at once."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from impasto.command_options import DTYPES, usable_device, usable_dtype


def add_verbs(verb: argparse.ArgumentParser) -> None:
    """`check`, `pack`, `select` and `build` below `impasto data`."""
    verbs = verb.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="Look at every sample of a set.")
    check.description = (
        "Read and decode every sample: counts, sizes, caption lengths, languages, duplicates, bad files by "
        "reason, licence. Exit status 1 if more are bad than dataset.max_bad allows."
    )
    check.set_defaults(run=_check)
    check.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument("--out", metavar="DIR", help="also write report.json and a contact sheet there")
    pack = verbs.add_parser("pack", help="Write a set as web dataset shards.")
    pack.description = (
        "Any set to tar files of pictures, captions and JSON, with checksums: the same bytes for the same "
        "set. The same command goes on where it was stopped."
    )
    pack.set_defaults(run=_pack)
    for parser in (check, pack):
        _add_source(parser)
        parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads (default 2)")
    pack.add_argument("out", metavar="OUT", help="folder to write")
    pack.add_argument("--shard-size", type=int, default=1000, metavar="N", help="samples a tar file (1000)")
    _add_texts(verbs)
    _add_select(verbs)
    _add_build(verbs)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="PATH",
        help="folder of pictures, of tar files, or of datasets.save_to_disk; or scenes:COUNT:SIDE, "
        "or openglyphs:sample",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="option of the set, e.g. max_bad=0.2 or caption_column=prompt; may be repeated",
    )


def _add_texts(verbs: Any) -> None:
    texts = verbs.add_parser("texts", help="Encode the captions of a set once, for training.")
    texts.description = (
        "Features of all captions of a set by a frozen text encoder, in a file beside the set, named by the "
        "encoder's fingerprint. Prints the setting that makes a run read it. The same command goes on where "
        "it was stopped."
    )
    texts.set_defaults(run=_texts)
    _add_source(texts)
    texts.add_argument(
        "--encoder", default="sentence", metavar="NAME", help="sentence (default) or clip:DIRECTORY"
    )
    texts.add_argument("--dtype", choices=DTYPES, default="float32", help="of the encoder, as the run has it")
    texts.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    texts.add_argument("--out", metavar="DIR", help="folder to write (default: .impasto-text beside the set)")


def _add_select(verbs: Any) -> None:
    select = verbs.add_parser("select", help="Choose rows of LAION's or COYO's metadata to download.")
    select.description = (
        "Rows of metadata tables by similarity, scores, size, shape, caption, language, duplicates and a "
        "seeded sample, with counts by rule, as parquet files for img2dataset. Prints its command line."
    )
    select.set_defaults(run=_select)
    select.add_argument("sources", metavar="PATH", nargs="+", help="parquet file, folder of them, or pattern")
    select.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    select.add_argument(
        "--columns", action="append", default=[], metavar="WHAT=COLUMN", help="e.g. similarity=clip_b32"
    )
    select.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="rule or option, e.g. minimum_similarity=0.3 or maximum_unsafe=null; may be repeated",
    )
    select.add_argument("--workers", type=int, default=2, metavar="N", help="threads (default 2)")
    select.add_argument("--memory", default="1GB", metavar="SIZE", help="of DuckDB's buffers (default 1GB)")
    select.add_argument("--json", action="store_true", help="print JSON")


def _add_build(verbs: argparse._SubParsersAction) -> None:
    build = verbs.add_parser("build", help="Make a set from openly licensed sources.")
    build.description = (
        "openglyphs: emoji in eight art styles with captions in English and Chinese, from packages of the "
        "npm registry, as shards for `--data DIR/train`, with held-out concepts and cells, a data card and "
        "contact sheets. The same command goes on where it was stopped."
    )
    build.set_defaults(run=_build)
    build.add_argument("name", choices=("openglyphs",), metavar="NAME", help="openglyphs")
    build.add_argument("out", metavar="DIR", help="folder to write")
    build.add_argument("--size", type=int, default=64, metavar="PX", help="64 (default), 128 or 256")
    build.add_argument(
        "--groups",
        default="core",
        metavar="A,B",
        help="core (default: MIT, Apache-2.0, CC-BY), share-alike, icons, public-domain, "
        "photographs-mixed-licences",
    )
    build.add_argument(
        "--background",
        default="white",
        metavar="A,B",
        help="white (default), pink, black ...; one of several each",
    )
    build.add_argument(
        "--packages", metavar="DIR", help="take the packages from here (what npm pack gave) and fetch nothing"
    )
    build.add_argument(
        "--limit", type=int, default=0, metavar="N", help="at most N drawings, of whole concepts"
    )
    build.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")


def _check(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from impasto.config import override
    from impasto.data.check import check, report, write_report
    from impasto.data.options import DatasetOptions

    options = override(DatasetOptions(), arguments.settings)
    with _progress("samples") as progress:
        findings = check(arguments.source, options, workers=arguments.workers, progress=progress)
    print(json.dumps(findings, indent=2, ensure_ascii=False) if arguments.json else report(findings))
    if arguments.out:
        write_report(findings, Path(arguments.out), options)
        print(f"wrote {Path(arguments.out) / 'report.json'} and sheet.png", file=sys.stderr)
    return 0 if findings["within_ceiling"] else 1


def _pack(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.config import override
    from impasto.data.options import DatasetOptions
    from impasto.data.pack import pack

    options = override(DatasetOptions(), arguments.settings)
    with _progress("shards") as progress:
        packed = pack(
            arguments.source,
            Path(arguments.out),
            options,
            shard_size=arguments.shard_size,
            workers=arguments.workers,
            progress=progress,
        )
    bad = sum(len(names) for names in packed["bad"].values())
    print(f"wrote {packed['samples']:,} samples in {packed['shards']:,} shards to {arguments.out}; {bad} bad")
    return 0


def _texts(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.config import override
    from impasto.data.options import DatasetOptions
    from impasto.data.texts import write_texts
    from impasto.text import load_encoder

    options, device = override(DatasetOptions(), arguments.settings), usable_device(arguments.device)
    encoder, dtype = load_encoder(arguments.encoder), usable_dtype(arguments.dtype, device)
    _ = encoder.fingerprint  # before the cast, which makes it no other encoder
    encoder.to(device)
    encoder.to(dtype)
    out = Path(arguments.out) if arguments.out else None
    with _progress("captions") as progress:
        written = write_texts(arguments.source, options, encoder, dtype, out, progress)
    size = written.path.stat().st_size / 2**20
    print(f"{written.captions:,} captions, {size:,.1f} MiB, in {written.path}")
    if len(written.faults):
        print(f"bad samples: {written.faults.summary()}")
    print(f"to train with them: --set dataset.text_features={written.path.parent}")
    return 0


def _select(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from impasto.config import override
    from impasto.data.select import report, select
    from impasto.data.select_rules import SelectionOptions

    settings = [*arguments.settings, *(f"columns.{mapping}" for mapping in arguments.columns)]
    with _progress("rows") as progress:
        selection = select(
            arguments.sources,
            Path(arguments.out),
            override(SelectionOptions(), settings),
            threads=arguments.workers,
            memory=arguments.memory,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(selection, indent=2, ensure_ascii=False))
    else:
        print(f"{report(selection)}\n\nto download (change its numbers at will):\n{selection['command']}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.data.glyphs.build import build
    from impasto.data.glyphs.options import BuildOptions

    options = BuildOptions(
        size=arguments.size,
        groups=tuple(arguments.groups.split(",")),
        backgrounds=tuple(arguments.background.split(",")),
        limit=arguments.limit,
        packages=Path(arguments.packages) if arguments.packages else None,
        workers=arguments.workers,
    )
    with _steps() as progress:
        table = build(Path(arguments.out), options, progress)
    print(table)
    print(f"wrote {arguments.out}: train, held-out sets, README.md (the data card), NOTICE, sheets")
    return 0


@contextmanager
def _steps() -> Iterator[Any]:
    """A bar for each step on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def told(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total)

        yield told


@contextmanager
def _progress(unit: str) -> Iterator[Any]:
    """A bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
