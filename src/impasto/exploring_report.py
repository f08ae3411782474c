"""`impasto analyse`: everything that can be asked of an Aurora model from inside, into one folder."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from impasto.config import ConfigError
from impasto.exploring_model import aurora_pipeline

FILES = (
    "routes.png", "knock-out.png", "words.md", "styles.png", "truncation.png", "directions.png",
    "text.gif", "noise.gif", "analysis.json", "analysis.md",
)  # fmt: skip


def add_analyse(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto analyse`, except those of the model."""
    verb.description = (
        "Look at a model from inside: expert maps, each expert knocked out, words that raise an expert, "
        "style mixing by resolution, truncation, principal directions of w, walks, path lengths with "
        f"intervals, the share of noise, what experts know of objects. Writes {', '.join(FILES)}."
    )
    verb.set_defaults(run=_analyse)
    verb.add_argument("--prompts", metavar="FILE", help="a prompt a line (default: captions of scenes)")
    verb.add_argument("--count", type=int, default=64, metavar="N", help="prompts measured (default 64)")
    verb.add_argument("--seed", type=int, default=0, help="noise stream of the first picture (default 0)")
    verb.add_argument("--out", default="analysis", metavar="DIR", help="folder to write (default analysis)")


def _analyse(arguments: argparse.Namespace) -> int:
    from impasto.runtime.files import atomic_write_text

    if arguments.count < 16:
        raise ConfigError(f"--count {arguments.count} should be at least 16: intervals need prompts")
    prompts = _prompts(arguments)
    if len(prompts) < 16:
        raise ConfigError(f"--prompts {arguments.prompts}: {len(prompts)} prompts; at least 16 are needed")
    pipe, out = aurora_pipeline(arguments), Path(arguments.out)
    numbers = _measure(pipe, prompts, arguments.seed)
    table = _table(numbers)
    _draw_sheets(pipe, prompts, arguments.seed, out)
    document = {"model": pipe.name, "seed": arguments.seed, **numbers, "prompts": prompts}
    atomic_write_text(out / "analysis.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(out / "analysis.md", f"# {pipe.name} from inside\n\n{table}")
    print(table, end="")
    print(f"wrote {out}: {', '.join(FILES)}")
    return 0


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """From the file, or captions of scenes of the kind that the model was trained on."""
    from impasto.config import from_dict
    from impasto.data.scene_source import SceneOptions, SceneSource
    from impasto.loading import describe
    from impasto.metrics.scenes import EVALUATION_STREAM

    if arguments.prompts is not None:
        lines = Path(arguments.prompts).read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()][: arguments.count]
    found = describe(arguments.model, arguments.settings)
    trained_on = found.provenance.get("data", {}).get("scenes")
    options = from_dict(SceneOptions, trained_on) if trained_on else SceneOptions()
    return SceneSource(64, options, seed=EVALUATION_STREAM).captions(arguments.count)


def _measure(pipe: Any, prompts: Sequence[str], seed: int) -> dict[str, Any]:
    from impasto.aurora.exploring import expert_knowledge, feature_distance, path_lengths, share_of_noise
    from impasto.vision.efficientnet import ImageFeatures

    features = ImageFeatures("efficientnet-lite0", max(64, pipe.config.resolution)).to(pipe.device)
    lengths = path_lengths(pipe, prompts, feature_distance(features.maps), seed=seed)
    knowledge = expert_knowledge(pipe, prompts, _objects, seed)
    return {
        "path_length": {way: asdict(length) for way, length in lengths.items()},
        "path_features": {"network": features.name, "sha256": features.fingerprint},
        "share_of_noise": share_of_noise(pipe, prompts[:16], 8, seed),
        "expert_knowledge": [asdict(one) for one in knowledge],
    }


def _objects(picture: Any) -> Any:
    """1 where a picture of a scene has an object, 0 where it has background: [R, R]."""
    import numpy as np
    from PIL import Image

    from impasto.data.scenes.segment import segment

    found = segment(Image.fromarray(picture))
    objects = np.zeros(found.pixels.shape[:2], dtype=np.int64)
    for region in found.regions:
        objects[region.mask] = 1
    return objects


def _draw_sheets(pipe: Any, prompts: Sequence[str], seed: int, out: Path) -> None:
    from impasto.animation import save_animation
    from impasto.aurora.latents import draw, latents_of, walk_text, walk_z
    from impasto.aurora.routing_maps import knock_out_sheet, layers_of_experts, routes_sheet, shares_by_word
    from impasto.pictures import contact_sheet, save_png
    from impasto.runtime.files import atomic_write_text

    layers, few = layers_of_experts(pipe), list(prompts[:6])
    save_png(routes_sheet(pipe, draw(pipe, latents_of(pipe, few, [seed] * 6))), out / "routes.png")
    save_png(knock_out_sheet(pipe, few, layers[-1], seed)[0], out / "knock-out.png")
    words = [_words(layer.name, shares_by_word(pipe, prompts, layer.number, seed)) for layer in layers]
    atomic_write_text(out / "words.md", "\n".join(words))
    save_png(_styles(pipe, few, seed), out / "styles.png")
    levels = (1.0, 0.75, 0.5, 0.25, 0.0)
    columns = [pipe.generate(few, seed=seed, truncation=psi).pictures() for psi in levels]
    labels = [f"{prompt}   (psi {', '.join(f'{psi:g}' for psi in levels)})" for prompt in few]
    save_png(
        contact_sheet([list(row) for row in zip(*columns, strict=True)], labels, cell=96),
        out / "truncation.png",
    )
    save_png(_directions(pipe, prompts, seed), out / "directions.png")
    first, second = (latents_of(pipe, part, [seed] * 3) for part in (few[:3], few[3:]))
    third = latents_of(pipe, few[:3], [seed + 1] * 3)
    for name, walk in (
        ("text", walk_text(pipe, first, second, 24)),
        ("noise", walk_z(pipe, first, third, 24)),
    ):
        frames = [contact_sheet([step.pictures()], cell=160) for step in walk]
        save_animation(frames, out / f"{name}.gif")


def _sheet(columns: Sequence[Sequence[Any]], labels: Sequence[str]) -> Any:
    from impasto.pictures import contact_sheet

    return contact_sheet([list(row) for row in zip(*columns, strict=True)], labels, cell=96)


def _words(layer: str, raised: dict[str, Any], most: int = 5) -> str:
    """Markdown: for each expert, the words whose prompts send it most more of their points."""
    lines = [
        f"## {layer}",
        "",
        "| expert | words that raise it, by how many points in a hundred |",
        "|---|---|",
    ]
    experts = len(next(iter(raised.values()))) if raised else 0
    for expert in range(experts):
        order = sorted(raised, key=lambda word: -float(raised[word][expert]))[:most]
        told = ", ".join(f"{word} {100 * float(raised[word][expert]):+.1f}" for word in order)
        lines.append(f"| {expert} | {told} |")
    return "\n".join(lines) + "\n"


def _styles(pipe: Any, prompts: Sequence[str], seed: int) -> Any:
    """Rows: the first picture, with the second's w from each side on, and the second."""
    from impasto.aurora.latents import draw, latents_of, mixed, slots_by_side

    half = len(prompts) // 2
    structure = latents_of(pipe, prompts[:half], [seed] * half)
    style = latents_of(pipe, prompts[half : 2 * half], [seed] * half)
    sides = [side for side in slots_by_side(pipe) if side <= pipe.config.resolution][::-1]
    steps = [structure, *(mixed(pipe, structure, style, side) for side in sides), style]
    columns = [draw(pipe, step).pictures() for step in steps]
    told = ", ".join(f"from {side}" for side in sides)
    labels = [
        f"{a} | w of the last {told} | {b}" for a, b in zip(structure.prompts, style.prompts, strict=True)
    ]
    return _sheet(columns, labels)


def _directions(pipe: Any, prompts: Sequence[str], seed: int, count: int = 5) -> Any:
    """Rows: one picture moved along each principal direction of w, three standard deviations either way."""
    from dataclasses import replace

    from impasto.aurora.exploring import principal_directions
    from impasto.aurora.latents import draw, latents_of
    from impasto.pictures import contact_sheet

    directions, shares = principal_directions(pipe, prompts, count, seed)
    one = latents_of(pipe, [prompts[0]] * 7, [seed] * 7)
    steps = one.wp.new_tensor([-3, -2, -1, 0, 1, 2, 3])[:, None, None]
    rows = [
        draw(pipe, replace(one, wp=one.wp + steps * along.to(one.wp.dtype))).pictures()
        for along in directions
    ]
    labels = [
        f"{prompts[0]}   (direction {n + 1}, {float(share):.0%} of the variance of w)"
        for n, share in enumerate(shares)
    ]
    return contact_sheet(rows, labels, cell=96)


def _table(numbers: dict[str, Any]) -> str:
    """Markdown of what was measured."""
    lines = ["| perceptual path length | mean, 95 % interval |", "|---|---|"]
    names = {"z": "noise, one prompt", "w": "w, one prompt", "text": "from prompt to prompt, one noise"}
    for way, length in numbers["path_length"].items():
        lines.append(f"| {names[way]} | {length['mean']:.3g} [{length['low']:.3g}, {length['high']:.3g}] |")
    share = numbers["share_of_noise"]
    lines += [
        "",
        f"Of the variance of pixels {share:.0%} is due to noise, {1 - share:.0%} to the prompt.",
        "",
    ]
    lines += ["| what experts tell of objects | bits a point | of another picture's |", "|---|---|---|"]
    for one in numbers["expert_knowledge"]:
        lines.append(f"| {one['layer']} | {one['bits']:.3f} | {one['shuffled']:.3f} |")
    return "\n".join(lines) + "\n"
