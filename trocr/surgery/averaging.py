"""Average the weights of several checkpoints of one model.

Source: uniform and greedy soups: arXiv:2203.05482 sec. 2; averages that forget by a factor: arXiv:1703.01780
sec. 3; weighted means are updated one model at a time (West, 1979), which leaves equal values as they are.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor

from trocr.checkpoint import stored_tensors
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Change, SurgeryReport, report

Source = str | PathLike[str]
Score = Callable[[VisionEncoderDecoderModel, TrOCRProcessor], float]
Averaged = tuple[VisionEncoderDecoderModel, TrOCRProcessor, SurgeryReport]

SHOWN = 5
STATISTICS_NOTE = (
    "running statistics of batch norms were averaged like weights; an average reads better after a few steps "
    "of training mode have counted them anew"
)


def average_checkpoints(sources: Sequence[Source], *, weights: Sequence[float] | None = None) -> Averaged:
    """Average checkpoints of one model: a uniform soup, or one with weights.

    The mean is computed in float64 and kept in the precision of the first checkpoint. That of one checkpoint,
    or of several that are equal, is the same bit by bit. Whole numbers, such as counts of batches, and
    generation settings are the first one's.

    Args:
        sources: folders, shipped names or Hub ids of two models or more; one gives itself.
        weights: one number for each, not negative, of any sum; None takes all as equal.
    Returns:
        The model in evaluation mode, its processor, and the report of what differs from the first checkpoint;
        numbers: `sources`, and `distance`, the largest difference of a value from the mean of the checkpoints
        before.
    Raises:
        SurgeryError: names, shapes, configurations, tokenizers or images differ, or the weights are none.
        HubError: files are neither here nor reachable.
    """
    _expect_sources(sources)
    return _average(sources, _shares(weights, len(sources)), "average_checkpoints")


def ema_of(sources: Sequence[Source], decay: float) -> Averaged:
    """Average the checkpoints of a training run so that each one forgets those before by a factor.

    Args:
        sources: from the oldest to the newest; see `average_checkpoints`.
        decay: weight of the past at each checkpoint, 0..1: 0 gives the newest, 1 the oldest.
    Returns:
        See `average_checkpoints`.
    Raises:
        SurgeryError: see `average_checkpoints`; or the decay is out of range.
        HubError: files are neither here nor reachable.
    """
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay <= 1:
        raise SurgeryError(f"decay={decay!r} must lie between 0 and 1")
    _expect_sources(sources)
    last = len(sources) - 1
    shares = [decay**last if n == 0 else (1 - decay) * decay ** (last - n) for n in range(len(sources))]
    return _average(sources, shares, "ema_of")


def greedy_soup(sources: Sequence[Source], score: Score) -> Averaged:
    """Average those checkpoints of one model that make the average better.

    Checkpoints are taken from the best to the worst, and each one stays in the average where its score is not
    lower with it. The result is at least as good as the best checkpoint, by this score.

    Args:
        sources: see `average_checkpoints`; one may come once only.
        score: the higher the better, of a model and its processor: minus the error rate on lines that were
            not trained on.
    Returns:
        See `average_checkpoints`; more numbers: `best_score` of a single checkpoint, `score` of the result.
    Raises:
        SurgeryError: see `average_checkpoints`; or a score is no number.
        HubError: files are neither here nor reachable.
    """
    _check_agreement(sources)
    scores = []
    for source in sources:
        model, processor = _load(source)
        scores.append(_scored(score, model, processor, fspath(source)))
    order = sorted(range(len(sources)), key=lambda number: -scores[number])
    taken, best = [order[0]], scores[order[0]]
    for number in order[1:]:
        trial = [*taken, number]
        model, processor, _ = _average(
            [sources[n] for n in trial], [1.0] * len(trial), "greedy_soup", known=True
        )
        value = _scored(score, model, processor, f"the average of {len(trial)} checkpoints")
        if value >= best:
            taken, best = trial, value
    names = [sources[n] for n in taken]
    model, processor, done = _average(names, [1.0] * len(taken), "greedy_soup", known=True)
    told = [
        f"{'taken' if n in taken else 'left out'}: {fspath(sources[n])}, score {scores[n]:g}" for n in order
    ]
    numbers = {**done.numbers, "best_score": scores[order[0]], "score": best}
    return model, processor, dataclasses.replace(done, numbers=numbers, notes=(*done.notes, *told))


def _scored(score: Score, model: VisionEncoderDecoderModel, processor: TrOCRProcessor, what: str) -> float:
    value = score(model, processor)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise SurgeryError(f"the score of {what} is {value!r}, expected a number")
    return number


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    try:
        numbers = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise SurgeryError(f"weights={weights!r}, expected a number for each checkpoint") from error
    if len(numbers) != count:
        raise SurgeryError(f"{len(numbers)} weights for {count} checkpoints, expected one for each")
    if any(not math.isfinite(number) or number < 0 for number in numbers) or not 0 < sum(numbers) < math.inf:
        raise SurgeryError(f"weights={list(weights)} must not be negative, and not all of them zero")
    return numbers


@dataclass(frozen=True)
class _Kind:
    """What checkpoints must have in common to be averaged, by a name for messages."""

    parts: Mapping[str, Any]

    def differences(self, other: "_Kind") -> Iterator[str]:
        for name, value in self.parts.items():
            theirs = other.parts[name]
            if not isinstance(value, Mapping):
                if value != theirs:
                    yield f"{name} ({_short(value)} and {_short(theirs)})"
                continue
            for key in sorted(value.keys() | theirs.keys()):
                if value.get(key) != theirs.get(key):
                    yield f"{name} {key} ({_short(value.get(key))} and {_short(theirs.get(key))})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(model: VisionEncoderDecoderModel, processor: TrOCRProcessor) -> _Kind:
    config = dataclasses.replace(model.config, dtype=None).to_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in stored_tensors(model).items()}
    images, tokenizer = processor.image_processor.to_dict(), processor.tokenizer
    return _Kind(
        {
            **{f"config.{part}": config.pop(part) for part in ("encoder", "decoder")},
            "config": config,
            "tensor": shapes,
            "image processor": images,
            "tokenizer": type(tokenizer).__name__,
            "token": tokenizer.get_vocab(),
        }
    )


def _load(source: Source) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    folder = locate(source, want=(*MODEL_FILES, *PROCESSOR_FILES))
    try:
        return VisionEncoderDecoderModel.from_pretrained(folder), TrOCRProcessor.from_pretrained(folder)
    except ValueError as error:
        raise SurgeryError(f"{fspath(source)}: {error}") from error


def _check_agreement(sources: Sequence[Source]) -> None:
    """Check that sources can be averaged, before work is put into them."""
    _expect_sources(sources)
    names = [fspath(source) for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SurgeryError(f"given twice: {', '.join(twice)}")
    first = _kind(*_load(sources[0]))
    for source in sources[1:]:
        _check_same(first, _kind(*_load(source)), sources[0], source)


def _expect_sources(sources: Any) -> None:
    is_list = isinstance(sources, list | tuple) and all(isinstance(s, str | PathLike) for s in sources)
    if not is_list or not sources:
        raise SurgeryError(f"sources={sources!r}, expected checkpoints to average, a list")


def _check_same(first: _Kind, other: _Kind, source: Source, other_source: Source) -> None:
    found = list(first.differences(other))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise SurgeryError(
            f"{fspath(source)} and {fspath(other_source)} are not of one model, they differ in "
            f"{'; '.join(found[:SHOWN])}{more}: average checkpoints of one architecture with one tokenizer"
        )


def _average(
    sources: Sequence[Source], shares: Sequence[float], name: str, *, known: bool = False
) -> Averaged:
    """Average checkpoints by their shares; two of them and the mean, in float64, are in memory at a time."""
    model, processor = _load(sources[0])
    kind = _kind(model, processor)
    means = {
        key: tensor.detach().double()
        for key, tensor in stored_tensors(model).items()
        if tensor.is_floating_point()
    }
    total, settings = shares[0], {_settings(model)}
    spread = dict.fromkeys(means, 0.0)
    for source, share in zip(sources[1:], shares[1:], strict=True):
        other, its_processor = _load(source)
        if not known:
            _check_same(kind, _kind(other, its_processor), sources[0], source)
        settings.add(_settings(other))
        total += share
        part = share / total if total else 0.0
        for key, tensor in stored_tensors(other).items():
            if key in means:
                step = tensor.detach().double() - means[key]
                spread[key] = max(spread[key], float(step.abs().max()) if step.numel() else 0.0)
                means[key] = tensor.detach().double() if part == 1 else means[key] + part * step
    return model, processor, _put(model, means, spread, name, len(sources), len(settings) > 1)


def _settings(model: VisionEncoderDecoderModel) -> str:
    return repr(sorted(model.generation_config.to_dict().items(), key=str))


@torch.no_grad()
def _put(
    model: VisionEncoderDecoderModel,
    means: Mapping[str, Tensor],
    spread: Mapping[str, float],
    name: str,
    count: int,
    other_settings: bool,
) -> SurgeryReport:
    parameters = dict(model.named_parameters())
    detail = f"mean of {count} checkpoints"
    changes = []
    for key, tensor in stored_tensors(model).items():
        if key not in means:
            continue
        value = means[key].to(tensor.dtype)
        if key in parameters and not torch.equal(value, tensor):
            changes.append(Change(name=key, action="composed", shape=tuple(tensor.shape), detail=detail))
        tensor.copy_(value)
    notes = []
    if other_settings:
        notes.append("generation settings differ among the checkpoints; those of the first are taken")
    if any(spread[key] for key in means if key not in parameters):
        notes.append(STATISTICS_NOTE)
    numbers = {"sources": float(count), "distance": max(spread.values(), default=0.0)}
    return report(name, model, changes, numbers=numbers, notes=notes)
