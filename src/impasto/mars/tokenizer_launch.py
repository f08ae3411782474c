"""The image tokenizer's run from the command line."""

from collections.abc import Mapping
from typing import Any

import torch

from impasto.config import ConfigError, to_dict
from impasto.data.scene_source import SceneSource
from impasto.mars.directories import TOKENIZER_FAMILY, find_directory, load_tokenizer, save_directory
from impasto.mars.run_folder import LaunchOptions, RunLog, checkpoint_to_resume, start_folder, start_of
from impasto.mars.vq_training import TokenizerRun, TokenizerState, train_tokenizer
from impasto.pictures import contact_sheet, to_images
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.vision.efficientnet import ImageFeatures

PERCEPTUAL_NETWORK = "efficientnet-lite2"  # not the one that reports use (peer: VGG, not offline here)
SHEET_PICTURES, CELL = 8, 96


def launch(preset: str, run: TokenizerRun, options: LaunchOptions) -> str:
    """Train; returns how it ended. Raises one-line errors for what cannot be."""
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
        networks = {"perceptual": features.fingerprint}
    state = TokenizerState.fresh(run, ranks.device, initial)
    if ranks.is_main:
        start_folder(preset, run, options.out)
    start = start_of(checkpoint)
    with Graceful() as stop, TrainingDisplay(run.training.images, start) as display:
        log = RunLog(options, run, display, ranks, start)
        try:
            if checkpoint:
                state.restore(checkpoint)
            log.resume(state.images)
            recorder = TokenizerRecorder(log, run, {"preset": preset, "training_networks": networks})
            source = SceneSource(run.resolution, run.data, seed=run.training.seed)
            return train_tokenizer(
                state, source, recorder,
                ranks=ranks, deadline=Deadline(options.time_limit), stop=stop, perceptual=features,
            )  # fmt: skip
        finally:
            log.close()


class TokenizerRecorder:
    """Metrics, sheets of pictures above their reconstructions, checkpoints, the newest model."""

    def __init__(self, log: RunLog, run: TokenizerRun, provenance: Mapping[str, Any]):
        self.log, self.run, self.provenance = log, run, dict(provenance)
        shift = run.training.seed + 1
        splits = [SceneSource(run.resolution, run.data, seed=shift, split=s) for s in ("train", "heldout")]
        self.images = torch.cat([source.batch(range(SHEET_PICTURES))[0] for source in splits])

    def tick(self, images: int) -> None:
        self.log.display.tick(images)

    def metrics(self, state: TokenizerState, values: dict[str, float], seconds: float) -> None:
        self.log.metrics(state.images, values, seconds)

    @torch.no_grad()
    def samples(self, state: TokenizerState) -> None:
        """Scenes never trained on above their reconstructions, and how far they are apart."""
        if not self.log.ranks.is_main:
            return
        tokenizer = state.tokenizer.eval()
        images = self.images.to(tokenizer.last_layer.device)
        made = tokenizer.decode(tokenizer.encode(images))
        tokenizer.train()
        error = (made - images).square().mean()
        self.log.scores(
            state.images,
            {"validation/psnr": float(10 * torch.log10(4 / error))},
            ["validation/psnr"],
        )
        true, drawn = to_images(images), to_images(made)
        groups = [slice(start, start + SHEET_PICTURES) for start in (0, SHEET_PICTURES)]
        rows = [side[group] for group in groups for side in (true, drawn)]
        labels = ["seen combinations", "reconstructed", "held-out combinations", "reconstructed"]
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
                "data": {"scenes": to_dict(self.run.data)},
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
