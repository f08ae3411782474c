"""`impasto evaluate`: its options. What they do is in `actions`, imported only then, so that --help answers
at once."""

import argparse
from typing import Any

from impasto.command_options import DTYPES, add_drawing_options


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto evaluate`."""
    verb.set_defaults(run=_evaluate)
    verb.description = (
        "Score a model with the oracle of scenes: ten fixed prompts and sampled ones, of combinations that "
        "training contains and that it does not, with 95 % intervals, beside real renders, the untrained "
        "network and chance. A folder of pictures written by `impasto generate` is scored on its own "
        "prompts; with --reference it is measured against other pictures instead. --compare puts reports "
        "side by side, --blind makes a page for people to choose on."
    )
    verb.add_argument(
        "target", nargs="?", metavar="MODEL_OR_IMAGE_DIR", help="model, or a folder of pictures"
    )
    verb.add_argument(
        "--protocol",
        choices=("scenes", "languages", "stories", "train-10k", "coco-30k", "openglyphs", "compbench"),
        help="what to measure (scenes, unless there is a --reference)",
    )
    verb.add_argument(
        "--count", type=int, help="pictures, of a protocol; of scenes, sampled prompts of each kind (500)"
    )
    verb.add_argument(
        "--seed", type=int, default=0, help="noise stream of the first picture; what is shown (default 0)"
    )
    verb.add_argument("--out", default="report", metavar="DIR", help="folder to write (default report)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    verb.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="which scenes, e.g. max_objects=1 (default: as the model was trained); may be repeated",
    )
    _add_protocols(verb.add_argument_group("protocols with a reference"))
    _add_sets(verb.add_argument_group("pictures against pictures"))
    _add_alignment(verb.add_argument_group("pictures against prompts"))
    _add_people(verb.add_argument_group("side by side"))
    add_drawing_options(verb)


def _add_protocols(group: Any) -> None:
    group.add_argument(
        "--command",
        metavar="LINE",
        help="a command that writes the pictures, in place of MODEL: {prompts} becomes a file with a line of "
        "JSON (file, prompt, seed) for each, {out} the folder",
    )
    group.add_argument("--captions", metavar="FILE", help="coco-30k: the captions (.txt, .csv, .tsv, .jsonl)")
    group.add_argument(
        "--own-references",
        action="store_true",
        help="coco-30k: only the real pictures that the captions belong to (default: all of --reference)",
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="pictures drawn at once (default 32)")


def _add_sets(group: Any) -> None:
    group.add_argument("--reference", metavar="DIR", help="real pictures: a folder, tar files, scenes:N:SIDE")
    group.add_argument("--training", metavar="DIR", help="the training pictures: look for copies of them")
    group.add_argument(
        "--extractor",
        metavar="SPEC",
        help="efficientnet-lite0 (default), efficientnet-lite2, clip:DIR, dinov2:DIR, inception:FILE",
    )
    group.add_argument(
        "--resize", type=int, metavar="SIDE", help="crop the centre and resize to SIDE (default: neither)"
    )
    group.add_argument(
        "--allow-small", action="store_true", help="measure fewer than 2,048 pictures: for trends only"
    )
    group.add_argument(
        "--made-by",
        metavar="MODEL",
        help="model that made the pictures: no network that its training used will measure them",
    )
    group.add_argument("--cache", metavar="DIR", help="folder of features (default: in the user's cache)")
    group.add_argument("--no-cache", action="store_true", help="compute every feature, and keep none")


def _add_alignment(group: Any) -> None:
    group.add_argument(
        "--scorer",
        metavar="SPEC",
        help="image-text model: clip:DIR, two-tower:DIR or two-tower:openglyphs-64; with --reference alone, "
        "how well it finds that set's own captions",
    )
    group.add_argument("--prompt-prefix", metavar="TEXT", help="put before every prompt (default: nothing)")
    group.add_argument(
        "--distractors", type=int, metavar="N", help="other captions of the R-precision (default 99)"
    )


def _add_people(group: Any) -> None:
    group.add_argument("--compare", nargs="+", metavar="REPORT", help="reports of one protocol")
    group.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="models of any family, or runs, on the same prompts of the six categories of scenes, with what "
        "a picture costs; MODEL@SIDE draws at SIDE px",
    )
    group.add_argument(
        "--sweep",
        metavar="OPTION=NUMBERS",
        help="with --models: each model drawn in so many ways, as in guidance=1,3,5",
    )
    group.add_argument(
        "--blind",
        nargs=2,
        metavar=("A", "B"),
        help="write a page of shuffled pairs: of folders, or of models",
    )
    group.add_argument("--pairs", type=int, metavar="N", help="with --blind: no more than N pairs")
    group.add_argument(
        "--blind-answers", metavar="FILE", help="count the answers to the page that is in --out"
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from impasto.evaluation.actions import run

    run(arguments)
    return 0
