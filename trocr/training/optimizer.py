"""Optimizers with parameter groups for TrOCR: what decays, how fast each depth learns, what is frozen.

Source: no decay of norms, biases and embeddings as in arXiv:2106.08254 (BEiT), whose layer-wise decay of the
learning rate this is too; fairseq's Adam decouples the decay as AdamW (arXiv:1711.05101) does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from trocr.decoder import TextDecoder
from trocr.encoder import ImageEncoder
from trocr.nn.embeddings import ImageEmbeddings
from trocr.surgery.patterns import SurgeryError, match_parameters
from trocr.training.option_fields import OptionsError, nearest
from trocr.training.option_tables import OptimizerOptions


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Stop training the parameters that patterns name.

    Args:
        model: its parameters are changed in place.
        patterns: of parameters ("encoder.embeddings.cls_token") or of modules, with all that is in them
            ("encoder.blocks.[0-2]"); `*`, `?` and `[...]` as in file names, `*` also across dots.
    Returns:
        Names of the frozen parameters.
    Raises:
        OptionsError: a pattern matches nothing, or nothing is left to train.
    """
    try:
        names = match_parameters(model, patterns)
    except SurgeryError as error:
        raise OptionsError([f"model.freeze: {error}"]) from error
    frozen = {model.get_parameter(name) for name in names}
    if all(parameter in frozen or not parameter.requires_grad for parameter in model.parameters()):
        raise OptionsError([f"model.freeze={list(patterns)} leaves nothing to train"])
    for parameter in frozen:
        parameter.requires_grad_(False)
    return names


def freeze_unused(model: nn.Module) -> list[str]:
    """Stop training parameters that the loss never reads: the encoder's pooler.

    Returns:
        Names of the frozen parameters.
    """
    frozen = []
    for name, module in model.named_modules():
        if isinstance(module, ImageEncoder) and module.pooler is not None:
            module.pooler.requires_grad_(False)
            frozen += [f"{name}.pooler.{leaf}".lstrip(".") for leaf, _ in module.pooler.named_parameters()]
    return frozen


def no_decay_names(model: nn.Module) -> set[str]:
    """Name the parameters without weight decay: norms, biases, token and position tables, prefix tokens."""
    names = set()
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            table = isinstance(module, nn.Embedding | ImageEmbeddings)
            if parameter.dim() < 2 or table:
                names.add(f"{path}.{leaf}".lstrip("."))
    return names


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Give each parameter its share of the learning rate, by its depth in its stack.

    A stack's last block learns at `decay`, the one before it at the square, its embeddings slowest; what lies
    outside or after the stacks (last norm, output projection, CTC head) at the full rate. A token table that
    is also the output projection counts as embedding.

    Args:
        model: holds an encoder and a decoder.
        decay: 0..1.
    """
    scales = {name: 1.0 for name, _ in model.named_parameters()}
    for path, stack in model.named_modules():
        if not isinstance(stack, ImageEncoder | TextDecoder):
            continue
        prefix = f"{path}." if path else ""
        count = len(stack.blocks)
        for name in scales:
            if not name.startswith(prefix):
                continue
            part, _, rest = name.removeprefix(prefix).partition(".")
            if part == "blocks":
                scales[name] = decay ** (count - int(rest.partition(".")[0]))
            elif part.startswith("embed"):
                scales[name] = decay ** (count + 1)
    return scales


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[Any]:
    """Sort the parameters that are trained into groups of equal decay and learning rate.

    Args:
        model: each of its parameters with a gradient lands in one group.
        weight_decay: of matrices; see `no_decay_names` for the others.
        layer_decay: see `layer_scales`; 1 gives one scale.
    Returns:
        Groups for an optimizer, with the key "scale" that `train_steps` multiplies the learning rate by;
        their order depends on the model alone.
    """
    spared = no_decay_names(model)
    scales = layer_scales(model, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (0.0 if name in spared else weight_decay, scales[name])
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale}
        for (decay, scale), parameters in sorted(groups.items(), key=lambda item: (-item[0][1], -item[0][0]))
    ]


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Make the optimizer that options describe.

    Args:
        model: where it is to be trained already, wrapped or not.
        options: its name and numbers.
    Raises:
        OptionsError: no optimizer has this name, it does not take these options, or no run can use it.
    """
    groups = parameter_groups(model, weight_decay=options.weight_decay, layer_decay=options.layer_decay)
    given = {"betas": options.betas, "eps": options.eps}
    given = {name: value for name, value in given.items() if value is not None}
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, fused=True, **given)  # type: ignore[arg-type]
    return _timm_optimizer(groups, options, given)


def _timm_optimizer(
    groups: list[Any], options: OptimizerOptions, given: dict[str, Any]
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    known = list_optimizers()
    if options.name not in known:
        near = nearest(options.name, known)
        hint = f"did you mean {near!r}?" if near else "see timm.optim.list_optimizers()"
        raise OptionsError([f"optimizer.name={options.name!r} is unknown, {hint}"])
    info = get_optimizer_info(options.name)
    if info.second_order:
        problem = "needs second derivatives, which training does not compute: take another"
        raise OptionsError([f"optimizer.name={options.name!r} {problem}"])
    takes = {"betas": info.has_betas, "eps": info.has_eps}
    problems = [f"optimizer.{name}: {options.name} takes none" for name in given if not takes[name]]
    if problems:
        raise OptionsError(problems)

    def make(parameters: Any) -> torch.optim.Optimizer:
        return create_optimizer_v2(
            parameters, opt=options.name, lr=options.lr, weight_decay=options.weight_decay, **given
        )

    try:
        made = make(groups)
    except (ImportError, AssertionError, TypeError, ValueError) as error:
        raise OptionsError([f"optimizer.name={options.name!r} cannot be made: {error}"]) from error
    device = groups[0]["params"][0].device
    trial = nn.ParameterList([torch.ones(2, 2, device=device), torch.ones(2, device=device)])
    try:  # now, and not when the first state is saved
        get_optimizer_state_dict(trial, make(trial.parameters()), options=StateDictOptions(cpu_offload=True))
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        problem = f"keeps what cannot be saved in a state ({error}): take another"
        raise OptionsError([f"optimizer.name={options.name!r} {problem}"]) from error
    return made
