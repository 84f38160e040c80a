"""The named places inside a model where tensors can be read and replaced.

A tap is a module whose output is the tensor, so its name is the module's path and ordinary forward hooks work
on it as well. Where no module gave the tensor, an `nn.Identity` stands for it: `positions`, `probs`,
`attn_out`, `attn_resid`, `mlp_resid`. In a decoder block, which norms after it adds, the norms give the
residual stream. In a backbone of timm, the dropout behind the softmax, `attn_drop`, gives the probabilities.

Letters are those of `trocr.model`; F is the width inside a feed-forward part, H*K that of all heads together.

Source: original work; names and idea of hook points after TransformerLens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

from torch import nn

from trocr.decoder import DecoderBlock, TextDecoder
from trocr.encoder import EncoderBlock, ImageEncoder
from trocr.model import ImageToText
from trocr.nn.attention import Attention
from trocr.nn.embeddings import ImageEmbeddings
from trocr.nn.mlp import MLP
from trocr.surgery.patterns import SurgeryError, match_names

Kind = Literal[
    "embedding",
    "residual",
    "norm",
    "query",
    "key",
    "value",
    "probs",
    "head",
    "hidden",
    "branch",
    "memory",
    "logits",
    "foreign",
]
"""What a tap gives.

residual: the stream that blocks read and write. branch: what a sub-layer adds to it. head: what each head of
attention gives. hidden: inside a feed-forward part, before and after the activation. memory: what
cross-attention reads. foreign: of a module that is not this package's, probabilities excepted.
"""

_ATTENTION: tuple[tuple[str, Kind, str], ...] = (
    ("q_proj", "query", "(B, {q}, H*K)"),
    ("k_proj", "key", "({b}, {k}, H*K)"),
    ("v_proj", "value", "({b}, {k}, H*K)"),
    ("probs", "probs", "(B, H, {q}, {keys})"),
    ("attn_out", "head", "(B, H, {q}, K)"),
    ("out_proj", "branch", "(B, {q}, {d})"),
)


def _attention(name: str, **letters: str) -> tuple[tuple[str, Kind, str], ...]:
    return tuple(
        (f"{name}.{leaf}".lstrip("."), kind, shape.format(**letters)) for leaf, kind, shape in _ATTENTION
    )


def _mlp(name: str, q: str, d: str) -> tuple[tuple[str, Kind, str], ...]:
    return (
        (f"{name}.fc1".lstrip("."), "hidden", f"(B, {q}, F)"),
        (f"{name}.act".lstrip("."), "hidden", f"(B, {q}, F)"),
        (f"{name}.fc2".lstrip("."), "branch", f"(B, {q}, {d})"),
    )


_IMAGE_EMBEDDINGS: tuple[tuple[str, Kind, str], ...] = (
    ("patch_embeddings", "embedding", "(B, D_enc, rows, columns)"),
    ("positions", "embedding", "(1, S, D_enc)"),
    ("", "residual", "(B, S, D_enc)"),
)
_ENCODER_BLOCK: tuple[tuple[str, Kind, str], ...] = (
    ("attn_norm", "norm", "(B, S, D_enc)"),
    *_attention("self_attn", b="B", q="S", k="S", keys="S", d="D_enc"),
    ("attn_resid", "residual", "(B, S, D_enc)"),
    ("mlp_norm", "norm", "(B, S, D_enc)"),
    *_mlp("mlp", "S", "D_enc"),
    ("mlp_resid", "residual", "(B, S, D_enc)"),
)
_DECODER_BLOCK: tuple[tuple[str, Kind, str], ...] = (
    *_attention("self_attn", b="B", q="T", k="T", keys="T'", d="D"),
    ("attn_norm", "residual", "(B, T, D)"),
    *_attention("cross_attn", b="B'", q="T", k="S", keys="S", d="D"),
    ("cross_attn_norm", "residual", "(B, T, D)"),
    *_mlp("mlp", "T", "D"),
    ("mlp_norm", "residual", "(B, T, D)"),
)
_TEXT_DECODER: tuple[tuple[str, Kind, str], ...] = (
    ("embed_tokens", "embedding", "(B, T, D)"),
    ("embed_positions", "embedding", "(T, D) or (B, T, D)"),
    ("embed_norm", "residual", "(B, T, D)"),
)


PROBS_OF_TIMM = "attn_drop"
"""What timm calls the dropout through which an attention passes its probabilities, unless it is fused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A place where a tensor can be read and replaced.

    Attributes:
        name: path of the module whose output it is.
        kind: see `Kind`.
        shape: in the letters of `trocr.model`. T counts the tokens of one call: one, in a step of cached
            decoding; T' counts the cached ones too. B' counts images, B the rows that read them.
    """

    name: str
    kind: Kind
    shape: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def list_taps(model: nn.Module) -> list[Tap]:
    """Name every tap of a model, in the order in which a forward pass comes to them.

    Args:
        model: a whole model, or an encoder, a decoder, a block or a part of one alone. Of other packages'
            models (a backbone of timm) every module is a tap; those that give no tensor are captured as
            nothing.
    Raises:
        SurgeryError: it is no module.
    """
    check_model(model, parts=())
    return list(_taps(model, ""))


def check_model(model: object, *, parts: Sequence[str] = ("encoder", "decoder", "config")) -> None:
    """Refuse what cannot be looked into.

    Args:
        model: what was given.
        parts: attributes that it must have.
    Raises:
        SurgeryError: it is no module, or lacks a part.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(
            f"a {type(model).__name__} cannot be looked into: expected a model as `from_pretrained` "
            "loads it, before it is optimized or exported"
        )
    missing = [part for part in parts if not hasattr(model, part)]
    if missing:
        raise SurgeryError(
            f"a {type(model).__name__} has no {' and no '.join(missing)}: expected a "
            "VisionEncoderDecoderModel"
        )


def choose_taps(model: nn.Module, patterns: str | Sequence[str]) -> list[Tap]:
    """Choose taps by patterns of their whole names, such as "decoder.blocks.*.cross_attn.probs".

    Raises:
        SurgeryError: a pattern matches no tap; the nearest name is told.
    """
    taps = {tap.name: tap for tap in list_taps(model)}
    wanted: list[Any] = [patterns] if isinstance(patterns, str) else list(_each(patterns))
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise SurgeryError(f"patterns of taps are {patterns!r}, expected a string or a list of strings")
    if not taps:
        raise SurgeryError(f"{type(model).__name__} has no taps: expected a model of this package")
    return [taps[name] for name in match_names(list(taps), wanted, "tap")]


def _each(patterns: object) -> Iterable[object]:
    return patterns if isinstance(patterns, Iterable) else [patterns]


def is_patch_encoder(module: nn.Module) -> TypeGuard[ImageEncoder]:
    """Whether a module is an image encoder of this package's own blocks, not a backbone of another."""
    return isinstance(module, ImageEncoder) and isinstance(module.embeddings, ImageEmbeddings)


def _taps(module: nn.Module, path: str) -> Iterator[Tap]:
    if isinstance(module, ImageToText):
        yield from _taps(module.encoder, f"{path}encoder.")
        yield Tap(name=f"{path}enc_to_dec_proj", kind="memory", shape="(B', S, D_mem)")
        yield from _taps(module.decoder, f"{path}decoder.")
    elif is_patch_encoder(module):
        yield from _taps(module.embeddings, f"{path}embeddings.")
        yield from _taps(module.blocks, f"{path}blocks.")
        yield Tap(name=f"{path}norm", kind="norm", shape="(B, S, D_enc)")
    elif isinstance(module, TextDecoder):
        yield from _named(module, path, _TEXT_DECODER)
        yield from _taps(module.blocks, f"{path}blocks.")
        yield from _named(module, path, (("output_projection", "logits", "(B, T, V)"),))
    elif isinstance(module, ImageEmbeddings):
        yield from _named(module, path, _IMAGE_EMBEDDINGS)
    elif isinstance(module, EncoderBlock):
        yield from _named(module, path, _ENCODER_BLOCK)
    elif isinstance(module, DecoderBlock):
        without = module.cross_attn is None
        table = [row for row in _DECODER_BLOCK if not (without and row[0].startswith("cross_attn"))]
        yield from _named(module, path, table)
    elif isinstance(module, Attention):
        yield from _named(module, path, _attention("", b="B'", q="T", k="S", keys="S", d="D"))
    elif isinstance(module, MLP):
        yield from _named(module, path, _mlp("", "T", "D"))
    else:
        for name, child in module.named_children():
            if not type(child).__module__.startswith("trocr.") and not isinstance(
                child, nn.ModuleList | nn.ModuleDict
            ):
                is_probs = name == PROBS_OF_TIMM
                shape = "(..., queries, keys)" if is_probs else "(...)"
                yield Tap(name=f"{path}{name}", kind="probs" if is_probs else "foreign", shape=shape)
            yield from _taps(child, f"{path}{name}.")


def _named(module: nn.Module, path: str, table: Sequence[tuple[str, Kind, str]]) -> Iterator[Tap]:
    """Taps of the rows of a table whose modules are there; surgery may have taken parts away."""
    there = {name for name, _ in module.named_modules(remove_duplicate=False)}
    for name, kind, shape in table:
        if name in there:
            yield Tap(name=f"{path}{name}".rstrip("."), kind=kind, shape=shape)
