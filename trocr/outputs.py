"""Results of forward passes: dataclasses that also read as mappings and as tuples of what is present.

Source: field names of `transformers` 5.23 (`modeling_outputs.py`).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from trocr.cache import DecoderCache


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """Base: `out.logits`, `out["logits"]`, `out[0]`, and iteration over names; None counts as absent."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        pytree.register_pytree_node(
            cls, _flatten, _unflatten, serialized_type_name=f"trocr.outputs.{cls.__name__}"
        )

    def keys(self) -> list[str]:
        """Names of the fields that are not None, in order of definition."""
        return [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None]

    def values(self) -> list[Any]:
        """The fields that are not None."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of name and value of the fields that are not None."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`, or `default` where it is absent or None."""
        value = getattr(self, name, None)
        return default if value is None else value

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, as a tuple."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{type(self).__name__} has no {key!r}; present: {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


def _flatten(output: Any) -> tuple[list[Any], Any]:
    return output.values(), (type(output), tuple(output.keys()))


def _unflatten(values: Any, context: Any) -> Any:
    cls, names = context
    return cls(**dict(zip(names, values, strict=True)))


@dataclass(frozen=True, kw_only=True)
class BaseModelOutput(ModelOutput):
    """What an image encoder gives.

    Attributes:
        last_hidden_state: (B, S, D), after the last norm.
        pooler_output: (B, P), only where the encoder has a pooler.
        hidden_states: the embedding output and every block's output, each (B, S, D), before the last norm.
        attentions: every block's probabilities, each (B, H, S, S).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, given: Any) -> "BaseModelOutput":
        """Take what a caller gives as `encoder_outputs`.

        Args:
            given: any object with `last_hidden_state`, or a tuple (states, hidden states, attentions) that
                may end early.
        Raises:
            ValueError: it is something else.
        """
        if isinstance(given, BaseModelOutput):
            return given
        names = ("last_hidden_state", "hidden_states", "attentions")
        parts: dict[str, Any]
        if hasattr(given, "last_hidden_state"):
            parts = {name: getattr(given, name, None) for name in names}
        elif isinstance(given, tuple) and given:
            parts = dict(zip(names, given, strict=False))
        else:
            raise ValueError(
                f"encoder_outputs is {type(given).__name__}, expected what model.encode or model.encoder "
                "gives, or a tuple whose first element is the states (images, tokens, width)"
            )
        return cls(**parts)


@dataclass(frozen=True, kw_only=True)
class DecoderOutput(ModelOutput):
    """What a decoder without head gives.

    Attributes:
        last_hidden_state: (B, T, D).
        past_key_values: the cache, filled with these T tokens.
        hidden_states: the embedding output and every block's output, each (B, T, D).
        attentions: every block's probabilities over earlier tokens, each (B, H, T, T').
        cross_attentions: every block's probabilities over encoder tokens, each (B, H, T, S).
    """

    last_hidden_state: Tensor
    past_key_values: DecoderCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CausalLMOutput(ModelOutput):
    """What a decoder with head gives; `logits` is (B, T, V), the rest as in `DecoderOutput`."""

    loss: Tensor | None = None
    logits: Tensor
    past_key_values: DecoderCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(ModelOutput):
    """What the whole model gives; shapes as in `BaseModelOutput` and `CausalLMOutput`."""

    loss: Tensor | None = None
    logits: Tensor
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
