"""`impasto caption` and `impasto write`: what MARS says of pictures, and documents of text and pictures.
Heavy imports live inside the verbs, so that --help answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from impasto.command_options import progress_bars, usable_device, usable_dtype
from impasto.config import ConfigError


def add_caption(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto caption`, except those of the model."""
    verb.description = (
        "Describe pictures with a MARS model: one line each, the file and a sentence. With --out, into a "
        "file of many: the same line goes on with what was begun, and what cannot be read is counted."
    )
    verb.set_defaults(run=_caption)
    verb.add_argument("pictures", nargs="*", metavar="PICTURE", help="image file, or a folder of them")
    verb.add_argument(
        "--list", dest="listed", metavar="FILE", help="a file with the path of a picture a line"
    )
    verb.add_argument(
        "--language",
        action="append",
        choices=("en", "zh"),
        help="English or Chinese (default: as it likes); with --out, both may be given",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--out", metavar="FILE", help="write a .jsonl or .csv file")
    verb.add_argument(
        "--max-bad",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="with --out: stop above it (default 0.05)",
    )
    verb.add_argument("--batch-size", type=int, default=32, help="pictures per pass (default 32)")


def add_write(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto write`, except those of the model."""
    verb.description = (
        "Let a MARS model that was trained on stories go on from a sentence: texts and pictures in the order "
        "that it chooses. The folder gets story.txt, a PNG file for each picture, and story.html, all on one "
        "page."
    )
    verb.set_defaults(run=_write)
    verb.add_argument("prompt", metavar="SENTENCE", help="how it begins")
    verb.add_argument("-n", "--stories", type=int, default=1, metavar="N", help="so many stories (default 1)")
    verb.add_argument("--seed", type=int, default=0, help="noise stream of the first story (default 0)")
    verb.add_argument("--out", default="story", metavar="DIR", help="folder to write (default story)")
    verb.add_argument("--pictures", type=int, default=4, metavar="N", help="at most so many (default 4)")
    verb.add_argument("--words", type=int, default=160, metavar="N", help="at most so many tokens of text")
    verb.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="how strongly pictures follow the text (default: the model's)",
    )
    verb.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 takes the likeliest (1)")


def _check_family(arguments: argparse.Namespace, what: str) -> None:
    """ConfigError where the model is of another family than MARS."""
    from impasto.loading import describe

    family = describe(arguments.model, arguments.settings).family
    if family.name != "mars":
        raise ConfigError(f"'{arguments.model}' is a model of the family {family.name}; only mars {what}")


def _load(arguments: argparse.Namespace) -> Any:
    import impasto

    pipe = impasto.load(arguments.model, arguments.settings)
    device = usable_device(arguments.device)
    return pipe.to(device, usable_dtype(arguments.dtype, device))


def _caption(arguments: argparse.Namespace) -> int:
    from impasto.captioning import find_pictures

    if not arguments.pictures and arguments.listed is None:
        raise ConfigError("name pictures, a folder, or --list FILE")
    if arguments.batch_size < 1 or not 0 <= arguments.max_bad <= 1:
        raise ConfigError("--batch-size should be at least 1, and --max-bad a share, from 0 to 1")
    _check_family(arguments, "describes")
    pictures = find_pictures(arguments.pictures, arguments.listed)
    languages = arguments.language or [None]
    if arguments.out is None:
        return _print_captions(arguments, pictures, languages)
    from impasto.captioning import caption_file
    from impasto.loading import identity

    made = {"model": identity(arguments.model), "settings": arguments.settings, "dtype": arguments.dtype}
    with progress_bars() as progress:
        found = caption_file(
            pictures, Path(arguments.out), lambda: _describer(arguments), made, languages=languages,
            batch=arguments.batch_size, max_bad=arguments.max_bad, progress=progress,
        )  # fmt: skip
    bad = f"; {len(found.faults):,} cannot be read: {found.faults.summary()}" if len(found.faults) else ""
    print(
        f"{found.pictures:,} pictures, {found.written:,} captions written, {found.before:,} were there{bad}"
    )
    return 0


def _describer(arguments: argparse.Namespace) -> Callable[[Sequence[Any], str | None], list[str]]:
    pipe = _load(arguments)
    if not pipe.trained:
        print(f"'{pipe.name}' is untrained: its sentences describe no picture.", file=sys.stderr)

    def tell(images: Sequence[Any], language: str | None) -> list[str]:
        return pipe.caption(images, language, batch_size=arguments.batch_size)

    return tell


def _print_captions(arguments: argparse.Namespace, paths: Sequence[Path], languages: Sequence[Any]) -> int:
    import json

    from impasto.pictures import open_picture

    if len(languages) > 1:
        raise ConfigError("several --language go with --out FILE")
    pictures = [open_picture(path) for path in paths]
    texts = _describer(arguments)(pictures, languages[0])
    told = {str(path): text for path, text in zip(paths, texts, strict=True)}
    if arguments.json:
        print(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        for path, text in told.items():
            print(f"{path}: {text}")
    return 0


def _write(arguments: argparse.Namespace) -> int:
    if arguments.stories < 1:
        raise ConfigError(f"-n {arguments.stories} should be at least 1")
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already; name another folder")
    from impasto.stories import write_pages

    _check_family(arguments, "writes documents")
    pipe = _load(arguments)
    guidance = pipe.config.guidance if arguments.guidance is None else arguments.guidance
    options = {"guidance": guidance, "temperature": arguments.temperature}
    limits = {"max_words": arguments.words, "max_pictures": arguments.pictures}
    seeds = range(arguments.seed, arguments.seed + arguments.stories)
    written = [pipe.write_document(arguments.prompt, seed=seed, **options, **limits) for seed in seeds]
    write_pages(written, out, {"model": pipe.name, "trained": pipe.trained, **options, **limits})
    print((out / "story.txt").read_text(encoding="utf-8"), end="")
    if not any(not isinstance(part, str) for story in written for part in story.parts):
        print(f"'{pipe.name}' opened no picture; models trained on stories do", file=sys.stderr)
    print(f"wrote {out}: story.txt, story.html and the pictures", file=sys.stderr)
    return 0


VERBS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("caption", "Describe pictures with a MARS model.", add_caption),
    ("write", "Stories of text and pictures by a MARS model.", add_write),
)
