"""How far the weights of two checkpoints are apart, tensor by tensor.

Source: original work.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trocr.inspect.taps import check_model
from trocr.surgery.patterns import SurgeryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far a tensor b is from a tensor a of the same name and shape.

    Attributes:
        name: of the parameter or buffer.
        relative: |a - b| / |a|, in the Euclidean norm; infinite where a is zero and b is not; NaN where
            numbers differ of which one is NaN.
        cosine: of the angle between them as vectors; NaN where one of them is zero and the other is not.
        largest: largest absolute difference of two numbers. NaN and NaN count as equal.
    """

    name: str
    relative: float
    cosine: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class WeightComparison:
    """Two models' parameters and saved buffers. A tied parameter counts under each of its names.

    Attributes:
        distances: of the tensors that both have in the same shape, in the order of the first model.
        only_in_a: names that the second model lacks.
        only_in_b: names that the first model lacks.
        other_shapes: name -> the two shapes, where they differ.
        relative: |a - b| / |a| of all tensors of `distances` as one vector.
    """

    distances: tuple[Distance, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    other_shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    relative: float

    @property
    def num_equal(self) -> int:
        """Tensors that are the same, number by number."""
        return sum(found.largest == 0 for found in self.distances)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None stands for what is not a finite number."""
        found = {**asdict(self), "num_equal": self.num_equal}
        for row in (found, *found["distances"]):
            for name in ("relative", "cosine", "largest"):  # JSON has no infinity and no NaN
                if name in row and not math.isfinite(row[name]):
                    row[name] = None
        return found

    def table(self, rows: int = 20) -> str:
        """Lay out for a terminal: tensors that moved most, then what cannot be compared, `rows` of each."""
        apart = sorted((d for d in self.distances if d.largest), key=_order, reverse=True)
        lines = [
            f"{len(self.distances)} tensors of the same name and shape: {self.num_equal} equal, "
            f"{len(apart)} not; relative distance of all {self.relative:.4g}"
        ]
        shown = apart[:rows]
        width = max((len(d.name) for d in shown), default=0)
        if shown:
            lines.append(f"{'tensor':{width}}  {'relative':>9}  {'cosine':>9}  {'largest':>9}")
        lines += [f"{d.name:{width}}  {d.relative:9.4g}  {d.cosine:9.6f}  {d.largest:9.4g}" for d in shown]
        if len(apart) > rows:
            lines.append(f"and {len(apart) - rows} nearer ones")
        shapes = [f"{name}, {list(a)} and {list(b)}" for name, (a, b) in self.other_shapes.items()]
        for what, names in (
            ("only in A", self.only_in_a),
            ("only in B", self.only_in_b),
            ("other shape", shapes),
        ):
            lines += [f"{what}: {name}" for name in names[:rows]]
            if len(names) > rows:
                lines.append(f"{what}: {'and ' if rows else ''}{len(names) - rows} more")
        return "\n".join(lines)


def compare_weights(a: nn.Module, b: nn.Module) -> WeightComparison:
    """Measure how far the parameters and saved buffers of two models are apart, name by name.

    Buffers are a timm backbone's running means and the like; those that count are left out.

    Args:
        a: the first model, against whose size distances are measured.
        b: the second; of any architecture.
    Raises:
        SurgeryError: no such model, or it is on the meta device.
    """
    for model in (a, b):
        check_model(model, parts=())
    first, second = _tensors(a), _tensors(b)
    shared = [name for name in first if name in second]
    alike = [name for name in shared if first[name].shape == second[name].shape]
    distances, apart, whole = [], 0.0, 0.0
    for name in alike:
        found, difference, size = _distance(name, first[name], second[name])
        distances.append(found)
        apart, whole = apart + difference, whole + size
    return WeightComparison(
        distances=tuple(distances),
        only_in_a=tuple(name for name in first if name not in second),
        only_in_b=tuple(name for name in second if name not in first),
        other_shapes={
            name: (tuple(first[name].shape), tuple(second[name].shape))
            for name in shared
            if name not in alike
        },
        relative=_ratio(apart**0.5, whole**0.5),
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if any(tensor.is_meta for tensor in found.values()):
        raise SurgeryError(
            f"{type(model).__name__} is on the meta device, where weights have no values: load it"
        )
    return found


def _order(distance: Distance) -> float:
    return math.inf if math.isnan(distance.relative) else distance.relative


@torch.no_grad()
def _distance(name: str, a: Tensor, b: Tensor) -> tuple[Distance, float, float]:
    """Distance, and the squares |a - b|^2 and |a|^2."""
    a, b = (tensor.detach().cpu().double().flatten() for tensor in (a, b))
    apart = (a - b).masked_fill((a == b) | (a.isnan() & b.isnan()), 0)
    difference, size, other = (float(tensor.square().sum()) for tensor in (apart, a, b))
    both = (size * other) ** 0.5
    cosine = 1.0 if difference == 0 else float(a @ b) / both if both else float("nan")
    largest = float(apart.abs().max()) if len(a) else 0.0
    found = Distance(
        name=name,
        relative=_ratio(difference**0.5, size**0.5),
        cosine=cosine if math.isnan(cosine) else min(1.0, max(-1.0, cosine)),
        largest=largest,
    )
    return found, difference, size


def _ratio(part: float, whole: float) -> float:
    if not part:
        return 0.0
    if whole:
        return part / whole
    return float("inf")
