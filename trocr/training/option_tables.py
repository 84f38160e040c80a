"""The tables of a training file: what can be set, with defaults and bounds.

Paths are relative to the working directory, as on a command line, wherever the file lies.

Source: original work.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trocr.training.option_fields import OptionsError, Section, option, show

_section = dataclass(frozen=True, kw_only=True)


@_section
class ModelOptions(Section):
    """What is trained.

    Attributes:
        checkpoint: shipped name, directory or Hub id; with `init="random"` its weights are not read, and a
            directory need not have any.
        init: "pretrained" or "random".
        image_size: (height, width) in pixels to change the model to; empty keeps its own.
        positions: how the position table follows `image_size`; see `trocr.surgery.image_shape.resize_images`.
        freeze: patterns of modules or parameters that are not trained, such as "encoder.embeddings" or
            "decoder.blocks.[01].*".
        gradient_checkpointing: recompute blocks in the backward pass, for less memory.
        compile: compile the blocks with `torch.compile`.
        autocast: precision of the products; weights stay in float32.
        dropout: of the decoder's branches instead of the checkpoint's, or nothing.
        recipe: file with operations of surgery that are done before training; see docs/surgery.md.
    """

    checkpoint: str
    init: Literal["pretrained", "random"] = "pretrained"
    image_size: tuple[int, ...] = option((), least=1)
    positions: Literal["resample", "extend"] = "resample"
    freeze: tuple[str, ...] = ()
    gradient_checkpointing: bool = False
    compile: bool = False
    autocast: Literal["float32", "bfloat16", "float16"] = "float32"
    dropout: float | None = option(None, least=0, below=1)
    recipe: str = ""

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if len(self.image_size) not in (0, 2):
            yield f"image_size={show(self.image_size)} must be [height, width] in pixels"


@_section
class DataOptions(Section):
    """What it is trained on.

    Attributes:
        train: sources of lines, of any kind that `trocr.data.sources.open_source` opens.
        shares: how often each source of `train` is drawn from, in any unit; empty draws lines evenly, so
            that a source counts by its length.
        val: sources for validation; empty trains without.
        kind: format of all sources; "auto" looks.
        synthetic: settings of the generator of lines; see docs/synthetic.md. Empty: no generator.
        synthetic_share: share of generated lines among all, 0..1.
        max_label_tokens: longest label, end token included; 0 is what the decoder can take.
        workers: processes that open and augment lines; 0 does it in the training process.
        seed: of order, augmentation and generator.
    """

    train: tuple[str, ...] = ()
    shares: tuple[float, ...] = option((), above=0)
    val: tuple[str, ...] = ()
    kind: str = "auto"
    synthetic: Mapping[str, Any] = option({})
    synthetic_share: float = option(1.0, least=0, most=1)
    max_label_tokens: int = option(0, least=0)
    workers: int = option(0, least=0)
    seed: int = option(0, least=0)

    def label_limit(self, positions: int) -> int:
        """Most tokens of a label, for a decoder with so many positions."""
        return min(self.max_label_tokens or positions, positions)

    @property
    def has_synthetic(self) -> bool:
        """Whether lines are generated."""
        return bool(self.synthetic) and self.synthetic_share > 0

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if not self.train and not self.has_synthetic:
            yield "train=[] leaves no lines to train on: name a source, or settings under [data.synthetic]"
        if self.shares and len(self.shares) != len(self.train):
            yield f"shares has {len(self.shares)} numbers for {len(self.train)} sources of train"
        if self.train and self.synthetic and self.synthetic_share == 1:
            yield "synthetic_share=1.0 would never read train: set a share below 1, or take train out"


@_section
class AugmentationOptions(Section):
    """How images are changed before they are read; see docs/augmentation.md.

    Attributes:
        preset: name of a pipeline; "none" changes nothing.
        settings: what the preset takes.
    """

    preset: str = "none"
    settings: Mapping[str, Any] = option({})


@_section
class BatchOptions(Section):
    """How lines become batches; see `trocr.training.batches.BatchSettings`.

    Attributes:
        size: lines of an optimizer step, over all processes.
        micro_batch_size: lines that go through the model together; 0 is all of a process's share. A smaller
            one needs less memory and gives the same step. With 0 each of several processes opens all lines
            of a step to find its share; with a number they share that work too.
        width_buckets: widths in pixels that a batch may be cut to, for processors that pad on the right.
        full_width_share: share of batches that keep the full width all the same.
        length_multiple: the labels' length is rounded up to a multiple of it, at most to the longest allowed.
        window: micro-batches that are sorted and cut together.
    """

    size: int = option(32, least=1)
    micro_batch_size: int = option(0, least=0)
    width_buckets: tuple[int, ...] = option((), least=1)
    full_width_share: float = option(0.1, least=0, most=1)
    length_multiple: int = option(8, least=1)
    window: int = option(16, least=1)

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if self.micro_batch_size and self.size % self.micro_batch_size:
            yield (
                f"size={self.size} must be a multiple of micro_batch_size={self.micro_batch_size}: a step "
                "takes whole micro-batches"
            )

    def lanes(self, world_size: int) -> int:
        """Micro-batches of a step, over all processes.

        Raises:
            OptionsError: the batch cannot be shared evenly.
        """
        unit = (self.micro_batch_size or 1) * world_size
        if self.size % unit:
            parts = f" in micro-batches of {self.micro_batch_size}" if self.micro_batch_size else ""
            raise OptionsError(
                [
                    f"batch.size={self.size} cannot be shared evenly by {world_size} processes{parts}; make "
                    f"it a multiple of {unit}"
                ]
            )
        return self.size // self.micro_batch_size if self.micro_batch_size else 1


@_section
class OptimizerOptions(Section):
    """How weights change.

    Attributes:
        name: "adamw", or any optimizer of timm (`timm.optim.list_optimizers()`).
        lr: learning rate at its highest.
        weight_decay: times the learning rate; norms, biases, embeddings and positions have none.
        betas: of the averages of the gradient and of its square, or nothing for the optimizer's own (0.9 and
            0.999 for "adamw").
        eps: added to the root of the latter, or nothing for the optimizer's own (1e-8 for "adamw").
        layer_decay: factor of the learning rate from a block to the one before it; 1 trains all alike.
        clip_norm: longest gradient; 0 does not clip.
    """

    name: str = "adamw"
    lr: float = option(1e-4, above=0)
    weight_decay: float = option(0.01, least=0)
    betas: tuple[float, float] | None = option(None, least=0, below=1)
    eps: float | None = option(None, above=0)
    layer_decay: float = option(1.0, above=0, most=1)
    clip_norm: float = option(0.0, least=0)


@_section
class ScheduleOptions(Section):
    """How the learning rate goes over the run; see `trocr.training.schedule`.

    Attributes:
        kind: "inverse_sqrt", "cosine", "linear" or "constant" after the warm-up.
        warmup_steps: steps of a linear rise.
        warmup_init_lr: where the rise starts.
        min_lr: where cosine and linear end.
        decay_steps: step at which they end; 0 is the end of the run.
    """

    kind: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = option(0, least=0)
    warmup_init_lr: float = option(0.0, least=0)
    min_lr: float = option(0.0, least=0)
    decay_steps: int = option(0, least=0)


@_section
class LossOptions(Section):
    """What is minimised.

    Attributes:
        label_smoothing: share of the target that is spread over the vocabulary.
        ctc_weight: factor of the CTC loss on the encoder; 0 trains without the head.
        ctc_alphabet: its characters; empty is printable ASCII.
        ctc_head: a saved head to start from, a file or the directory of a checkpoint; empty is a new one.
    """

    label_smoothing: float = option(0.0, least=0, below=1)
    ctc_weight: float = option(0.0, least=0)
    ctc_alphabet: str = ""
    ctc_head: str = ""

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        for name in ("ctc_alphabet", "ctc_head"):
            if getattr(self, name) and not self.ctc_weight:
                yield f"{name} is set and ctc_weight=0.0 trains without the head: set ctc_weight, such as 0.3"


@_section
class AdapterOptions(Section):
    """Small additions that are trained instead of the weights; see `trocr.surgery.adapters`.

    Attributes:
        modules: patterns of linear layers that get one; empty trains the weights themselves.
        kind: "lora" or "dora".
        rank: of the additions.
        alpha: their effect is multiplied by alpha / rank.
        dropout: on what goes into them.
        also_train: patterns of parameters that are trained beside them.
    """

    modules: tuple[str, ...] = ()
    kind: Literal["lora", "dora"] = "lora"
    rank: int = option(8, least=1)
    alpha: float = option(16.0, above=0)
    dropout: float = option(0.0, least=0, below=1)
    also_train: tuple[str, ...] = ()

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if self.also_train and not self.modules:
            yield "also_train is set and modules is empty: without adapters everything is trained"


@_section
class DistillationOptions(Section):
    """A teacher, and how much each of its losses counts; see `trocr.training.distillation`.

    Attributes:
        teacher: shipped name, directory or Hub id; empty learns from the labels alone.
        labels: weight of the cross-entropy with the labels.
        logits: weight of the divergence from the teacher's scores.
        hidden: weight of the distance of matched blocks' states.
        attention: weight of the divergence of matched blocks' attention.
        temperature: that scores are divided by.
    """

    teacher: str = ""
    labels: float = option(0.5, least=0)
    logits: float = option(0.5, least=0)
    hidden: float = option(0.0, least=0)
    attention: float = option(0.0, least=0)
    temperature: float = option(2.0, above=0)

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if not (self.labels or self.logits or self.hidden or self.attention):
            yield "labels, logits, hidden and attention are all 0: nothing is minimised"


@_section
class RunOptions(Section):
    """How long, and what is written where.

    Attributes:
        steps: optimizer steps; 0 counts by `epochs`.
        epochs: passes over the lines of `data.train`; 0 counts by `steps`.
        seed: of new weights and dropout.
        eval_every: steps between validations; 0 validates at the end only.
        save_every: steps between saved states; 0 saves at validations only.
        patience: validations without a better CER after which the run ends; 0 never ends it early.
        log_every: steps between lines of the log.
        output: folder of the run; empty is runs/ and the name of the options' file.
        ema_decay: of the running average of weights, which is validated and exported instead of the last
            weights; 0 keeps none.
        keep: newest states that are kept.
        eval_lines: lines of `data.val` that are read in a validation; 0 is all.
        eval_batch_size: lines that are read together.
        sample_images: lines shown with their reading in TensorBoard.
        tensorboard: write its files (needs the extra `train`).
        parallel: "ddp" or "fsdp" when several processes train.
        device: "cpu", "cuda" or "auto".
    """

    steps: int = option(0, least=0)
    epochs: float = option(0.0, least=0)
    seed: int = option(0, least=0)
    eval_every: int = option(0, least=0)
    save_every: int = option(0, least=0)
    patience: int = option(0, least=0)
    log_every: int = option(50, least=1)
    output: str = ""
    ema_decay: float = option(0.0, least=0, below=1)
    keep: int = option(2, least=1)
    eval_lines: int = option(0, least=0)
    eval_batch_size: int = option(16, least=1)
    sample_images: int = option(8, least=0)
    tensorboard: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another."""
        if bool(self.steps) == bool(self.epochs):
            yield f"steps={self.steps} and epochs={self.epochs}: exactly one of them must be set"
        if self.patience and not self.eval_every:
            yield f"patience={self.patience} counts validations, and eval_every=0 has one at the end: set it"
