"""A running average of weights, which reads better than the last weights.

Source: arXiv:1703.01780 sec. 3 for the average; the warm-up of its decay is that of TensorFlow's
`ExponentialMovingAverage` with `num_updates`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMAError(ValueError):
    """Saved averages do not belong to the model."""


class EMA:
    """Averages of the parameters of a model, in float32.

    Frozen parameters have none. Under FSDP each process keeps the averages of its own part.

    Args:
        model: its parameters are averaged, beginning with what they are now.
        decay: weight of the past, 0..1; at update n it is at most (1 + n) / (10 + n),
            so that the first steps are forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().float().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now into the averages; call it after each optimizer step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages = [_local(average) for average in self.averages.values()]
        weights = [_local(parameter.detach()).float() for parameter in self._live.values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model, and the weights back at the end of the `with` block."""
        with torch.no_grad():
            kept = {name: parameter.detach().clone() for name, parameter in self._live.items()}
            for name, parameter in self._live.items():
                parameter.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._live.items():
                    parameter.copy_(kept[name])

    def state_dict(self) -> dict[str, Tensor | int]:
        """Give the averages by parameter name, and the number of updates."""
        return {"num_updates": self.num_updates, **self.averages}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Take saved averages.

        Raises:
            EMAError: they are those of other parameters.
        """
        values = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        wanted = {name: tuple(average.shape) for name, average in self.averages.items()}
        found = {name: tuple(value.shape) for name, value in values.items()}
        if found != wanted:
            other = sorted(set(found.items()) ^ set(wanted.items()))
            raise EMAError(
                f"the saved averages do not fit the model at {', '.join(name for name, _ in other[:3])}; "
                "resume with the model and the frozen parameters of the run that saved them"
            )
        for name, average in self.averages.items():
            average.copy_(_like(average, values[name]))
        self.num_updates = int(state["num_updates"])


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that lies here, or the tensor."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _like(average: Tensor, value: Tensor) -> Tensor:
    """Cut a whole tensor as an average is cut among processes."""
    if not hasattr(average, "to_local") or hasattr(value, "to_local"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(average, DTensor)
    return distribute_tensor(value.to(average.device), average.device_mesh, average.placements)
