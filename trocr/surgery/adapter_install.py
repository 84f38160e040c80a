"""How an adapter gets into a model, and what a model must have for that.

Source: original work.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trocr.checkpoint import stored_tensors
from trocr.surgery.adapter_base import BaseSample
from trocr.surgery.adapter_layers import AdaptedLinear, Kind
from trocr.surgery.adapter_state import AdapterState, find_adapted, get_state, set_state
from trocr.surgery.patterns import SurgeryError


def adapter_parameters(adapted: Mapping[str, AdaptedLinear]) -> dict[str, nn.Parameter]:
    """Name -> parameter of the adapter alone."""
    return {
        f"{name}.{part}": parameter
        for name, layer in adapted.items()
        for part, parameter in layer.adapter_parameters().items()
    }


def base_tensors(model: nn.Module, state: AdapterState) -> dict[str, Tensor]:
    """Name -> tensor of the base: those that train with the adapter as they were before."""
    own = adapter_parameters(find_adapted(model))
    return {n: tensor for n, tensor in stored_tensors(model).items() if n not in own} | state.originals


def install(
    model: nn.Module,
    adapted: Mapping[str, AdaptedLinear],
    *,
    kind: Kind,
    also_train: Iterable[str],
    values: Mapping[str, Tensor],
) -> None:
    """Put adapted layers into a model, and values of its own parameters; all was checked before.

    Args:
        model: changed in place; nothing but the adapter and `also_train` trains afterwards.
        adapted: name -> layer.
        kind: of the layers.
        also_train: names of the model's own parameters.
        values: name -> value that one of them gets.
    """
    parameters = dict(model.named_parameters())
    also = tuple(also_train)
    state = AdapterState(
        kind=kind,
        modules=tuple(adapted),
        also_train=also,
        originals={name: parameters[name].detach().clone() for name in dict.fromkeys((*also, *values))},
        trained=frozenset(name for name, parameter in parameters.items() if parameter.requires_grad),
        base=BaseSample.of(stored_tensors(model)),
    )
    with torch.no_grad():
        for name, tensor in values.items():
            parameters[name].copy_(tensor)
    put_layers(model, adapted)
    train_only(model, (*adapter_parameters(adapted), *also))
    set_state(model, state)


def put_layers(model: nn.Module, layers: Mapping[str, nn.Linear]) -> None:
    """Put layers where their names say."""
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def train_only(model: nn.Module, names: Iterable[str]) -> None:
    """Train the named parameters and no others."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def expect_none(model: nn.Module) -> tuple[str, ...]:
    """Check that a model can take an adapter.

    Returns:
        What must be said about it.
    Raises:
        SurgeryError: it has one.
    """
    if find_adapted(model):
        raise SurgeryError(
            "this model has an adapter already, and takes one at a time: merge_adapter or remove_adapter "
            "first"
        )
    merged = get_state(model) is not None
    return ("the adapter that was merged before cannot be unmerged any more",) if merged else ()


def expect_one(model: nn.Module) -> AdapterState:
    """Give what a model remembers of an adapter that is beside its weights.

    Raises:
        SurgeryError: it has none, it is merged, or the adapted layers are others by now.
    """
    state = get_state(model)
    adapted = find_adapted(model)
    if not adapted and state is not None and state.merged is not None:
        raise SurgeryError("the adapter is merged already: unmerge_adapter first, or save the model as it is")
    if not adapted and state is None:
        raise SurgeryError("this model has no adapter: add_adapter or load_adapter first")
    if state is None or adapted.keys() != set(state.modules):
        raise SurgeryError(
            f"the {len(adapted)} adapted layers of this model are not those that its adapter was added to: "
            "modules were taken out or put in since; merge an adapter before you change the model otherwise"
        )
    return state


def expect_unchanged(model: nn.Module, merged: Mapping[str, AdaptedLinear]) -> None:
    """Check that the weights of merged layers are those that merging gave.

    Raises:
        SurgeryError: some are others, by value, precision or kind of layer.
    """
    modules = dict(model.named_modules())
    changed = []
    for name, layer in merged.items():
        module, expected = modules.get(name), layer.merged_weight()
        if (
            not isinstance(module, nn.Linear)
            or type(module) is not layer.plain_class
            or module.weight.dtype != expected.dtype
            or not torch.equal(module.weight.detach().to(expected.device), expected)
        ):
            changed.append(name)
    if changed:
        raise SurgeryError(
            f"{', '.join(changed[:4])} changed since the adapter was merged, and unmerging would lose that: "
            "load the base anew"
        )
