"""Aurora against a diffusion UNet and gigagan-pytorch: the same scenes, text features, parameters and
processor seconds of training on one thread, judged alike.

    pip install --no-deps diffusers importlib_metadata requests
    pip install --no-deps gigagan-pytorch einops beartype kornia kornia-rs ema-pytorch
    python -m benchmarks.peers --out runs/peers [--seconds 600] [--peers aurora,diffusers]

Each peer leaves one JSON in OUT/results; OUT/peers.png and OUT/pictures.png are drawn of all that are there.
Repeat the command after it was stopped: what is finished is skipped, what was begun goes on from its last
checkpoint. Pictures are 16x16: one object in the middle of a plain ground. All captions are encoded once,
before any clock starts.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import arguments_of, machine, write_result
from benchmarks.peer_data import OPTIONS, SIDE, Pool, Reader
from benchmarks.peer_networks import (
    BATCH,
    Aurora,
    Diffusion,
    Draw,
    GigaGANAdversarial,
    GigaGANDrawingAgain,
    Peer,
    require,
)
from benchmarks.peer_page import draw_page, read_results
from PIL import Image

from impasto.config import ConfigError, first_line, nearest
from impasto.data.scene_source import SceneSource
from impasto.errors import ExpectedError
from impasto.metrics.features import picture_stats
from impasto.metrics.frechet import FrechetStats, frechet_distance
from impasto.metrics.scenes import EVALUATION_STREAM, SEEN_SET, UNSEEN_SET, judge, prompt_sets
from impasto.pictures import save_png, to_images
from impasto.runtime.checkpoint import latest_checkpoint, prune
from impasto.runtime.files import atomic_write_text
from impasto.runtime.guards import Graceful
from impasto.vision.efficientnet import ImageFeatures

POOL = 2_048  # pictures to train on
REAL = 1_000  # that generated ones are held against
SAVE_EVERY = 60.0  # processor seconds
SHOWN = 8  # pictures of a way of drawing on the sheet
PEERS: dict[str, Callable[[int, int, int], Peer]] = {  # of seed, parameters wanted, width of the features
    "aurora": lambda seed, parameters, width: Aurora(seed),
    "diffusers": lambda seed, parameters, width: Diffusion(seed, parameters, width),
    "gigagan-drawing-again": lambda seed, parameters, width: GigaGANDrawingAgain(seed, parameters, width),
    "gigagan-adversarial": lambda seed, parameters, width: GigaGANAdversarial(seed, parameters, width),
}


def train(peer: Peer, pool: Pool, reader: Reader, folder: Path, seconds: float) -> tuple[bool, float]:
    """Train until so many processor seconds are spent, or a signal asks to stop. Whether it is done, and what
    was spent."""
    checkpoint = latest_checkpoint(folder)
    spent = peer.restore(checkpoint) if checkpoint else 0.0
    saved = spent
    with Graceful() as stop:
        while spent < seconds and not stop.requested:
            started = time.process_time()
            peer.step(pool, reader)
            spent += time.process_time() - started
            if spent - saved >= SAVE_EVERY or spent >= seconds or stop.requested:
                peer.save(folder, spent)
                prune(folder, keep_last=1)
                saved = spent
                print(f"  {spent:,.0f} s, {peer.images:,} images", flush=True)
    return spent >= seconds, spent


@torch.no_grad()
def paint(draw: Draw, reader: Reader, prompts: list[str], seed: int) -> tuple[list[Image.Image], float]:
    """Pictures of the prompts, and the processor seconds that one took in batches of 16."""
    pictures, spent = [], 0.0
    for at in range(0, len(prompts), BATCH):
        text = reader.encode(prompts[at : at + BATCH])
        started = time.process_time()
        drawn = draw(text, seed + at)
        spent += time.process_time() - started
        pictures += to_images(drawn)
    return pictures, spent / len(prompts)


class Judge:
    """The same prompts, real pictures and networks for all."""

    def __init__(self, count: int, real: int):
        sets = prompt_sets(OPTIONS, count)
        self.prompts = {name: sets[name] for name in (SEEN_SET, UNSEEN_SET)}
        self.features = ImageFeatures("efficientnet-lite0")
        source = SceneSource(SIDE, OPTIONS, seed=EVALUATION_STREAM)
        self.real = self.stats(to_images(source.batch(range(real))[0]))
        self.as_many = self.stats(to_images(source.batch(range(real, real + count))[0]))

    def stats(self, pictures: list[Image.Image]) -> FrechetStats:
        return picture_stats(self.features, pictures)

    def real_against_real(self) -> float:
        """The distance of as many real pictures as are generated for the seen prompts."""
        return frechet_distance(self.as_many, self.real)

    def of(self, draw: Draw, reader: Reader, folder: Path, way: str) -> dict[str, Any]:
        """Scores of a way of drawing; its first pictures go to `folder`."""
        drawn, spent = {}, {}
        for name, prompts in self.prompts.items():
            drawn[name], spent[name] = paint(draw, reader, prompts, seed=1)
        for number, picture in enumerate(drawn[SEEN_SET][:SHOWN]):
            save_png(picture, folder / f"{way.replace(' ', '-').replace(',', '')}-{number}.png")
        scores = {name: judge(pictures, self.prompts[name]) for name, pictures in drawn.items()}
        return {
            "way": way,
            "seconds_an_image": sum(spent.values()) / len(spent),
            "oracle": {name: asdict(score.overall) for name, score in scores.items()},
            "attributes": {name: score.attributes for name, score in scores.items()},
            "frechet": frechet_distance(self.stats(drawn[SEEN_SET]), self.real),
        }


def run_peer(
    name: str, out: Path, budget: dict[str, Any], pool: Pool, reader: Reader, judge_of: Judge
) -> bool:
    """Train and judge one peer, unless that is done; whether it is done now. ConfigError where its file holds
    another budget."""
    file = out / "results" / f"{name}.json"
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8"))["budget"] != budget:
            raise ConfigError(f"{file} is of another budget; choose another --out, or delete the file")
        print(f"{name}: finished before, {file}")
        return True
    wanted = Aurora(budget["seed"]).parameters()
    peer = PEERS[name](budget["seed"], wanted, reader.width)
    print(f"{name}: {peer.parameters():,} parameters draw", flush=True)
    done, spent = train(peer, pool, reader, out / name, budget["seconds"])
    if not done:
        return False
    pictures = out / "pictures" / name
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [judge_of.of(draw, reader, pictures, way) for way, draw in peer.ways().items()]
    document = {
        "peer": name,
        "budget": budget,
        "parameters": peer.parameters(),
        "images": peer.images,
        "seconds": spent,
        "ways": rows,
        "real_against_real": judge_of.real_against_real(),
        **machine(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, json.dumps(document, indent=1) + "\n")
    return True


def compare(arguments: Any) -> int:
    out, names = arguments.out, arguments.peers.split(",")
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"--peers: no peer '{name}'; {nearest(name, PEERS)}")
    require(names)
    torch.set_num_threads(1)
    quick = arguments.quick
    count = 4 if quick else arguments.prompts
    budget = {
        "seconds": 2.0 if quick else arguments.seconds,
        "seed": arguments.seed,
        "pool": 64 if quick else POOL,
        "prompts": count,
    }
    pool, judge_of = Pool(budget["pool"], seed=arguments.seed), Judge(count, 16 if quick else REAL)
    told = [*pool.captions, *(text for prompts in judge_of.prompts.values() for text in prompts)]
    reader = Reader(out / "captions.safetensors", told)
    for name in names:
        if not run_peer(name, out, budget, pool, reader, judge_of):
            print("stopped; repeat the command to go on")
            return 1
    documents = read_results(out)
    print(draw_page(out, documents, judge_of.prompts[SEEN_SET][:SHOWN]))
    write_result(arguments.json, {"peers": documents})
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; expected errors become one line on stderr and exit status 2."""

    def add(parser: Any) -> None:
        parser.add_argument("--out", type=Path, required=True, help="folder of the runs and their results")
        parser.add_argument("--peers", default=",".join(PEERS), help="which, by commas (default: all)")
        parser.add_argument("--seconds", type=float, default=600.0, help="of training each (default 600)")
        parser.add_argument("--prompts", type=int, default=64, help="asked of each split (default 64)")
        parser.add_argument("--seed", type=int, default=0)

    try:
        return compare(arguments_of(__doc__, argv, add))
    except (ExpectedError, ValueError, OSError) as error:
        print(f"peers: error: {first_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
