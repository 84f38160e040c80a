"""Adapters: small trained parts beside frozen linear layers, saved alone, merged into the weights, taken out.

Source: LoRA, arXiv:2106.09685; DoRA, arXiv:2402.09353; names and files of `peft` 0.21.
"""

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from trocr.checkpoint import is_finite
from trocr.hub import HubError, locate
from trocr.surgery.adapter_base import BaseSample
from trocr.surgery.adapter_files import (
    CONFIG_NAME,
    PICKLE_NAME,
    WEIGHTS_NAME,
    AdapterFile,
    AdapterLayer,
    listed,
    read_adapter,
    write_adapter,
)
from trocr.surgery.adapter_install import (
    adapter_parameters,
    base_tensors,
    expect_none,
    expect_one,
    expect_unchanged,
    install,
    put_layers,
    train_only,
)
from trocr.surgery.adapter_layers import AdaptedLinear, Kind
from trocr.surgery.adapter_state import find_adapted, get_state, set_state
from trocr.surgery.adapter_targets import choose_also_train, choose_layers, expect_fit, saved_modules
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Action, Change, SurgeryReport, report

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel

QUERIES_AND_VALUES = "*_attn.[qv]_proj"
"""Queries and values of every attention, as in arXiv:2106.09685 sec. 5."""


def add_adapter(
    model: "VisionEncoderDecoderModel",
    *,
    modules: str | Iterable[str] = QUERIES_AND_VALUES,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    kind: Kind = "lora",
    also_train: str | Iterable[str] = (),
) -> SurgeryReport:
    """Put an adapter beside linear layers; nothing trains any more but the adapter.

    What the model computes stays the same, bit by bit; names and values of its own parameters stay too. A
    checkpoint cannot hold the adapter: `save_adapter` saves it alone, `merge_adapter` puts it into the
    weights.

    Args:
        model: its layers are replaced in place; `remove_adapter` undoes it.
        modules: patterns of linear layers; see `trocr.surgery.patterns.match_modules`.
        rank: of the low-rank product.
        alpha: the product counts alpha / rank times.
        dropout: probability on the input of the adapter, in training.
        kind: "lora", or "dora", which also trains the length of each row of the weight.
        also_train: patterns of parameters or modules that train in full, and are saved with the adapter.
    Returns:
        The adapter's parameters as new; how many numbers train now.
    Raises:
        SurgeryError: there is an adapter already, a pattern matches nothing or what is no linear layer, a
            layer shares its weight with another module, or a number is out of range.
    Source: starting values of `peft` 0.21: A as the weights of `torch.nn.Linear`, B zero.
    """
    notes = expect_none(model)
    _check_numbers(rank, alpha, dropout, kind)
    layers, more = choose_layers(model, modules)
    also = choose_also_train(model, also_train, layers)
    adapted = {
        name: AdaptedLinear(layer, rank=rank, scale=alpha / rank, dropout=dropout, kind=kind)
        for name, layer in layers.items()
    }
    install(model, adapted, kind=kind, also_train=also, values={})
    changes = _changes(adapter_parameters(adapted), "new", f"{kind}, trained")
    changes += _changes(_named(model, also), "kept", "trained in full")
    return report("add_adapter", model, changes, numbers=_sizes(model), notes=(*notes, *more))


def save_adapter(
    model: "VisionEncoderDecoderModel", directory: str | PathLike[str], *, base: str | None = None
) -> None:
    """Save the adapter alone, so that `load_adapter` and `peft` put it onto the same model again.

    `peft.PeftModel.from_pretrained(model, directory)` takes a `VisionEncoderDecoderModel` of `transformers` 5
    that was loaded from the same checkpoint. A sample of the base's weights is saved too, which
    `load_adapter` compares.

    Args:
        model: with an adapter that is not merged.
        directory: made where it is missing; `adapter_config.json` and `adapter_model.safetensors` are
            written, each of which is either the old one or the new one, whatever happens.
        base: directory or Hub id of the base, for `base_model_name_or_path`.
    Raises:
        SurgeryError: there is no adapter, or weights outside it were changed since it was added.
        OSError: the files cannot be written; those in the directory are whole then.
    """
    state = expect_one(model)
    adapted = find_adapted(model)
    if not BaseSample.of(base_tensors(model, state)).is_of(state.base):
        raise SurgeryError(
            "weights outside the adapter, or running statistics, were changed since it was added, so it "
            "would not give this model back: name weights in also_train before training, or merge_adapter "
            "and save the model"
        )
    inner, names = saved_modules(model, state.also_train, adapted)
    content = AdapterFile(
        kind=state.kind,
        dropout=next(iter(adapted.values())).dropout.p,
        layers={
            name: AdapterLayer(tensors=dict(layer.adapter_parameters()), scale=layer.scale)
            for name, layer in adapted.items()
        },
        others=dict(_named(model, names)),
        also_train=state.also_train,
        base=state.base,
        base_name=base,
    )
    write_adapter(directory, content, inner=inner)


def load_adapter(
    model: "VisionEncoderDecoderModel", source: str | PathLike[str], *, check_base: bool = True
) -> SurgeryReport:
    """Put a saved adapter onto its base; nothing trains any more but the adapter.

    Args:
        model: the base, which is changed in place.
        source: directory that `save_adapter` or `peft` wrote, or its Hub id.
        check_base: refuse a model whose weights are not those that the adapter was made for. Files of `peft`
            do not tell; names and shapes are all that can be compared then.
    Returns:
        The adapter's parameters as carried; how many numbers train now.
    Raises:
        SurgeryError: no adapter, one of another kind or for another base, or there is an adapter already.
    """
    notes = expect_none(model)
    content = _read(model, source, check_base=check_base)
    adapted = _filled(model, content)
    values = _put(model, adapted, content)
    changes = _changes(adapter_parameters(adapted), "carried", f"{content.kind}, trained")
    changes += _changes(_named(model, values), "carried", "saved with the adapter")
    return report("load_adapter", model, changes, numbers=_sizes(model), notes=notes)


def merge_adapter(
    model: "VisionEncoderDecoderModel",
    adapter: str | PathLike[str] | None = None,
    *,
    keep_base: bool = True,
) -> SurgeryReport:
    """Add an adapter's effect to the weights; the model has plain linear layers again and saves as any other.

    What trained before the adapter was added trains again. The outputs are those with the adapter but for
    rounding, below 1e-5 of their size in float32. A model in half precision rounds the sum to it.

    Args:
        model: with an adapter, or the base of `adapter`; changed in place.
        adapter: directory or Hub id, loaded as by `load_adapter`; None merges the one that the model has.
        keep_base: keep the weights as they were beside the model, in memory, so that `unmerge_adapter` gives
            them back bit by bit. They take as much memory as the adapted layers.
    Returns:
        The weights as merged, the adapter's parameters as removed.
    Raises:
        SurgeryError: there is no adapter, a weight is not finite with it, or see `load_adapter`.
    """
    notes: tuple[str, ...] = ()
    content = None
    if adapter is None:
        expect_one(model)
        adapted = find_adapted(model)
    else:
        notes = expect_none(model)
        content = _read(model, adapter, check_base=True)
        adapted = _filled(model, content)
    weights = {f"{name}.weight": nn.Parameter(layer.merged_weight()) for name, layer in adapted.items()}
    broken = [name for name, weight in weights.items() if not is_finite(weight)]
    if broken:
        raise SurgeryError(
            f"{listed(broken, ', ')}: not finite with the adapter's effect; its training diverged, or the "
            "model's precision is too small for it"
        )
    if content is None:
        changes = _changes(adapter_parameters(adapted), "removed")
    else:
        values = _put(model, adapted, content)
        changes = _changes(_named(model, values), "carried", "saved with the adapter")
    state = expect_one(model)
    put_layers(model, {name: layer.plain(weights[f"{name}.weight"]) for name, layer in adapted.items()})
    train_only(model, state.trained)
    state.merged = adapted
    set_state(model, state if keep_base else None)
    changes += _changes(weights, "merged", f"{state.kind} added")
    return report("merge_adapter", model, changes, notes=notes)


def unmerge_adapter(model: "VisionEncoderDecoderModel") -> SurgeryReport:
    """Take a merged adapter out of the weights again, and put it beside them as it was before.

    Args:
        model: changed in place. Its weights are those before `merge_adapter`, bit by bit.
    Returns:
        The weights as carried, the adapter's parameters as new.
    Raises:
        SurgeryError: no adapter was merged with `keep_base`, or the weights were changed after that.
    """
    state = get_state(model)
    if state is None or state.merged is None:
        raise SurgeryError(
            "there is no merged adapter whose base was kept: merge_adapter keeps it unless keep_base=False, "
            "and in memory alone, so a model that was loaded does not have it"
        )
    layers = state.merged
    expect_unchanged(model, layers)
    for name, layer in layers.items():
        plain = model.get_submodule(name)
        assert isinstance(plain, nn.Linear)  # `expect_unchanged` looked
        layer.to(plain.weight.device).train(plain.training)
        layer.bias = plain.bias
    put_layers(model, layers)
    state.merged = None
    own = adapter_parameters(layers)
    train_only(model, (*own, *state.also_train))
    changes = _changes(own, "new", "as before merging")
    changes += _changes(_named(model, (f"{name}.weight" for name in layers)), "carried", "as before merging")
    return report("unmerge_adapter", model, changes)


def remove_adapter(model: "VisionEncoderDecoderModel") -> SurgeryReport:
    """Take the adapter out: the model is its base again, bit by bit, and trains what trained before.

    Args:
        model: with an adapter, or with a merged one that `unmerge_adapter` can take out; changed in place.
            What was changed beside the adapter stays so.
    Returns:
        The adapter's parameters as removed; what trained with it as carried.
    Raises:
        SurgeryError: there is no adapter, or see `unmerge_adapter`.
    """
    state = get_state(model)
    was_merged = state is not None and state.merged is not None and not find_adapted(model)
    if was_merged:
        unmerge_adapter(model)
    state = expect_one(model)
    adapted = find_adapted(model)
    put_layers(model, {name: layer.plain() for name, layer in adapted.items()})
    with torch.no_grad():
        for name, tensor in state.originals.items():
            model.get_parameter(name).copy_(tensor)
    train_only(model, state.trained)
    set_state(model, None)
    weights = [f"{name}.weight" for name in adapted if was_merged]
    changes = [] if was_merged else _changes(adapter_parameters(adapted), "removed")
    changes += _changes(_named(model, (*weights, *state.originals)), "carried", "as before the adapter")
    return report("remove_adapter", model, changes)


def _read(model: nn.Module, source: str | PathLike[str], *, check_base: bool) -> AdapterFile:
    """Read an adapter, and check that it is for this model."""
    try:
        folder = locate(source, want=(CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME))
    except HubError as error:
        raise SurgeryError(str(error)) from error
    content = read_adapter(folder)
    expect_fit(model, content, str(folder), check_base=check_base)
    return content


def _filled(model: nn.Module, content: AdapterFile) -> dict[str, AdaptedLinear]:
    """Make the layers of a saved adapter, in the model's order; the model stays as it is."""
    adapted = {}
    for name, module in model.named_modules():
        if name in content.layers and isinstance(module, nn.Linear):
            layer = content.layers[name]
            adapted[name] = AdaptedLinear(
                module,
                rank=layer.tensors["lora_a"].shape[0],
                scale=layer.scale,
                dropout=content.dropout,
                kind=content.kind,
                tensors=layer.tensors,
            )
    return adapted


def _put(model: nn.Module, adapted: Mapping[str, AdaptedLinear], content: AdapterFile) -> list[str]:
    """Put a saved adapter in; give the names of the model's own parameters that came with it."""
    own = [name for name, _ in model.named_parameters()]
    values = {name: content.others[name] for name in own if name in content.others}
    also = values if content.also_train is None else [name for name in content.also_train if name in values]
    install(model, adapted, kind=content.kind, also_train=also, values=values)
    return list(values)


def _check_numbers(rank: object, alpha: object, dropout: object, kind: object) -> None:
    problems = []
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        problems.append(f"rank={rank!r} is not a whole number from 1 on")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        problems.append(f"alpha={alpha!r} is not a number above 0")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        problems.append(f"dropout={dropout!r} is not a number from 0 to below 1")
    if kind not in get_args(Kind):
        problems.append(f"kind={kind!r} is unknown, expected {' or '.join(get_args(Kind))}")
    if problems:
        raise SurgeryError("; ".join(problems))


def _changes(tensors: Mapping[str, Tensor], action: Action, detail: str = "") -> list[Change]:
    return [
        Change(name=name, action=action, shape=tuple(tensor.shape), detail=detail)
        for name, tensor in tensors.items()
    ]


def _named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    return {name: model.get_parameter(name) for name in names}


def _sizes(model: nn.Module) -> dict[str, float]:
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return {"trained_parameters": counts[True], "frozen_parameters": counts[False]}
