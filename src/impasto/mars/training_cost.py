"""What a stage of MARS would take on how many devices, traced from the code's own modules: the trainer's
passes and the optimiser's step run on tensors without data. Nothing is allocated and nothing is timed."""

import math
import warnings
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from impasto.config import ConfigError
from impasto.mars.codes import CodeStore
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.semvie import MarsModel
from impasto.mars.trainer import Pass, backward, passes_of
from impasto.mars.training_config import StageRun
from impasto.mars.training_state import StageState, make_optimizer
from impasto.runtime.dist import Ranks
from impasto.runtime.estimate import Machine, Work, memory_of, parameter_bytes
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.means import Means

CAPTION = 50  # tokens of one: 306 a sequence of stage I in the notes' check of the paper's GPU days
DEPTHS = (2, 4)  # layers that are traced; deeper models are continued from them
IN_FLIGHT = 3  # layers whose weights FSDP2 holds at once: computing, gathered ahead, its buffer (assumed)


@dataclass(frozen=True)
class Trace:
    """One pass of forward and backward over a device's pictures, and the update after the last. Bytes are
    peaks above what is there before: of a pass that finds no gradients and of one that finds them."""

    flops: float
    traffic: float
    update_traffic: float
    first_bytes: float
    again_bytes: float
    update_bytes: float


@dataclass(frozen=True)
class StageCost:
    """Of a stage on so many ranks. Bytes of weights, at their type: all, those trained, one layer's (both
    experts) and its trained part, and what belongs to no layer."""

    run: StageRun
    ranks: int
    pictures: int  # in one pass of a device
    passes: int  # of a device, for one step
    trace: Trace
    parameters: int
    trained: int
    weight_bytes: int
    trained_bytes: int
    layer_bytes: int
    layer_trained_bytes: int
    root_bytes: int

    @property
    def sharded(self) -> bool:
        return self.run.training.shard_model and self.ranks > 1

    @property
    def flops(self) -> float:
        """Of one step on one device (a multiply-add counts two)."""
        return self.passes * self.trace.flops

    @property
    def traffic(self) -> float:
        """Bytes that the operations of one step read and write on one device."""
        share = self.ranks if self.sharded else 1
        return self.passes * self.trace.traffic + self.trace.update_traffic / share

    def seconds(self, flops_a_second: float, bytes_a_second: float = math.inf) -> float:
        """Of computing one step, arithmetic and memory one after the other."""
        return self.flops / flops_a_second + self.traffic / bytes_a_second

    @property
    def kept_bytes(self) -> float:
        """On a device between steps: weights and the two moments of those trained."""
        return (self.weight_bytes + 2 * self.trained_bytes) / (self.ranks if self.sharded else 1)

    @property
    def peak_bytes(self) -> float:
        trace = self.trace
        if self.sharded:
            own = self.trained_bytes / self.ranks
            gathered = self.root_bytes + IN_FLIGHT * self.layer_bytes + self.layer_trained_bytes
            return self.kept_bytes + own + max(gathered + trace.again_bytes, trace.update_bytes / self.ranks)
        again = self.trained_bytes + max(trace.update_bytes, trace.again_bytes if self.passes > 1 else 0.0)
        return self.kept_bytes + max(trace.first_bytes, again)

    @property
    def exchanged_bytes(self) -> float:
        """What a device sends and receives in a step, in rings: weights gathered for every walk through the
        layers and gradients shared out after it, or gradients alone."""
        share = (self.ranks - 1) / self.ranks
        if not self.sharded:
            return 2 * share * self.trained_bytes
        walks = 3  # captions, pictures, backward
        if self.run.training.pictures_per_story:
            walks = 2  # sentences and pictures are read together
        if self.run.training.image_to_text:
            walks += 2  # the described ones, and theirs
        return self.passes * share * (walks * self.weight_bytes + self.trained_bytes)


def stage_cost(run: StageRun, ranks: int = 1) -> StageCost:
    """ConfigError where the batch does not divide among the ranks, or for adapters."""
    training = run.training
    if training.lora_rank:
        raise ConfigError("impasto estimate knows no adapters; leave training.lora_rank at 0")
    own = training.batch // ranks
    pictures = min(training.micro_batch or own, own)
    if training.batch % ranks or own % pictures:
        raise ConfigError(
            f"training.batch={training.batch} should divide among --ranks {ranks} and micro-batches"
        )
    with FakeTensorMode():
        model = _model(run)
        layer = model.layers[0]
        weights, trained = parameter_bytes(model), _trained_bytes(model)
    return StageCost(
        run=run,
        ranks=ranks,
        pictures=pictures,
        passes=own // pictures,
        trace=_trace(run, pictures, sharded=training.shard_model and ranks > 1),
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        weight_bytes=weights,
        trained_bytes=trained,
        layer_bytes=parameter_bytes(layer),
        layer_trained_bytes=_trained_bytes(layer),
        root_bytes=weights - len(model.layers) * parameter_bytes(layer),
    )


def _trained_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def _trace(run: StageRun, pictures: int, *, sharded: bool) -> Trace:
    """Every layer costs the same, so that of a deep model two depths are traced and continued."""
    layers = run.model.language.layers
    if layers <= DEPTHS[-1]:
        return _trace_at(run, pictures, layers, sharded)
    few, many = (_trace_at(run, pictures, depth, sharded) for depth in DEPTHS)
    further = (layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    update = max(few.update_bytes, many.update_bytes)  # of the largest tensor, not of all
    values = {
        name: value + further * (getattr(many, name) - value)
        for name, value in vars(few).items()
        if name != "update_bytes"
    }
    return Trace(**values, update_bytes=update)


def _trace_at(run: StageRun, pictures: int, layers: int, sharded: bool) -> Trace:
    language = replace(run.model.language, layers=layers)
    run = replace(run, model=replace(run.model, language=language))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        state = _state(run, sharded)
    one = _pass(state, pictures)  # of real numbers: building it asks for them
    with mode:

        def passes() -> None:
            with torch.enable_grad():
                backward(state, one, one.targets)

        trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]

        def update() -> None:
            nn.utils.clip_grad_norm_(trained, run.training.optimisation.clip)
            state.optimizer.step()

        with Work() as work:
            first = memory_of(passes).peak_bytes
        again = memory_of(passes).peak_bytes
        update()  # makes the moments
        with Work() as updating:
            update_bytes = memory_of(update).peak_bytes
        return Trace(work.flops, work.bytes, updating.bytes, first, again, update_bytes)


def _model(run: StageRun) -> MarsModel:
    with warnings.catch_warnings():  # copies of layers without data
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        return MarsModel(run.model).train()


def _state(run: StageRun, sharded: bool) -> StageState:
    # One process; that it is there keeps autocast from caching.
    return bare_state(run, _model(run), Ranks() if sharded else None)


def bare_state(run: StageRun, model: MarsModel, shards: Ranks | None) -> StageState:
    """A run's state around a model of any weights, which knows one word and no captions: for its cost."""
    model.checkpoint_activations = run.training.checkpoint_activations
    words = Tokenizer(WordLevel({"word": 1}, unk_token="word"))
    words.pre_tokenizer = Whitespace()
    return StageState(
        run=run,
        model=model,
        prompts=PromptTokeniser(words, run.model.language.vocabulary),
        optimizer=make_optimizer(model, run.training.optimisation),
        guard=NonFiniteGuard(),
        prefixes=None,
        means=Means(),
        made_of={},
        shards=shards,
    )


def _pass(state: StageState, pictures: int) -> Pass:
    """The trainer's, of so many pictures with captions of `CAPTION` words, none of them dropped; of stories,
    so many pictures in all, after sentences of as many words as are read."""
    run = state.run
    training = replace(run.training, caption_dropout=0.0, micro_batch=pictures)
    state = replace(state, run=replace(run, training=training))
    codes = torch.zeros(run.training.batch, run.image_length, dtype=torch.int32)
    low = codes
    if run.model.super_resolution is not None:
        low = torch.zeros(len(codes), run.model.image_length(run.level - 1), dtype=torch.int32)
    store = CodeStore(codes, [["word " * CAPTION]] * len(codes), seed=0, low=low)
    return next(passes_of(state, store, Ranks()))


@dataclass(frozen=True)
class StageProjection:
    """A stage on a machine: seconds of a step, apart, and bytes of one device."""

    cost: StageCost
    machine: Machine

    @property
    def computing(self) -> float:
        return self.cost.seconds(self.machine.teraflops * 1e12 * self.machine.utilisation)

    @property
    def exchanging(self) -> float:
        return self.cost.exchanged_bytes / (self.machine.bandwidth * 1e9)

    @property
    def steps(self) -> int:
        training = self.cost.run.training
        return -(-training.tokens // (training.batch * self.cost.run.image_length))

    @property
    def days(self) -> float:
        return self.steps * (self.computing + self.exchanging) / 86400

    def lines(self) -> list[str]:
        """For people: what it takes, and below it every assumption."""
        cost, machine, training = self.cost, self.machine, self.cost.run.training
        how = [
            "sharded (FSDP2)" if cost.sharded else "all on each device",
            *(["activations computed again"] if training.checkpoint_activations else []),
            "bf16 autocast" if training.bfloat16 else "fp32",
        ]
        fits = "" if cost.peak_bytes <= machine.memory * 1e9 else f"; more than {machine.memory:g}"
        length, seconds = cost.run.image_length, self.computing + self.exchanging
        stories = training.pictures_per_story
        of = f" in stories of {stories}" if stories else ""
        words = (
            f"sentences of {min(CAPTION, cost.run.sentence_length)}" if stories else f"captions of {CAPTION}"
        )
        rows = [
            ("parameters", f"{cost.parameters:,}", f"{cost.trained:,} of them trained"),
            ("a step", f"{training.batch:,}", f"pictures of {length:,} tokens{of}; {self.steps:,} steps"),
            ("  of a device", f"{cost.passes:,}", f"passes of {cost.pictures:,} pictures"),
            ("PFLOP a step, device", f"{cost.flops / 1e15:,.3g}", "multiply-add = 2"),
            ("GB of a device", f"{cost.peak_bytes / 1e9:,.1f}", ", ".join(how) + fits),
            ("  between steps", f"{cost.kept_bytes / 1e9:,.1f}", "weights and Adam's moments, fp32"),
            ("  activations", f"{cost.trace.again_bytes / 1e9:,.1f}", ""),
            ("seconds a step", f"{seconds:,.2f}", f"{self.exchanging:.2f} exchanging"),
            ("GB a checkpoint", f"{3 * cost.trained_bytes / 1e9:,.1f}", "trained tensors and their moments"),
            ("days", f"{self.days:,.1f}", f"{self.days * machine.ranks:,.0f} device days"),
        ]  # fmt: skip
        return [
            *(f"{name:24s}{number:>16s}  {note}".rstrip() for name, number, note in rows),
            "",
            f"Assumed: {machine.ranks} devices of {machine.teraflops:g} TFLOP/s used to "
            f"{machine.utilisation:.0%}; {cost.exchanged_bytes / 1e9:,.3g} GB a step in rings",
            f"at {machine.bandwidth:g} GB/s, not beside computing; {words} tokens, read in "
            f"every step; {IN_FLIGHT} layers gathered at once.",
            "Not in it: image codes (extracted once, before), loading, samples, checkpoints, what an "
            "allocator keeps.",
        ]


def project(cost: StageCost, machine: Machine) -> StageProjection:
    """ValueError for another number of ranks than the cost is of."""
    if cost.ranks != machine.ranks:
        raise ValueError(f"the cost is of {cost.ranks} ranks, the machine has {machine.ranks}")
    return StageProjection(cost, machine)
