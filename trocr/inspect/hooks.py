"""Read and replace what passes the taps of a model, inside a `with`.

    with capture(model, "decoder.blocks.*.cross_attn.probs") as captured:
        model.generate(pixel_values)
    with patch(model, {"encoder.blocks.3.attn_out": 0.0}):
        model.generate(pixel_values)

Source: original work; the two context managers after TransformerLens and nnsight.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.inspect.taps import Tap, choose_taps
from trocr.nn.attention import Attention, fold_rows, unfold_rows
from trocr.surgery.patterns import SurgeryError

Replacement = Callable[[Tensor], Tensor] | Tensor | float
"""A function of the tensor, or a tensor or number that is spread over its shape."""

Action = Callable[[Tap, Any], Tensor | None]
"""What is done with what passes a tap; what it gives, if anything, goes on in its place."""


class Captured(dict[str, list[Tensor]]):
    """What passed the taps: name -> one tensor for each call, in order."""

    def joined(self, name: str) -> Tensor:
        """Put the calls of a decoder tap together along the tokens, as one pass over all of them gives it.

        Args:
            name: of a tap. Self-attention's probabilities get zeros where a step had fewer tokens to look at.
                With beams, row r of a step need not continue row r of the step before.
        Raises:
            SurgeryError: nothing was captured, or the calls differ in more than their tokens.
        """
        calls = self.get(name)
        if not calls:
            raise SurgeryError(f"{name!r}: nothing was captured; the taps are {', '.join(self) or 'none'}")
        if len(calls) == 1:
            return calls[0]
        if ".self_attn.probs" in f".{name}":
            longest = max(call.shape[-1] for call in calls)
            calls = [F.pad(call, (0, longest - call.shape[-1])) for call in calls]  # (B, H, t, T')
        shapes = {(call.shape[:-2], call.shape[-1]) for call in calls}
        if len(shapes) != 1:
            raise SurgeryError(
                f"{name!r}: {len(calls)} calls of the shapes {', '.join(str(tuple(c.shape)) for c in calls)} "
                "cannot be joined along the tokens; take them one by one"
            )
        return torch.cat(calls, dim=-2)


@contextmanager
def capture(
    model: nn.Module,
    patterns: str | Sequence[str] = "*",
    *,
    detach: bool = True,
    device: torch.device | str | None = None,
) -> Iterator[Captured]:
    """Keep what passes the taps of a model while the block runs; outputs stay the same, bit for bit.

    Attentions whose probabilities are wanted are not fused meanwhile, as the fused kernel has none; compiled
    modules run uncompiled. Those two round otherwise than what they stand for. Blocks that are recomputed in
    a backward pass (gradient checkpointing) pass their taps twice. What other threads run through the model
    passes the taps as well, also those of a patch.

    Args:
        model: what `list_taps` takes.
        patterns: of taps' names; all of them by default.
        detach: keep copies without a gradient. False keeps the tensors themselves, for gradients with respect
            to them; the caller must not write into them then.
        device: where to keep the copies; None leaves them where they are.
    Yields:
        Name -> one tensor for each call, in order: each step of decoding is one. Captures and patches act in
        the order in which they were entered, so a patch inside this block is not seen, one around it is.
    Raises:
        SurgeryError: a pattern matches no tap.
    """
    taps = choose_taps(model, patterns)
    place = None if device is None else torch.device(device)
    captured = Captured({tap.name: [] for tap in taps})

    def keep(tap: Tap, value: object) -> None:
        if not isinstance(value, Tensor):  # of a module of another package
            return
        if detach:
            with torch.inference_mode(False):  # a copy that later computations may use
                value = value.detach().clone() if place is None else value.detach().to(place, copy=True)
        captured[tap.name].append(value)

    with _hooked(model, [(tap, keep) for tap in taps]):
        yield captured


@contextmanager
def patch(model: nn.Module, replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """Replace what passes the taps of a model while the block runs.

    What does not depend on the patched tensors stays the same, bit for bit; see `capture` for attention cores
    and compiled modules.

    Args:
        model: what `list_taps` takes.
        replacements: pattern of taps' names -> a function that gets the tensor (a copy, which it may write
            into) and gives one of the same shape and dtype, or a tensor or number that is spread over that
            shape. A tap that several patterns name is replaced by each in turn.
    Raises:
        SurgeryError: a pattern matches no tap; while the model runs: a replacement does not fit.
    """
    if not isinstance(replacements, Mapping):
        raise SurgeryError(
            f"patch: got a {type(replacements).__name__}, expected {{pattern: function or tensor}}"
        )
    chosen = [(tap, value) for pattern, value in replacements.items() for tap in choose_taps(model, pattern)]
    if not chosen:
        raise SurgeryError("patch: no replacement was given, expected {pattern: function or tensor}")
    wrong = {k: type(v).__name__ for k, v in replacements.items() if not _is_replacement(v)}
    if wrong:
        raise SurgeryError(f"patch: expected functions, tensors or numbers, got {wrong}")
    with _hooked(model, [(tap, _replacer(value)) for tap, value in chosen]):
        yield


def _is_replacement(value: object) -> bool:
    return callable(value) or isinstance(value, Tensor | float | int)


def _replacer(value: Replacement) -> Action:
    def replace(tap: Tap, old: object) -> Tensor:
        if not isinstance(old, Tensor):
            raise SurgeryError(f"patch of {tap.name}: it gives a {type(old).__name__}, expected a tensor")
        if isinstance(value, Tensor | float | int):
            new = torch.as_tensor(value).to(old)
            try:
                return new.expand_as(old).clone()
            except RuntimeError as error:
                raise SurgeryError(
                    f"patch of {tap.name}: a tensor {tuple(new.shape)} cannot be spread over "
                    f"{tuple(old.shape)}, which is {tap.shape}"
                ) from error
        given = value(old.clone())
        if not isinstance(given, Tensor) or (given.shape, given.dtype) != (old.shape, old.dtype):
            found = (tuple(given.shape), given.dtype) if isinstance(given, Tensor) else type(given).__name__
            raise SurgeryError(
                f"patch of {tap.name}: the function gave {found}, expected {(tuple(old.shape), old.dtype)}, "
                f"which is {tap.shape}"
            )
        return given.to(old.device)

    return replace


@contextmanager
def _hooked(model: nn.Module, actions: Sequence[tuple[Tap, Action]]) -> Iterator[None]:
    """Call functions with what passes taps; what they return, if anything, takes its place."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(_lent("stance", _uncompile))
        for tap, action in actions:
            module = model.get_submodule(tap.name)
            hook = _hook(tap, action)
            if tap.kind == "probs":
                attention = model.get_submodule(tap.name.rpartition(".")[0])
                stack.enter_context(_lent(attention, partial(_open, attention)))
                if isinstance(attention, Attention):
                    rows = _Rows()
                    before = attention.register_forward_pre_hook(_row_counter(rows), with_kwargs=True)
                    stack.callback(before.remove)
                    hook = _hook(tap, _unfolding(action, rows))
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def _hook(tap: Tap, action: Action) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        return action(tap, output)

    return hook


class _Rows(threading.local):
    """Rows of the call of an attention that a thread is in; None of a call that began before the block."""

    count: int | None = None


def _row_counter(rows: _Rows) -> Callable[..., None]:
    def count(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        rows.count = (inputs[0] if inputs else options["x"]).shape[0]

    return count


def _unfolding(action: Action, rows: _Rows) -> Action:
    """Show probabilities as (B, H, T, S) also where rows that share an image came folded."""

    def unfolded(tap: Tap, probs: Tensor) -> Tensor | None:
        if rows.count is None:
            return None
        shared = rows.count // probs.shape[0]
        if shared == 1:
            return action(tap, probs)
        new = action(tap, unfold_rows(probs, shared))
        return None if new is None else fold_rows(new.contiguous(), shared)

    return unfolded


_LOCK = threading.Lock()
_LENT: dict[object, tuple[int, Callable[[], None]]] = {}
"""What is changed just now: number of blocks that need it, and what undoes it."""


@contextmanager
def _lent(key: object, lend: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Change something while any block needs it: the first one changes it, the last one to end undoes it.

    Blocks of several threads end in any order, so none of them can put back what it found.
    """
    with _LOCK:
        count, undo = _LENT.get(key) or (0, lend())
        _LENT[key] = count + 1, undo
    try:
        yield
    finally:
        with _LOCK:
            count, undo = _LENT.pop(key)
            if count > 1:
                _LENT[key] = count - 1, undo
            else:
                undo()


def _open(attention: nn.Module) -> Callable[[], None]:
    """Let an attention of this package, or of timm, compute its probabilities; give what undoes it."""
    name, value = ("core", "eager") if isinstance(attention, Attention) else ("fused_attn", False)
    if not hasattr(attention, name):  # one of timm that is never fused
        return lambda: None
    undo = partial(setattr, attention, name, getattr(attention, name))
    setattr(attention, name, value)
    return undo


def _uncompile() -> Callable[[], None]:
    """Run compiled modules as they are, since compiled code does not look for new hooks."""
    stack = ExitStack()
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack.close
