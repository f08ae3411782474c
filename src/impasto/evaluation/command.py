"""`impasto evaluate`: its options and what they call. Heavy imports live inside, so that --help answers at
once."""

import argparse
import sys
from typing import Any

from impasto.command_options import DTYPES, progress_bars, ranks_of, usable_device
from impasto.config import ConfigError


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
        choices=("scenes", "train-10k", "coco-30k", "openglyphs", "compbench"),
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
    group.add_argument("--scorer", metavar="SPEC", help="image-text model: clip:DIR or two-tower:DIR")
    group.add_argument("--prompt-prefix", metavar="TEXT", help="put before every prompt (default: nothing)")
    group.add_argument(
        "--distractors", type=int, metavar="N", help="other captions of the R-precision (default 99)"
    )


def _add_people(group: Any) -> None:
    group.add_argument("--compare", nargs="+", metavar="REPORT", help="reports of one protocol")
    group.add_argument("--blind", nargs=2, metavar=("DIR_A", "DIR_B"), help="write a page of shuffled pairs")
    group.add_argument("--pairs", type=int, metavar="N", help="with --blind: no more than N pairs")
    group.add_argument(
        "--blind-answers", metavar="FILE", help="count the answers to the page that is in --out"
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    out = Path(arguments.out)
    asked = {
        "MODEL_OR_IMAGE_DIR": arguments.target,
        "--compare": arguments.compare,
        "--blind": arguments.blind,
        "--blind-answers": arguments.blind_answers,
        "--command": arguments.command,
    }
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"give one of {', '.join(asked)}" + (f", not {' and '.join(given)}" if given else "")
        )
    with_protocol = arguments.protocol not in (None, "scenes", "compbench")
    if arguments.reference is not None and arguments.target is None and arguments.command is None:
        raise ConfigError(f"--reference goes with a folder of pictures, not with {given[0]}")
    if arguments.compare is not None:
        from impasto.evaluation.table import compare_reports

        print(compare_reports(arguments.compare, out), end="")
        print(f"wrote {out / 'compare.md'}", file=sys.stderr)
    elif arguments.blind is not None:
        from impasto.evaluation.blind import write_blind

        if arguments.pairs is not None and arguments.pairs < 1:
            raise ConfigError(f"--pairs {arguments.pairs} should be at least 1")
        first, second = arguments.blind
        print(write_blind(first, second, out, seed=arguments.seed, most=arguments.pairs), end="")
    elif arguments.blind_answers is not None:
        from impasto.evaluation.blind import score_blind

        print(score_blind(Path(arguments.blind_answers), out), end="")
    elif arguments.protocol == "compbench":
        return _evaluate_compbench(arguments)
    elif with_protocol:
        return _evaluate_protocol(arguments)
    elif arguments.command is not None:
        raise ConfigError("--command needs --protocol train-10k, coco-30k or openglyphs")
    elif arguments.reference is not None:
        _refuse_without_protocol(arguments)
        return _evaluate_sets(arguments)
    else:
        _refuse_without_protocol(arguments)
        _refuse_without_reference(arguments)
        return _evaluate_scenes(arguments)
    return 0


def _evaluate_scenes(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import torch

    from impasto.evaluation.pictures import evaluate_pictures, holds_pictures
    from impasto.evaluation.scenes import evaluate_model

    ranks = ranks_of(arguments)
    out, target = Path(arguments.out), Path(arguments.target)
    scorer, distractors = _scorer(arguments)
    if holds_pictures(target):
        if ranks.world_size > 1:
            raise ConfigError("pictures are scored in one process: start it without torchrun")
        table = evaluate_pictures(target, out, scorer=scorer, distractors=distractors, seed=arguments.seed)
    else:
        table = evaluate_model(
            arguments.target,
            out,
            count=500 if arguments.count is None else arguments.count,
            seed=arguments.seed,
            device=arguments.device,
            dtype=getattr(torch, arguments.dtype),
            settings=arguments.settings,
            scorer=scorer,
            distractors=distractors,
            ranks=ranks,
        )
    _print_from(ranks, f"{table}\nwrote {out / 'report.md'}, report.json and sheets")
    return 0


def _evaluate_sets(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.evaluation.sets import evaluate_sets

    out = Path(arguments.out)
    ranks, extractor, options, scorer = _measuring(arguments)
    with progress_bars() as progress:
        table = evaluate_sets(arguments.target, extractor, out, options, progress, scorer, ranks)
    _print_from(ranks, f"{table}\nwrote {out / 'report.html'}, report.md, report.json and sheets")
    return 0


def _evaluate_protocol(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import torch

    from impasto.evaluation.protocols import ProtocolOptions, evaluate_protocol

    if arguments.reference is None:
        raise ConfigError(f"--protocol {arguments.protocol} needs --reference DIR, the real pictures")
    for name in ("count", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} should be at least 1")
    out = Path(arguments.out)
    ranks, extractor, sets, scorer = _measuring(arguments)
    options = ProtocolOptions(
        name=arguments.protocol,
        target=arguments.target,
        sets=sets,
        command=arguments.command,
        captions=Path(arguments.captions) if arguments.captions else None,
        own_references=arguments.own_references,
        count=arguments.count,
        batch=arguments.batch_size or 32,
        dtype=getattr(torch, arguments.dtype),
    )
    with progress_bars() as progress:
        table = evaluate_protocol(options, extractor, out, progress, scorer, ranks)
    _print_from(ranks, f"{table}\nwrote {out}: reports, sheets, and the pictures that were drawn")
    return 0


def _evaluate_compbench(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.config import override
    from impasto.evaluation.compbench import CompBenchOptions, evaluate_compbench
    from impasto.evaluation.pictures import holds_pictures

    if arguments.target is None or not holds_pictures(Path(arguments.target)):
        raise ConfigError("--protocol compbench takes a folder of PNG pictures that say their prompts")
    if arguments.reference is not None:
        raise ConfigError("--protocol compbench has no --reference")
    categories = [value for value in arguments.settings if value.startswith("category=")]
    if not categories:
        raise ConfigError("--protocol compbench needs --set category=color, shape, texture, spatial ...")
    options = override(CompBenchOptions(category="non_spatial"), arguments.settings)
    scorer, _ = _scorer(arguments)
    with progress_bars() as progress:
        line = evaluate_compbench(
            Path(arguments.target),
            Path(arguments.out),
            options,
            clip=scorer,
            device=usable_device(arguments.device),
            made_with=_training_networks(arguments.made_by),
            progress=progress,
        )
    print(line, end="")
    return 0


def _measuring(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """This process among its ranks, the extractor, the options of sets, the scorer or None."""
    from dataclasses import replace
    from pathlib import Path

    from impasto.evaluation.sets import SetOptions
    from impasto.metrics.extractors import load_extractor
    from impasto.metrics.feature_cache import default_cache
    from impasto.metrics.features import EXTRACTOR

    ranks = ranks_of(arguments)
    cache = Path(arguments.cache) if arguments.cache else default_cache()
    options = SetOptions(
        reference=arguments.reference,
        training=arguments.training,
        side=arguments.resize,
        allow_small=arguments.allow_small,
        seed=arguments.seed,
        cache=None if arguments.no_cache else cache,
        training_networks=_training_networks(arguments.made_by),
    )
    scorer, distractors = _scorer(arguments)
    extractor = load_extractor(arguments.extractor or EXTRACTOR, arguments.device)
    return ranks, extractor, replace(options, distractors=distractors), scorer


def _print_from(ranks: Any, text: str) -> None:
    if ranks.is_main:
        print(text)
    ranks.close()


def _scorer(arguments: argparse.Namespace) -> tuple[Any, int]:
    """The scorer asked for, None for none, and the number of distractors."""
    from impasto.metrics.alignment import DISTRACTORS, load_scorer

    if arguments.scorer is None:
        for name in ("prompt_prefix", "distractors"):
            if getattr(arguments, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} means something only with --scorer SPEC")
        return None, DISTRACTORS
    count = DISTRACTORS if arguments.distractors is None else arguments.distractors
    if count < 1:
        raise ConfigError(f"--distractors {count} should be at least 1")
    device = usable_device(arguments.device)
    return load_scorer(arguments.scorer, arguments.prompt_prefix or "", device), count


def _training_networks(model: str | None) -> dict[str, str] | None:
    from impasto.loading import describe

    return None if model is None else describe(model, []).provenance.get("training_networks", {})


def _refuse_without_protocol(arguments: argparse.Namespace) -> None:
    for name in ("captions", "own_references", "batch_size"):
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} means something only with another --protocol than scenes")


def _refuse_without_reference(arguments: argparse.Namespace) -> None:
    """An option that would do nothing is a mistake."""
    asked = {
        "--training": arguments.training,
        "--extractor": arguments.extractor,
        "--resize": arguments.resize,
        "--allow-small": arguments.allow_small or None,
        "--cache": arguments.cache,
        "--made-by": arguments.made_by,
    }
    for name, value in asked.items():
        if value is not None:
            raise ConfigError(f"{name} means something only with --reference DIR")
