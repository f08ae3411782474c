"""The image tokenizer's run from the command line."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from impasto.config import ConfigError, to_dict
from impasto.data.records import Records
from impasto.data.scene_source import SceneSource
from impasto.data.training_set import TrainingSet
from impasto.data.training_set import provenance as data_provenance
from impasto.mars.directories import TOKENIZER_FAMILY, find_directory, load_tokenizer, save_directory
from impasto.mars.run_folder import LaunchOptions, RunLog, checkpoint_to_resume, start_folder, start_of
from impasto.mars.vq_runs import TokenizerRun
from impasto.mars.vq_state import TokenizerState
from impasto.mars.vq_training import train_tokenizer
from impasto.pictures import contact_sheet, to_images
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.vision.efficientnet import ImageFeatures
from impasto.vision.features import hashes_by_role

PERCEPTUAL_NETWORK = "efficientnet-lite2"  # not the one that reports use (peer: VGG, not offline here)
SHEET_PICTURES, CELL = 8, 96


def launch(preset: str, run: TokenizerRun, options: LaunchOptions, records: Records | None = None) -> str:
    """Train, on scenes if no records are given; returns how it ended. Raises one-line errors for what cannot
    be. ConfigError if --init-from holds a tokenizer of another shape."""
    ranks = Ranks.from_environment(options.device)
    checkpoint = checkpoint_to_resume(run, options)
    ranks.barrier()  # all have looked before the main rank writes
    initial = None
    if options.init_from and not checkpoint:
        part = load_tokenizer(find_directory(options.init_from, "--init-from"), "--init-from")
        if part.tokenizer.config != run.model:
            raise ConfigError(f"--init-from {options.init_from} holds a tokenizer of another shape")
        initial = {"tokenizer": dict(part.tokenizer.state_dict())}
    features, networks = None, {}
    if run.training.objective.perceptual_weight:
        features = ImageFeatures(PERCEPTUAL_NETWORK).to(ranks.device)
        networks = hashes_by_role("perceptual", features)
    state, found = TokenizerState.fresh(run, ranks.device, initial), None
    if records is not None:
        seed, stride = run.training.seed, ranks.world_size
        found = TrainingSet(records, run.resolution, run.dataset, seed=seed, stride=stride)
    if ranks.is_main:
        start_folder(preset, run, options.out)
    start = start_of(checkpoint)
    with Graceful() as stop, TrainingDisplay(run.training.images, start) as display:
        log = RunLog(options, run, display, ranks, start)
        try:
            if checkpoint:
                state.restore(checkpoint)
            log.resume(state.images)
            made_by = {"preset": preset, "training_networks": networks}
            recorder = TokenizerRecorder(log, run, made_by, found)
            source = SceneSource(run.resolution, run.data, seed=run.training.seed)
            return train_tokenizer(
                state, found.training if found else source, recorder,
                ranks=ranks, deadline=Deadline(options.time_limit), stop=stop, perceptual=features,
            )  # fmt: skip
        finally:
            log.close()
            if found is not None:
                found.close()
                if ranks.is_main:
                    found.write_bad_samples(options.out, display.message)


class TokenizerRecorder:
    """Metrics, sheets of pictures above their reconstructions, checkpoints, the newest model."""

    def __init__(
        self,
        log: RunLog,
        run: TokenizerRun,
        provenance: Mapping[str, Any],
        pictures: TrainingSet | None = None,
    ):
        """pictures: the set that is trained on, where it is not the endless scenes."""
        self.log, self.run, self.provenance = log, run, dict(provenance)
        self.groups: dict[str, Tensor] = {}  # what is shown: pictures [n, 3, R, R] in [-1, 1]
        if pictures is not None:
            count = min(2 * SHEET_PICTURES, len(pictures.held_out))
            rows = pictures.held_out.batch(range(count))[0].split(SHEET_PICTURES)
            self.groups = dict(zip(("held-out pictures", "more of them"), rows, strict=False))
            return
        for name, split in {"seen combinations": "train", "held-out combinations": "heldout"}.items():
            source = SceneSource(run.resolution, run.data, seed=run.training.seed + 1, split=split)
            self.groups[name] = source.batch(range(SHEET_PICTURES))[0]

    def tick(self, images: int) -> None:
        self.log.display.tick(images)

    def metrics(self, state: TokenizerState, values: dict[str, float], seconds: float) -> None:
        self.log.metrics(state.images, values, seconds)

    @torch.no_grad()
    def samples(self, state: TokenizerState) -> None:
        """Pictures never trained on above their reconstructions, and how far they are apart."""
        if not self.log.ranks.is_main:
            return
        tokenizer = state.tokenizer.eval()
        images = torch.cat(list(self.groups.values())).to(tokenizer.last_layer.device)
        made = tokenizer.decode(tokenizer.encode(images))
        tokenizer.train()
        error = (made - images).square().mean()
        self.log.scores(
            state.images,
            {"validation/psnr": float(10 * torch.log10(4 / error))},
            ["validation/psnr"],
        )
        true, drawn = to_images(images), to_images(made)
        starts = range(0, len(true), SHEET_PICTURES)
        rows = [side[start : start + SHEET_PICTURES] for start in starts for side in (true, drawn)]
        labels = [label for name in self.groups for label in (name, "reconstructed")]
        self.log.sheet(state.images, "reconstructions", contact_sheet(rows, labels, cell=CELL))

    def checkpoint(self, state: TokenizerState) -> None:
        if not self.log.ranks.is_main:
            return
        self.log.sync()
        state.save(self.log.out, {})
        document = {
            "model": to_dict(self.run.model),
            "resolution": self.run.resolution,
            "provenance": {
                **self.provenance,
                "data": data_provenance(self.run),
                "images_seen": state.images,
            },
        }
        card = (
            f"# {self.log.out.name}\n\nAn image tokenizer: pictures to {self.run.model.codes} codes at "
            f"f = {self.run.model.factor} and back, for `impasto train .../stage1 --set tokenizer=PATH`.\n"
        )
        weights = state.tokenizer.state_dict()
        save_directory(self.log.out / "model", TOKENIZER_FAMILY, document, weights, card)
        self.log.finish_checkpoint(self.run.training.keep_checkpoints)
