"""Trials of training: the loss at start, gradients, and one batch learnt by heart, on a copy.

Source: "overfit one batch" and the loss at initialisation are the first steps of Karpathy's "A recipe for
training neural networks" (2019).
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trocr.doctor.findings import Finding, ok, some
from trocr.processor import TrOCRProcessor
from trocr.training.batches import label_ids, pad_labels
from trocr.training.objective import Objective

NEAR_RANDOM = 0.15
"""How far the loss of random weights may be from that of equal probabilities, as a share of it."""

PRETRAINED_SHARE = 0.7
"""Share of that loss below which trained weights should begin."""

MISREAD_SHARE = 1.05
"""Share of that loss above which trained weights read something else than the labels say."""

SEEN = 1.0
"""Divergence of what is expected with the images of other lines, in nats a token, above which a model reads:
it was 1.8 to 8 of one that does, and up to 0.7 where the attention to the image was new."""

LEARNT_SHARE = 0.25
"""What may be left of the loss of trained weights after the steps on one batch."""

LEARNT_SHARE_NEW = 0.75
"""The same of random weights, which need hundreds of steps to learn a batch by heart."""

TRIAL_LR = 2e-4


@torch.no_grad()
def start_losses(
    objective: Objective,
    processor: TrOCRProcessor,
    lines: Sequence[tuple[str, str, Image.Image]],
    starts: Iterable[int],
) -> dict[int, float]:
    """Measure the loss per token of lines whose texts start with one token or another.

    Args:
        objective: what is trained; it stays as it is.
        processor: of its model.
        lines: (name, text, image), a batch.
        starts: ids of the tokens.
    """
    model = objective.model
    kept = model.start_token_id, model.training
    trial = Objective(model.eval())
    pixels, labels = _batch(processor, lines)
    losses = {}
    try:
        for start in starts:
            model.start_token_id = start
            losses[start] = float(_loss(trial, pixels, labels))
    finally:
        model.start_token_id = kept[0]
        model.train(kept[1])
    return losses


def check_training(
    objective: Objective,
    processor: TrOCRProcessor,
    lines: Sequence[tuple[str, str, Image.Image]],
    *,
    is_new: bool,
    steps: int = 30,
    lr: float = TRIAL_LR,
) -> Iterator[Finding]:
    """Train a copy of the model on one batch, and look at its loss and gradients.

    Args:
        objective: what is trained; it stays as it is.
        processor: of its model.
        lines: (name, text, image), a batch.
        is_new: the weights are random.
        steps: optimizer steps on the batch; 0 leaves the trial out.
        lr: of these steps.
    """
    trial = Objective(copy.deepcopy(objective.model), label_smoothing=0.0)
    pixels, labels = _batch(processor, lines)
    loss = _loss(trial.eval(), pixels, labels)
    first = float(loss.detach())
    yield from _start(first, trial, pixels, labels, is_new=is_new)
    if not math.isfinite(first):
        return
    yield from _gradients(trial, objective, loss)
    if steps:
        share = LEARNT_SHARE_NEW if is_new else LEARNT_SHARE
        goal = max(share * first, 0.05)
        yield from _by_heart(trial, pixels, labels, first, goal=goal, steps=steps, lr=lr)


def _batch(processor: TrOCRProcessor, lines: Sequence[tuple[str, str, Image.Image]]) -> tuple[Tensor, Tensor]:
    images = [image for _, _, image in lines]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return pixels, pad_labels([label_ids(processor, text) for _, text, _ in lines])


def _loss(trial: Objective, pixels: Tensor, labels: Tensor) -> Tensor:
    return trial(pixels, labels).tokens / (labels != -100).sum()


@torch.no_grad()
def _sees(trial: Objective, pixels: Tensor, labels: Tensor) -> bool:
    """Whether the image of another line changes what the model expects."""
    counted = labels != -100
    own, other = (
        trial.model(pixel_values=images, labels=labels).logits[counted].float().log_softmax(-1)
        for images in (pixels, pixels.roll(1, 0))
    )
    return float(F.kl_div(other, own, log_target=True, reduction="batchmean")) > SEEN


def _start(
    loss: float, trial: Objective, pixels: Tensor, labels: Tensor, *, is_new: bool
) -> Iterator[Finding]:
    rows = trial.model.decoder.embed_tokens.num_embeddings
    even = math.log(rows)
    if not math.isfinite(loss):
        yield Finding(
            "error",
            "loss at start",
            f"the loss of the first batch is {loss}",
            "nothing can be learnt from it",
            "train in float32, and look at images and labels with `trocr data inspect`",
        )
    elif is_new and abs(loss - even) > NEAR_RANDOM * even:
        yield Finding(
            "warning",
            "loss at start",
            f"{loss:.2f} with random weights, expected about ln {rows} = {even:.2f}",
            "the output is not spread evenly: initialisation or scales are off",
            "look at initializer_range and init_std in the configuration",
        )
    elif not is_new and loss > MISREAD_SHARE * even and _sees(trial, pixels, labels):
        yield Finding(
            "error",
            "loss at start",
            f"{loss:.2f} with trained weights, which do look at the image; a guess among {rows} tokens costs "
            f"{even:.2f}",
            "the model reads something else than the labels say: they belong to other images, or to another "
            "tokenizer",
            "compare some images with their labels, and with what `trocr read` makes of them",
        )
    elif not is_new and loss > PRETRAINED_SHARE * even:
        yield Finding(
            "warning",
            "loss at start",
            f"{loss:.2f} with trained weights; a guess among {rows} tokens costs {even:.2f}",
            "the model reads next to nothing here: another tokenizer, start token, image size or script; or "
            "its attention to the image is new (`trocr assemble`), which is in order",
            "see the findings above; read some of these lines with `trocr read` to see what it makes of them",
        )
    else:
        what = "random" if is_new else "trained"
        yield ok("loss at start", f"{loss:.2f} with {what} weights; a guess costs {even:.2f}")


def _gradients(trial: Objective, objective: Objective, loss: Tensor) -> Iterator[Finding]:
    trial.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    frozen, lost, total = [], [], 0
    for name, parameter in trial.model.named_parameters():
        total += 1
        if not parameter.requires_grad:
            frozen.append(name)
        elif parameter.grad is None or not bool(parameter.grad.any()):
            lost.append(name)
    lost = [name for name in lost if not name.endswith("k_proj.bias")]  # softmax ignores it
    lost = [name for name in lost if "pooler" not in name]
    trained = [name for name in frozen if "pooler" not in name]
    if lost:
        yield Finding(
            "warning",
            "gradients",
            f"{len(lost)} of {total} parameters get no gradient: {some(lost)}",
            "they are not connected to the loss, and stay as they are",
            "freeze them, or look at what the forward pass leaves out",
        )
    else:
        yield ok("gradients", f"{total - len(frozen)} parameters get one, {len(frozen)} are frozen")
    if trained and len(trained) > total // 2:
        yield Finding(
            "warning",
            "frozen",
            f"{len(trained)} of {total} parameters are frozen: {some(trained)}",
            "a frozen encoder cannot learn a new kind of image, a frozen decoder no new words",
            "look at model.freeze",
        )


def _by_heart(
    trial: Objective, pixels: Tensor, labels: Tensor, first: float, *, goal: float, steps: int, lr: float
) -> Iterator[Finding]:
    parameters = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = _loss(trial, pixels, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    with torch.no_grad():
        last = float(_loss(trial, pixels, labels))
    if last > goal:
        yield Finding(
            "error",
            "one batch",
            f"{steps} steps at {lr:g} on {len(labels)} lines bring the loss from {first:.3f} to "
            f"{last:.3f} only",
            "a model that cannot learn one batch by heart cannot learn the data: labels do not belong to the "
            "images, too much is frozen, or the weights are broken",
            "look at the lines with `trocr evaluate --html`, at model.freeze, and at the findings above",
        )
    else:
        yield ok("one batch", f"{steps} steps bring the loss from {first:.3f} to {last:.3f}")
