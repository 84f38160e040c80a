"""What a model remembers of its adapter.

Source: original work.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from trocr.surgery.adapter_base import BaseSample
from trocr.surgery.adapter_layers import AdaptedLinear, Kind

_KEY = "_adapter_state"


@dataclass(kw_only=True)
class AdapterState:
    """What a model remembers of its adapter, beside the adapted layers themselves.

    Attributes:
        kind: "lora" or "dora".
        modules: names of the adapted layers.
        also_train: names of the model's own parameters that train with the adapter.
        originals: values before of these, and of others that came with a saved adapter.
        trained: names of the parameters that trained before the adapter was added.
        base: a sample of the model before.
        merged: of an adapter that was merged: name -> layer, to take it out again; else None.
    """

    kind: Kind
    modules: tuple[str, ...]
    also_train: tuple[str, ...]
    originals: dict[str, Tensor]
    trained: frozenset[str]
    base: BaseSample
    merged: dict[str, AdaptedLinear] | None = None


def get_state(model: nn.Module) -> AdapterState | None:
    """Give what a model remembers of its adapter; None for a model without one."""
    state: AdapterState | None = vars(model).get(_KEY)
    return state


def set_state(model: nn.Module, state: AdapterState | None) -> None:
    """Let a model remember its adapter (a deep copy of the model does too), or forget it."""
    if state is None:
        vars(model).pop(_KEY, None)
    else:
        vars(model)[_KEY] = state


def find_adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Name -> layer with an adapter, in the order of the model."""
    return {name: part for name, part in model.named_modules() if isinstance(part, AdaptedLinear)}
