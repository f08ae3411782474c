"""Everything that a checkpoint of a stage holds: the trained tensors, their optimiser, counters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from impasto.config import ConfigError, diff, to_dict
from impasto.mars.convert import base_fingerprint, digest_of, from_language, go_on_from, visual_state
from impasto.mars.directories import LanguagePart, TokenizerPart
from impasto.mars.initial import carry_codebook
from impasto.mars.lora import add_adapters, load_trained_state, trained_state, wrapped_fingerprint
from impasto.mars.prefix import PrefixStore
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.semvie import MarsModel
from impasto.mars.texts import text_fingerprint
from impasto.mars.training_config import Optimisation, StageRun
from impasto.runtime.checkpoint import CheckpointError, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.means import Means
from impasto.runtime.sharded_checkpoint import Target, load_sharded_checkpoint, save_sharded_checkpoint
from impasto.runtime.sharding import shard
from impasto.runtime.training_state import load_optimizer, optimizer_tensors


@dataclass
class StageState:
    """A run at one moment. `images` counts pictures seen; `made_of` the fingerprints of the frozen parts;
    `shards` are the ranks that the model is shared out among, None where each has all of it."""

    run: StageRun
    model: MarsModel
    prompts: PromptTokeniser
    optimizer: Optimizer
    guard: NonFiniteGuard
    prefixes: PrefixStore | None
    means: Means
    made_of: dict[str, str]
    shards: Ranks | None = None
    images: int = 0
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(
        cls,
        run: StageRun,
        device: torch.device,
        language: LanguagePart,
        tokenizer: TokenizerPart,
        initial: MarsModel | None = None,
        ranks: Ranks | None = None,
        base: MarsModel | None = None,
    ) -> "StageState":
        """The visual expert copied from the language expert, with what `visual.initial_codebook` asks for of
        the tokenizer; or taken from `initial`, an earlier stage's model. base: the model whose pictures stage
        III enlarges; checkpoints name its digest. With training.shard_model the model is shared out among
        `ranks`, if they are several. ConfigError where parts do not fit each other.
        """
        training, config = run.training, run.model
        _check_parts(run, language, tokenizer)
        model = from_language(language.state, config, seed=training.seed)
        if initial is None:
            carry_codebook(model, tokenizer.tokenizer.quantizer.entries(), seed=training.seed)
        else:
            if base_fingerprint(initial) != base_fingerprint(model):
                raise ConfigError("--init-from was trained on another language model than this run's")
            go_on_from(model, initial, seed=training.seed)
        if training.lora_rank:
            add_adapters(model, training.lora_rank, training.lora_alpha, seed=training.seed)
        model.train()
        model.checkpoint_activations = training.checkpoint_activations
        fingerprint = base_fingerprint(model)
        shards = ranks if training.shard_model and ranks is not None and ranks.world_size > 1 else None
        if shards is not None:  # before the optimiser takes hold of the parameters
            shard(model, model.layers, shards)
        else:
            model.to(device)
        # Ranks know different captions, and whether one is computed is for all of them to do: kept are none.
        keeps = config.visual.experts == "split" and shards is None
        kept_bytes = training.prefix_cache_mebibytes * 2**20 if keeps else 0
        return cls(
            run=run,
            model=model,
            prompts=PromptTokeniser(language.tokeniser, config.language.vocabulary),
            optimizer=make_optimizer(model, training.optimisation),
            guard=NonFiniteGuard(training.optimisation.max_bad_steps, "gradients of the visual expert"),
            prefixes=PrefixStore(model, kept_bytes) if kept_bytes else None,
            means=Means(),
            made_of={
                "tokenizer": tokenizer.fingerprint,
                "language": fingerprint,
                "text tokeniser": text_fingerprint(language.tokeniser),
                **({"start (--init-from)": wrapped_fingerprint(model)} if training.lora_rank else {}),
                **({} if base is None else {"base (--init-from)": digest_of(visual_state(base))}),
            },
            shards=shards,
        )

    @property
    def tokens(self) -> int:
        """Image tokens seen: the clock."""
        return self.images * self.run.image_length

    def save(self, out: Path) -> Path:
        """Write a checkpoint, of the trained tensors alone, and return its folder. Every rank calls it if the
        model is sharded, otherwise the main one."""
        moments, options = optimizer_tensors(self.optimizer, self.model.named_parameters())
        document = {
            "config": to_dict(self.run),
            "images": self.images,
            "made_of": self.made_of,
            "visual_optimizer": options,
            "guard": self.guard.state_dict(),
            "means": self.means.state_dict(),
        }
        tensors = {"visual": trained_state(self.model), "visual_optimizer": moments}
        if self.shards is None:
            self.last_checkpoint = save_checkpoint(out, self.images, tensors, document)
        else:
            self.last_checkpoint = save_sharded_checkpoint(out, self.images, tensors, document, self.shards)
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> None:
        """Take up a verified checkpoint over the same frozen parts, whatever number of ranks wrote it.
        ConfigError if the parts have changed, CheckpointError if it is of another network."""
        tensors, state = load_sharded_checkpoint(checkpoint, self._receiver(), verified=True)
        changed = [name for name, value in self.made_of.items() if state["made_of"].get(name) != value]
        if changed:
            raise ConfigError(f"{checkpoint} was trained with another {changed[0]}; choose another --out")
        try:
            load_trained_state(self.model, tensors["visual"])
        except ValueError as error:
            raise CheckpointError(f"{checkpoint} is of another network: {error}") from None
        moments, options = tensors["visual_optimizer"], state["visual_optimizer"]
        load_optimizer(self.optimizer, self.model.named_parameters(), moments, options, options=False)
        self.guard.load_state_dict(state["guard"])
        self.means.load_state_dict(state["means"])
        self.images, self.last_checkpoint = state["images"], checkpoint

    def _receiver(self) -> Target:
        """Which tensor a saved one is for: moments are laid out as their parameters."""
        named = dict(self.model.named_parameters())
        return lambda entry, name: named.get(name.partition("/")[2] if entry.endswith("optimizer") else name)


def make_optimizer(model: nn.Module, config: Optimisation) -> Optimizer:
    """AdamW on what is trained; biases and norms do not decay."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.dim() < 2]["params"].append(parameter)
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )


def _check_parts(run: StageRun, language: LanguagePart, tokenizer: TokenizerPart) -> None:
    changed = diff(language.config, run.model.language)
    if changed:
        raise ConfigError(f"the language model differs from model.language ({changed[0]}); set it alike")
    codes = tokenizer.tokenizer.config.codes
    if codes != run.model.visual.codes:
        raise ConfigError(f"the tokenizer has {codes} codes; --set model.visual.codes={codes}")
