"""Shapes of single blocks, for models whose blocks differ because heads or units were taken out of them.

Source: original work; `transformers` 5.23 has no such key and cannot load models that need it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trocr.config_base import BaseConfig, frozen
from trocr.config_read import Checker


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderBlockShape:
    """What may differ among the blocks of an image encoder.

    Attributes:
        num_heads: of the self-attention.
        intermediate_size: units of the feed-forward part.
    """

    num_heads: int
    intermediate_size: int

    @classmethod
    def common(cls, config: Any) -> Self:
        """Shape that a configuration gives to every block, where it has no `block_shapes`."""
        return cls(num_heads=config.num_attention_heads, intermediate_size=config.intermediate_size)

    @property
    def num_units(self) -> int:
        """Units of the feed-forward part."""
        return self.intermediate_size


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderBlockShape:
    """What may differ among the blocks of a text decoder.

    Attributes:
        self_attn_heads: of the self-attention.
        cross_attn_heads: of the cross-attention.
        ffn_dim: units of the feed-forward part.
    """

    self_attn_heads: int
    cross_attn_heads: int
    ffn_dim: int

    @classmethod
    def common(cls, config: Any) -> Self:
        """Shape that a configuration gives to every block, where it has no `block_shapes`."""
        heads = config.decoder_attention_heads
        return cls(self_attn_heads=heads, cross_attn_heads=heads, ffn_dim=config.decoder_ffn_dim)

    @property
    def num_units(self) -> int:
        """Units of the feed-forward part."""
        return self.ffn_dim


BlockShape = EncoderBlockShape | DecoderBlockShape


@frozen
class StackConfig(BaseConfig):
    """What the configurations of a stack of blocks share.

    `block_shapes` is None where all blocks have the same heads and units, which other fields tell; else it
    has one object for each block, whose numbers win over those fields. The width of a head is always that of
    the other fields. It is written only where it is not None.
    """

    shape_class: ClassVar[type[BlockShape]]
    count_field: ClassVar[str]
    units_field: ClassVar[str]

    block_shapes: tuple[Any, ...] | None = None

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Shape of each block, in order: `shape_class` objects."""
        if self.block_shapes is not None:
            return self.block_shapes
        return (self.shape_class.common(self),) * getattr(self, self.count_field)

    def with_shapes(self, shapes: Iterable[BlockShape]) -> Self:
        """Describe a stack of blocks of these shapes, without `block_shapes` where it is not needed."""
        wanted = tuple(shapes)
        values: dict[str, Any] = {self.count_field: len(wanted), "block_shapes": None}
        sizes = {shape.num_units for shape in wanted}
        if len(sizes) == 1:
            values[self.units_field] = sizes.pop()
        plain = dataclasses.replace(self, **values)
        return plain if plain.shapes == wanted else dataclasses.replace(plain, block_shapes=wanted)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``: plain values, nested dictionaries."""
        values = super().to_dict()
        del values["block_shapes"]
        if self.block_shapes is not None:
            values["block_shapes"] = [dataclasses.asdict(shape) for shape in self.block_shapes]
        return values

    def _read_shapes(self, c: Checker) -> None:
        """Turn what a file holds into shapes, and note what is wrong with them."""
        object.__setattr__(self, "block_shapes", _as_shapes(self.shape_class, self.block_shapes))
        for problem in _problems(self.shape_class, self.block_shapes, getattr(self, self.count_field)):
            c.rule(False, problem)


def _as_shapes(kind: type[BlockShape], value: Any) -> Any:
    """Make shapes of the objects of a list; what is none stays, for `_problems` to tell."""
    if not isinstance(value, list | tuple):
        return value
    names = {item.name for item in dataclasses.fields(kind)}
    return tuple(kind(**item) if isinstance(item, Mapping) and set(item) == names else item for item in value)


def _problems(kind: type[BlockShape], value: Any, count: Any) -> Iterator[str]:
    if value is None:
        return
    names = [item.name for item in dataclasses.fields(kind)]
    if not isinstance(value, tuple):
        yield f"block_shapes={value!r} must be null or a list of objects ({', '.join(names)}), one per block"
        return
    if len(value) != count:
        yield f"block_shapes describes {len(value)} blocks, the stack has {count!r}"
    for place, shape in enumerate(value):
        if not isinstance(shape, kind):
            yield f"block_shapes[{place}]={shape!r} must be an object with {', '.join(names)}"
            continue
        for name in names:
            number = getattr(shape, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                yield f"block_shapes[{place}].{name}={number!r} must be a whole number above 0"
