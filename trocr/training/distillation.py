"""Learn from a teacher: its scores, states and attention, beside the labels or instead of them.

Scores: Kullback-Leibler divergence at a temperature (arXiv:1503.02531 sec. 2). States and attention of
matched blocks: arXiv:1909.10351 sec. 3 (states through a learnt projection where widths differ), attention by
its divergence as in arXiv:2002.10957 sec. 3.1. Blocks are matched evenly, the last with the last.

Source: original work; the losses are those of the papers.
Differs: the squared error of states is divided by the teacher's mean square, so that its weight does not
depend on the scale of the residual stream; attention is compared as the mean over heads, since their number
may differ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.model import ImageToText
from trocr.training.ctc import CTCHead
from trocr.training.objective import Losses, Objective, Pass, read

STACKS = ("encoder", "decoder")


class DistillationError(ValueError):
    """A student cannot learn this from this teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each loss counts, per token of the labels.

    Attributes:
        labels: cross-entropy with the labels.
        logits: divergence from the teacher's scores.
        hidden: distance of matched blocks' states, mean over encoder and decoder.
        attention: divergence of matched blocks' attention, mean over its three kinds.
        temperature: that scores are divided by before they are compared.
    Raises:
        DistillationError: one is negative or no number, all are zero, or the temperature is not above zero.
    """

    labels: float = 0.5
    logits: float = 0.5
    hidden: float = 0.0
    attention: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        losses = (self.labels, self.logits, self.hidden, self.attention)
        if not all(math.isfinite(weight) and weight >= 0 for weight in losses) or not any(losses):
            raise DistillationError(f"{self}: weights must be 0 or more, and one of them above 0")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise DistillationError(f"temperature={self.temperature} must be above 0")


class DistillationObjective(Objective):
    """A student with its losses, a teacher's among them.

    The teacher is no submodule: it is not trained, saved, averaged or sharded.

    Args:
        model: the student.
        teacher: a model with the same tokens; put into evaluation mode, its parameters frozen.
        weights: of the losses.
        ctc: see `Objective`.
        label_smoothing: see `Objective`.
    Raises:
        DistillationError: the two share parameters, which would be frozen; or states or attention are to be
            compared, and one is of timm, or they see images as other numbers of tokens.
    """

    def __init__(
        self,
        model: ImageToText,
        teacher: ImageToText,
        *,
        weights: Weights,
        ctc: CTCHead | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, ctc=ctc, label_smoothing=label_smoothing)
        _check_apart(model, teacher)
        self.weights = weights
        if weights.hidden or weights.attention:
            _check_blocks(model, teacher)
            _check_grids(model, teacher)
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.projections = nn.ModuleDict()
        if weights.hidden:
            self.projections.update({stack: _projections(model, teacher, stack) for stack in STACKS})

    @property
    def teacher(self) -> ImageToText:
        """What is learnt from."""
        return self._teacher[0]

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor,
        ctc_targets: Sequence[Sequence[int]] | None = None,
        teacher_pixel_values: Tensor | None = None,
    ) -> Losses:
        """Compute the losses of a batch; arguments as in `Objective.forward`.

        Returns:
            `tokens` is the cross-entropy with the labels times its weight, `distilled` the rest.
        """
        weights = self.weights
        kept = {"hidden_states": weights.hidden > 0, "attentions": weights.attention > 0}
        seen = pixel_values if teacher_pixel_values is None else teacher_pixel_values
        with torch.no_grad():
            theirs = read(self.teacher.to(pixel_values.device), seen, labels, **kept)
        mine = read(self.model, pixel_values, labels, **kept)
        plain = self.losses(mine, labels, ctc_targets)
        total = mine.logits.new_zeros(())
        if weights.logits:
            total = total + weights.logits * logit_loss(mine.logits, theirs.logits, weights.temperature)
        if weights.hidden:
            total = total + weights.hidden * self._hidden_loss(mine, theirs, labels)
        if weights.attention:
            total = total + weights.attention * self._attention_loss(mine, theirs, labels)
        return Losses(weights.labels * plain.tokens, plain.characters, total)

    def _hidden_loss(self, mine: Pass, theirs: Pass, labels: Tensor) -> Tensor:
        counted = labels != -100
        losses = []
        for stack in STACKS:
            pairs = matched_blocks(*_depths(self.model, self.teacher, stack))
            projections = cast(nn.ModuleList, self.projections[stack])
            parts = []
            for (ours, other), project in zip(pairs, projections, strict=True):
                state, target = (_states(found, stack)[n + 1] for found, n in ((mine, ours), (theirs, other)))
                parts.append(relative_error(project(state), target))  # (B, S) or (B, T)
            error = torch.stack(parts).mean(dim=0)
            losses.append(_per_token(error, counted, is_text=stack == "decoder"))
        return torch.stack(losses).mean()

    def _attention_loss(self, mine: Pass, theirs: Pass, labels: Tensor) -> Tensor:
        counted = labels != -100
        losses = []
        for stack, kind in (
            ("encoder", "attentions"),
            ("decoder", "attentions"),
            ("decoder", "cross_attentions"),
        ):
            pairs = matched_blocks(*_depths(self.model, self.teacher, stack))
            ours, others = (
                getattr(f.encoded if stack == "encoder" else f.decoded, kind) for f in (mine, theirs)
            )
            parts = [attention_divergence(ours[a], others[b]) for a, b in pairs]
            losses.append(_per_token(torch.stack(parts).mean(dim=0), counted, is_text=stack == "decoder"))
        return torch.stack(losses).mean()


def matched_blocks(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pair each block of the student with one of the teacher, evenly, the last with the last.

    A student that is deeper than its teacher has several blocks for one of the teacher's.
    """
    return [(n, -(-(n + 1) * teacher // student) - 1) for n in range(student)]


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's (N, V) scores from the teacher's, in nats, summed over N.

    Where one has more scores than the other, the tokens that both have are compared. The square of the
    temperature keeps the gradient's size.
    """
    shared = min(student.shape[1], teacher.shape[1])
    mine = F.log_softmax(student[:, :shared] / temperature, dim=1)
    theirs = F.log_softmax(teacher[:, :shared] / temperature, dim=1)
    return F.kl_div(mine, theirs, reduction="sum", log_target=True) * temperature**2


def relative_error(state: Tensor, target: Tensor) -> Tensor:
    """Squared error of states (B, L, D) by the target's mean square, as (B, L)."""
    state, target = state.float(), target.float()
    return (state - target).square().mean(dim=2) / target.square().mean().clamp_min(1e-12)


def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of attention (B, H, L, S), the mean over heads, as (B, L) in nats."""
    mine, theirs = (weights.float().mean(dim=1).clamp_min(1e-9) for weights in (student, teacher))
    return (theirs * (theirs.log() - mine.log())).sum(dim=2)


def _per_token(error: Tensor, counted: Tensor, *, is_text: bool) -> Tensor:
    """Sum over tokens that count; what an image's tokens give is as much for each token of its text."""
    if is_text:
        return error[counted].sum()
    return (error.mean(dim=1) * counted.sum(dim=1)).sum()


def _states(found: Pass, stack: str) -> tuple[Tensor, ...]:
    states = (found.encoded if stack == "encoder" else found.decoded).hidden_states
    assert states is not None
    return states


def _depths(student: ImageToText, teacher: ImageToText, stack: str) -> tuple[int, int]:
    return len(getattr(student, stack).blocks), len(getattr(teacher, stack).blocks)


def _width(stack: nn.Module) -> int:
    norms = [module for module in stack.modules() if isinstance(module, nn.LayerNorm)]
    return norms[-1].normalized_shape[0]


def _projections(student: ImageToText, teacher: ImageToText, stack: str) -> nn.ModuleList:
    """For each block of the student, what makes its states as wide as the teacher's."""
    mine, theirs = (_width(getattr(model, stack)) for model in (student, teacher))
    count = len(getattr(student, stack).blocks)
    same = mine == theirs
    return nn.ModuleList(nn.Identity() if same else nn.Linear(mine, theirs, bias=False) for _ in range(count))


def _check_apart(student: ImageToText, teacher: ImageToText) -> None:
    mine = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in mine for parameter in teacher.parameters()):
        raise DistillationError(
            "the teacher shares parameters with the student, and a teacher's are frozen; give a copy of it "
            "(copy.deepcopy)"
        )


def _check_blocks(student: ImageToText, teacher: ImageToText) -> None:
    for who, model in (("student", student), ("teacher", teacher)):
        for stack in STACKS:
            if not len(getattr(model, stack).blocks):
                raise DistillationError(
                    f"the {stack} of the {who} is a {type(getattr(model, stack)).__name__} without blocks of "
                    "this library: states and attention cannot be compared; set hidden and attention to 0 "
                    "and learn from the scores"
                )


def _check_grids(student: ImageToText, teacher: ImageToText) -> None:
    seen = [(m.encoder.embeddings.grid, m.encoder.embeddings.num_prefix) for m in (student, teacher)]
    if seen[0] != seen[1]:
        (grid, prefix), (other, other_prefix) = seen
        raise DistillationError(
            f"the student sees {grid[0]}x{grid[1]} patches and {prefix} prefix tokens, the teacher "
            f"{other[0]}x{other[1]} and {other_prefix}: states and attention cannot be compared; set hidden "
            "and attention to 0 and learn from the scores"
        )
