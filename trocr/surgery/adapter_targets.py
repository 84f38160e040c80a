"""What adapters go on: linear layers chosen by pattern, and parameters that train and are saved with them.

Source: original work.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from trocr.checkpoint import stored_tensors
from trocr.encoder import Pooler
from trocr.nn.linear import Linear
from trocr.surgery.adapter_base import BaseSample
from trocr.surgery.adapter_files import AdapterFile, listed
from trocr.surgery.patterns import SurgeryError, match_modules, match_parameters, pattern_list
from trocr.timm_encoder import TimmEncoder

_PLAIN = (nn.Linear, Linear)
_OTHERS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LayerNorm)


def choose_layers(
    model: nn.Module, patterns: str | Iterable[str]
) -> tuple[dict[str, nn.Linear], tuple[str, ...]]:
    """Choose the linear layers that patterns name; those that reading never calls are passed over.

    Returns:
        Name -> layer, and what must be said about the choice.
    Raises:
        SurgeryError: a pattern matches nothing or what is no linear layer, or a layer shares its weight.
    """
    wanted = pattern_list(patterns)
    try:
        found = match_modules(model, wanted, nn.Linear)
    except SurgeryError as error:
        others: dict[str, nn.Module] = {}
        for pattern in wanted:
            with suppress(SurgeryError):
                others |= match_modules(model, pattern, _OTHERS)
        if not others:
            raise
        shown = listed([f"{name} is a {type(module).__name__}" for name, module in others.items()], ", ")
        raise SurgeryError(
            f"{error}: {shown}, and adapters go beside linear layers; also_train= trains others in full"
        ) from error
    unused = _unused(model, found)
    shared = shared_names(model)
    layers: dict[str, nn.Linear] = {}
    notes, problems = [], []
    for name, module in found.items():
        if module in unused:
            notes.append(f"{name} is passed over: reading never calls it")
        elif type(module) not in _PLAIN:
            problems.append(f"{name} is a {type(module).__name__}, which does more than a linear layer")
        elif len(shared[f"{name}.weight"]) > 1:
            (other,) = [one for one in shared[f"{name}.weight"] if one != f"{name}.weight"][:1]
            problems.append(
                f"{name} shares its weight with {other.rpartition('.')[0]}, which merging would change too: "
                'leave it out by a narrower pattern, such as "decoder.blocks.*"'
            )
        elif isinstance(module, nn.Linear):
            layers[name] = module
    if problems:
        raise SurgeryError(listed(problems))
    if not layers:
        raise SurgeryError("; ".join(notes))
    return layers, tuple(notes)


def _unused(model: nn.Module, modules: Mapping[str, nn.Module]) -> set[nn.Module]:
    """Give the layers that reading never calls: poolers, and some of timm.

    Some backbones of timm multiply by the weights of a layer themselves. An adapter there would do nothing
    until it is merged. Which they are shows when an image goes through.
    """
    unused: set[nn.Module] = {part.dense for part in model.modules() if isinstance(part, Pooler)}
    for path, encoder in model.named_modules():
        inside = {module for name, module in modules.items() if name.startswith(f"{path}.")}
        if isinstance(encoder, TimmEncoder) and inside:
            unused |= inside - _called(encoder, inside)
    return unused


def _called(encoder: TimmEncoder, modules: Iterable[nn.Module]) -> set[nn.Module]:
    """Give those of the modules that an encoder calls for an image; its state stays as it is."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in modules]
    trains = {part: part.training for part in encoder.modules()}
    device = next(encoder.parameters()).device
    try:
        encoder.eval()
        with torch.no_grad():
            encoder(torch.zeros(1, encoder.channels, *encoder.embeddings.image_hw, device=device))
    finally:
        for part, mode in trains.items():
            part.training = mode
        for hook in hooks:
            hook.remove()
    return called


def choose_also_train(
    model: nn.Module, patterns: str | Iterable[str], layers: Mapping[str, nn.Linear]
) -> list[str]:
    """Choose the model's own parameters that train with an adapter, each by its first name.

    Raises:
        SurgeryError: a pattern matches nothing, or a parameter of a layer that gets an adapter.
    """
    wanted = pattern_list(patterns)
    if not wanted:
        return []
    names = match_parameters(model, wanted)
    inside = [name for name in names if name.rpartition(".")[0] in layers]
    if inside:
        raise SurgeryError(
            f"also_train names parameters of layers that get an adapter ({listed(inside, ', ', most=4)}), "
            "whose own weights stay: take them out of also_train, or the layers out of modules"
        )
    shared = shared_names(model)
    return list(dict.fromkeys(shared[name][0] for name in names))


def saved_modules(
    model: nn.Module, also_train: Iterable[str], adapted: Iterable[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Name what is saved beside the adapter: whole modules, because `peft` loads nothing smaller.

    Args:
        model: where they are.
        also_train: the parameters that it is about.
        adapted: names of layers with an adapter. A module that holds one is not saved whole.
    Returns:
        The modules, none inside another, and all parameters that are saved, shared ones by each name.
    """
    shared = shared_names(model)
    trained = [name for first in also_train for name in shared[first]]
    owners = dict.fromkeys(name.rpartition(".")[0] for name in trained)
    whole = [one for one in owners if not any(name.startswith(f"{one}.") for name in adapted)]
    outer = tuple(
        one for one in whole if not any(one.startswith(f"{other}.") for other in whole if other != one)
    )
    inside = tuple(f"{one}." for one in outer)
    return outer, [name for name in shared if name.startswith(inside) or name in trained]


def expect_fit(model: nn.Module, content: AdapterFile, source: str, *, check_base: bool) -> None:
    """Check that a saved adapter is for a model.

    Args:
        model: without an adapter.
        content: what was saved.
        source: what to call it in the error.
        check_base: compare the sample of the weights too, where there is one.
    Raises:
        SurgeryError: names, shapes or weights are others.
    """
    problems = _fit_problems(model, content)
    if problems:
        raise SurgeryError(
            f"{source}: the adapter is for another base ({len(problems)} differences: {listed(problems)}); "
            f"load the one that it was made for{_named(content)}"
        )
    if check_base and content.base is not None:
        sample = BaseSample.of(stored_tensors(model))
        if not content.base.is_of(sample):
            what = "names or shapes" if content.base.shapes != sample.shapes else "weights"
            raise SurgeryError(
                f"{source}: the adapter is for another base: its layers fit, but {what} of this model are "
                f"others; load the one that it was made for{_named(content)}, or pass check_base=False if "
                "they may be"
            )


def _named(content: AdapterFile) -> str:
    return f", {content.base_name!r}" if content.base_name else ""


def _fit_problems(model: nn.Module, content: AdapterFile) -> list[str]:
    modules = dict(model.named_modules())
    shared = shared_names(model)
    problems = []
    for name, layer in content.layers.items():
        module = modules.get(name)
        wanted = layer.tensors["lora_b"].shape[0], layer.tensors["lora_a"].shape[1]
        if not isinstance(module, nn.Linear) or type(module) not in _PLAIN:
            problems.append(f"{name} is {'not there' if module is None else f'a {type(module).__name__}'}")
        elif tuple(module.weight.shape) != wanted:
            problems.append(
                f"{name} maps {module.in_features} to {module.out_features} features, its adapter "
                f"{wanted[1]} to {wanted[0]}"
            )
        elif len(shared[f"{name}.weight"]) > 1:
            problems.append(f"{name} shares its weight with another module")
    for name, tensor in content.others.items():
        if name not in shared:
            problems.append(f"{name} is not there")
        elif model.get_parameter(name).shape != tensor.shape:
            shape = tuple(model.get_parameter(name).shape)
            problems.append(f"{name} is {shape}, {tuple(tensor.shape)} is saved")
        elif name.rpartition(".")[0] in content.layers:
            problems.append(f"{name} is saved in full, and is part of a layer with an adapter")
    return problems or _shared_problems(shared, content.others)


def _shared_problems(shared: Mapping[str, tuple[str, ...]], others: Mapping[str, Tensor]) -> list[str]:
    problems = []
    for name in others:
        first, *rest = shared[name]
        if name == first or first not in others:
            lacking = [one for one in shared[name] if one not in others]
            unequal = [one for one in rest if one in others and first in others]
            unequal = [one for one in unequal if not torch.equal(others[one], others[first])]
            if lacking or unequal:
                problems.append(
                    f"{name} was trained apart from {(lacking or unequal)[0]}, and they are one in this "
                    "model (tie_word_embeddings)"
                )
    return problems


def shared_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Give each name of a parameter all names of that parameter, the model's first one first."""
    named = list(model.named_parameters(remove_duplicate=False))
    groups: dict[int, list[str]] = {}
    for name, parameter in named:
        groups.setdefault(id(parameter), []).append(name)
    return {name: tuple(groups[id(parameter)]) for name, parameter in named}
