"""How well pictures go with their prompts, by a frozen image-text model: the cosine, and how often the own
prompt is nearer than other captions (R-precision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.metrics.intervals import Estimate, bootstrap, prompt_means
from impasto.pictures import from_images
from impasto.text.loading import exact_inference
from impasto.vision import ImageTextModel, load_image_text_model
from impasto.vision.contrastive import statement_ids
from impasto.vision.evaluation import SceneRetrieval

DISTRACTORS = 99  # other captions that a prompt stands among (Xu et al. 2018, AttnGAN, section 4)
ACCURACY_PICTURES, ACCURACY_STREAM = 256, 0x5CE7E5  # scenes on which a two-tower's own retrieval is measured
AT_ONCE = 64
TIE = 1e-12


@dataclass(frozen=True)
class Alignment:
    """cosine: of a picture and its own prompt, neither scaled nor clipped. r_precision: share of pictures to
    which their own prompt is nearest among `distractors` + 1 captions that all say something else; a tie
    counts as its share; None where there is no other caption. Intervals are over prompts."""

    cosine: Estimate
    r_precision: Estimate | None
    distractors: int
    pictures: int
    prompts: int


class Scorer:
    """An image-text model as an extractor of picture embeddings, with what is put before every prompt."""

    distance = "FD of a scorer"  # never reported: its features are for cosines

    def __init__(self, spec: str, model: ImageTextModel, prefix: str = "") -> None:
        self.name, self.model, self.prefix = spec.partition(":")[0], model, prefix
        self.fingerprint, self.networks = model.fingerprint, dict(model.networks)
        self.settings: Mapping[str, Any] = {"features": "image embedding, not normalised"}
        told: Mapping[str, Any] = getattr(
            model, "provenance", {}
        )  # of a two-tower; of a CLIP nothing is known
        self.retrieval: dict[str, Any] = told.get("retrieval", {})  # by the name of the set
        self.knows_scenes = self.name == "two-tower" and "dataset" not in told.get("data", {})

    def features(self, images: Tensor) -> Tensor:
        """images [N, 3, H, W] in [-1, 1] -> [N, D] float32 on the CPU, not normalised."""
        with exact_inference(self.model.device):
            return self.model.embed_images(images.to(self.model.device)).float().cpu()

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[N, D] float32 on the CPU; the pictures may differ in size."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.size, []).append(index)
        found: dict[int, Tensor] = {}
        for rows in groups.values():
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                batch = from_images([pictures[row] for row in part])
                found |= zip(part, self.features(batch), strict=True)
        return torch.stack([found[index] for index in range(len(pictures))])

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """[N, D] float32 on the CPU; a prompt that is repeated is embedded once."""
        distinct = list(dict.fromkeys(prompts))
        parts = [
            self.model.embed_texts([self.prefix + text for text in distinct[start : start + AT_ONCE]])
            for start in range(0, len(distinct), AT_ONCE)
        ]
        places = {text: number for number, text in enumerate(distinct)}
        return torch.cat(parts).float().cpu()[[places[text] for text in prompts]]

    def told(self) -> dict[str, Any]:
        """For reports."""
        return {
            "name": self.name,
            "sha256": self.fingerprint,
            "networks": self.networks,
            "prompt_prefix": self.prefix,
            "cosine": "raw: neither scaled nor clipped",
        }


def load_scorer(spec: str, prefix: str = "", device: torch.device | str = "cpu") -> Scorer:
    """ "clip:DIRECTORY", "two-tower:DIRECTORY" or "two-tower:NAME" of a shipped one. Raises as
    `load_image_text_model`."""
    return Scorer(spec, load_image_text_model(spec).to(device), prefix)


def align(
    images: Tensor, texts: Tensor, prompts: Sequence[str], *, distractors: int = DISTRACTORS, seed: int = 0
) -> Alignment:
    """images [N, D] and texts [N, D] of their prompts, neither normalised. The distractors are drawn with the
    seed among the other prompts given, one of those that say the same; all of them where there are fewer.
    ValueError unless there are as many of each, and at least one."""
    if not len(images) == len(texts) == len(prompts) or not prompts:
        raise ValueError(f"{len(images)} pictures, {len(texts)} texts and {len(prompts)} prompts")
    images, texts = F.normalize(images.double(), dim=1), F.normalize(texts.double(), dim=1)
    ids = statement_ids(prompts).tolist()
    first = {statement: row for row, statement in reversed(list(enumerate(ids)))}
    others, place = sorted(first.values()), {}
    for number, row in enumerate(others):
        place[ids[row]] = number
    count = min(distractors, len(others) - 1)
    own = (images * texts).sum(1)
    right = []
    captions = texts[others]
    for row, statement in enumerate(ids) if count > 0 else ():
        drawn = np.random.default_rng((seed, place[statement])).choice(len(others) - 1, count, replace=False)
        drawn += drawn >= place[statement]  # never the own
        beyond = captions[drawn] @ images[row] - own[row]
        equal = int((beyond.abs() <= TIE).sum())
        right.append(0.0 if bool((beyond > TIE).any()) else 1 / (1 + equal))
    return Alignment(
        cosine=bootstrap(prompt_means(own.tolist(), prompts)),
        r_precision=bootstrap(prompt_means(right, prompts)) if right else None,
        distractors=max(count, 0),
        pictures=len(prompts),
        prompts=len(set(prompts)),
    )


def scorer_accuracy(
    scorer: Scorer, options: SceneOptions | None = None, *, resolution: int = 32
) -> dict[str, Any]:
    """How often a two-tower finds the caption of a real scene, and the scene of a caption, among 256."""
    source = SceneSource(resolution, options or SceneOptions(), seed=ACCURACY_STREAM)
    found = SceneRetrieval(source, ACCURACY_PICTURES)(scorer.model)
    return {
        "scenes": ACCURACY_PICTURES,
        "side": resolution,
        **{name: found[name] for name in ("image_to_text", "text_to_image")},
    }


def alignment_results(
    scorer: Scorer,
    sets: Mapping[str, tuple[Tensor, Sequence[str]]],
    *,
    distractors: int = DISTRACTORS,
    seed: int = 0,
    options: SceneOptions | None = None,
    resolution: int = 32,
) -> dict[str, Any]:
    """For a report: `sets` {name: (embeddings [N, D], their prompts)}, each also under shuffled prompts."""
    rows: dict[str, Any] = {}
    for name, (images, prompts) in sets.items():
        texts = scorer.embed_prompts(prompts)
        rows[name] = asdict(align(images, texts, prompts, distractors=distractors, seed=seed))
        drawn = np.random.default_rng(seed).permutation(len(prompts))
        order = np.empty_like(drawn)
        order[drawn] = np.roll(drawn, 1)  # none keeps its place
        mixed = [prompts[int(other)] for other in order]
        moved = align(images, texts[torch.from_numpy(order)], mixed, distractors=distractors, seed=seed)
        rows[f"{name}, prompts shuffled"] = asdict(moved)
    accuracy = scorer_accuracy(scorer, options, resolution=resolution) if scorer.knows_scenes else None
    return {
        "scorer": scorer.told(),
        "accuracy": accuracy,
        "retrieval": scorer.retrieval,
        "seed": seed,
        "rows": rows,
    }


def alignment_table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    scorer = results["scorer"]
    lines = [
        f"alignment by {scorer['name']}",
        "",
        "| pictures | cosine, 95 % interval | R-precision, 95 % interval | among | pictures | prompts |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        precision = "one caption only" if row["r_precision"] is None else Estimate(**row["r_precision"])
        lines.append(
            f"| {name} | {Estimate(**row['cosine'])} | {precision} | {row['distractors'] + 1} "
            f"| {row['pictures']} | {row['prompts']} |"
        )
    lines += ["", *(f"{remark}." for remark in alignment_remarks(results))]
    return "\n".join(lines) + "\n"


def alignment_remarks(results: Mapping[str, Any]) -> list[str]:
    """Sentences: which scorer, what is put before prompts, how good it is itself."""
    scorer, accuracy = results["scorer"], results["accuracy"]
    prefix = f"'{scorer['prompt_prefix']}' before" if scorer["prompt_prefix"] else "nothing before"
    told = [
        f"Cosines of {scorer['name']} {scorer['sha256'][:12]}, raw, {prefix} each prompt; distractors drawn "
        f"with seed {results['seed']}"
    ]
    if accuracy is not None:
        told.append(
            f"The scorer itself finds the caption of {accuracy['image_to_text']:.1%} of {accuracy['scenes']} "
            f"real scenes of {accuracy['side']} px, and the scene of {accuracy['text_to_image']:.1%} of the "
            f"captions"
        )
    told += [retrieval_sentence(name, found) for name, found in results.get("retrieval", {}).items()]
    return told


def retrieval_sentence(name: str, found: Mapping[str, Any]) -> str:
    """Of what `impasto.metrics.retrieval` measures; without a full stop."""
    parts = []
    for key, words in (("image_to_text", "its caption"), ("text_to_image", "a caption's picture")):
        shares = ", ".join(
            f"{value:.1%} {'first' if among == '1' else f'within {among}'}"
            for among, value in found[key].items()
        )
        parts.append(f"{words} {shares}")
    return f"The scorer itself finds among {found['pictures']} pictures, {name}: {'; '.join(parts)}"
