"""What a model's parts weigh and what they compute: parameters, bytes and multiply-adds by module.

Multiply-adds are those of matrix products and of the patch convolution, two floating point operations each.
Norms, activations, softmax and sums are not counted. An image is encoded once: cross-attention's keys and
values are counted there. A token is decoded with a cache. Of a backbone of timm, PyTorch counts what an image
costs, module by module.

Source: arXiv:1706.03762 sec. 3 for what is multiplied; checked against `torch.utils.flop_counter`.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from trocr.decoder import DecoderBlock, TextDecoderLM
from trocr.encoder import EncoderBlock, ImageEncoder
from trocr.inspect.reading import evaluating
from trocr.inspect.taps import check_model, is_patch_encoder
from trocr.models import VisionEncoderDecoderModel
from trocr.nn.attention import Attention
from trocr.surgery.adapter_layers import AdaptedLinear
from trocr.surgery.patterns import SurgeryError

LINE_TOKENS = 32
"""Length of a line of text, where nobody says another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one module weighs and computes.

    Attributes:
        name: path of the module; "encoder.blocks.* x 12" in a table stands for twelve alike.
        parameters: numbers; those that it shares with a module before it do not count.
        bytes: of these parameters in their precision.
        image_macs: multiply-adds for an image.
        token_macs: multiply-adds for the last of the tokens.
        line_macs: multiply-adds for an image and all its tokens.
    """

    name: str
    parameters: int
    bytes: int
    image_macs: int
    token_macs: int
    line_macs: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The table of a model.

    Attributes:
        rows: of all modules that have parameters or compute.
        image_tokens: S.
        tokens: T, the number of tokens of a line, the end token with them.
    """

    rows: tuple[Size, ...]
    image_tokens: int
    tokens: int

    @property
    def total(self) -> Size:
        """The sum of all rows."""
        return _sum("total", self.rows)

    def part(self, path: str) -> Size:
        """The sum of all rows of a module, such as "encoder" or "decoder.blocks.0".

        Raises:
            SurgeryError: there is none.
        """
        found = [row for row in self.rows if row.name == path or row.name.startswith(f"{path}.")]
        if not found:
            raise SurgeryError(
                f"{path!r} is no module of this table, which has {self.rows[0].name} and others"
            )
        return _sum(path, found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "image_tokens": self.image_tokens,
            "tokens": self.tokens,
            "rows": [asdict(row) for row in self.rows],
            "total": asdict(self.total),
        }

    def table(self) -> str:
        """Lay out for a terminal; modules that differ in their block's number alone take one row together."""
        groups: dict[tuple[Any, ...], list[Size]] = {}
        for row in self.rows:
            name = re.sub(r"\.\d+\.", ".*.", row.name)
            groups.setdefault((name, row.parameters, row.token_macs, row.image_macs), []).append(row)
        shown = [
            _sum(f"{key[0]}{f' x {len(rows)}' if len(rows) > 1 else ''}", rows)
            for key, rows in groups.items()
        ]
        parts = [self.part(part) for part in ("encoder", "decoder")]
        lines: list[tuple[str, ...]] = [
            ("module", "parameters", "MiB", "image", f"token {self.tokens}", "line")
        ]
        for row in (*shown, *parts, self.total):
            macs = (row.image_macs, row.token_macs, row.line_macs)
            lines.append(
                (
                    row.name,
                    f"{row.parameters:,}",
                    f"{row.bytes / 2**20:.2f}",
                    *(f"{m / 1e6:,.2f}" for m in macs),
                )
            )
        widths = [max(len(line[column]) for line in lines) for column in range(6)]
        rows = (
            "  ".join(
                [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
            )
            for line in lines
        )
        about = (
            f"Millions of multiply-adds: for an image ({self.image_tokens} encoder tokens), for token "
            f"{self.tokens} with a cache, and for an image with {self.tokens} tokens."
        )
        return "\n".join([*rows, about])


def measure_sizes(model: VisionEncoderDecoderModel, *, tokens: int | None = None) -> Sizes:
    """Count parameters, bytes and multiply-adds by module.

    Args:
        model: on any device; on the meta device it costs no memory.
        tokens: T, tokens of the line, the end token with them; None means 32, or as many as fit.
    Raises:
        SurgeryError: no such model, or `tokens` is below 1 or more than the decoder has positions.
    Source: see the module.
    """
    check_model(model)
    room = model.config.decoder.max_position_embeddings
    if tokens is None:
        tokens = min(LINE_TOKENS, room)
    if not 1 <= tokens <= room:
        raise SurgeryError(f"tokens is {tokens}, expected 1 to {room}, the positions of this decoder")
    seen: set[int] = set()
    encoder: nn.Module = model.encoder
    if is_patch_encoder(encoder):
        grid = encoder.embeddings.grid
        length = encoder.embeddings.num_prefix + grid[0] * grid[1]
        found = list(_encoder(encoder, length, grid[0] * grid[1]))
    else:
        length, found = _foreign_encoder(model)
    found.append(("enc_to_dec_proj", model.enc_to_dec_proj, _linear(model.enc_to_dec_proj, length), (0, 0)))
    found += _decoder(model.decoder, length)
    rows = [_row(*entry, tokens=tokens, seen=seen) for entry in found]
    kept = tuple(row for row in rows if row.parameters or row.line_macs)
    return Sizes(rows=kept, image_tokens=length, tokens=tokens)


Entry = tuple[str, nn.Module, int, tuple[int, int]]
"""Path, module, multiply-adds for an image, and for a token: fixed, and for each token up to this one."""


def _row(
    name: str, module: nn.Module, image: int, token: tuple[int, int], *, tokens: int, seen: set[int]
) -> Size:
    own = [p for p in module.parameters() if id(p) not in seen]
    seen.update(id(p) for p in own)
    fixed, growing = token
    return Size(
        name=name,
        parameters=sum(p.numel() for p in own),
        bytes=sum(p.numel() * p.element_size() for p in own),
        image_macs=image,
        token_macs=fixed + growing * tokens,
        line_macs=image + fixed * tokens + growing * tokens * (tokens + 1) // 2,
    )


def _encoder(encoder: ImageEncoder, length: int, patches: int) -> Iterator[Entry]:
    embeddings = encoder.embeddings
    convolution = embeddings.patch_embeddings.weight.numel() * patches
    yield "encoder.embeddings", embeddings, convolution, (0, 0)
    for place, block in enumerate(encoder.blocks):
        assert isinstance(block, EncoderBlock)
        path = f"encoder.blocks.{place}"
        products = 2 * length * length * _inner(block.self_attn)
        yield f"{path}.attn_norm", block.attn_norm, 0, (0, 0)
        yield f"{path}.self_attn", block.self_attn, _linear(block.self_attn, length) + products, (0, 0)
        yield f"{path}.mlp_norm", block.mlp_norm, 0, (0, 0)
        yield f"{path}.mlp", block.mlp, _linear(block.mlp, length), (0, 0)
    yield "encoder.norm", encoder.norm, 0, (0, 0)
    if encoder.pooler is not None:
        yield "encoder.pooler", encoder.pooler, _linear(encoder.pooler, 1), (0, 0)


def _decoder(decoder: TextDecoderLM, length: int) -> Iterator[Entry]:
    for name in ("embed_tokens", "embed_positions", "embed_norm"):
        yield f"decoder.{name}", decoder.get_submodule(name), 0, (0, 0)
    for place, block in enumerate(decoder.blocks):
        assert isinstance(block, DecoderBlock)
        path = f"decoder.blocks.{place}"
        own, cross = block.self_attn, block.cross_attn
        yield f"{path}.self_attn", own, 0, (_linear(own, 1), 2 * _inner(own))
        yield f"{path}.attn_norm", block.attn_norm, 0, (0, 0)
        if cross is not None:
            once = _linear(cross.k_proj, length) + _linear(cross.v_proj, length)
            each = _linear(cross.q_proj, 1) + _linear(cross.out_proj, 1) + 2 * length * _inner(cross)
            yield f"{path}.cross_attn", cross, once, (each, 0)
            yield f"{path}.cross_attn_norm", block.cross_attn_norm, 0, (0, 0)
        yield f"{path}.mlp", block.mlp, 0, (_linear(block.mlp, 1), 0)
        yield f"{path}.mlp_norm", block.mlp_norm, 0, (0, 0)
    yield (
        "decoder.output_projection",
        decoder.output_projection,
        0,
        (_linear(decoder.output_projection, 1), 0),
    )


def _foreign_encoder(model: VisionEncoderDecoderModel) -> tuple[int, list[Entry]]:
    """Encoder tokens, and rows that PyTorch counts in a pass over an empty image."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = model.config.encoder
    counter = FlopCounterMode(display=False)
    # The fused attention of a CPU is not counted, the products that it stands for are. In training mode a
    # batch norm would learn from the image. The counter fails without gradients where modules get parameters.
    with (
        evaluating(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        counter,
    ):
        pixels = torch.zeros(1, config.num_channels, *config.image_hw, device=model.device, dtype=model.dtype)
        states = model.encode(pixels).last_hidden_state
    root = type(model.encoder).__name__
    counts = {
        f"encoder{name.removeprefix(root)}": sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name.startswith(root)
    }
    rows, _ = _foreign_rows("encoder", model.encoder, counts, levels=2)
    return states.shape[1], rows


_STACKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _foreign_rows(
    path: str, module: nn.Module, counts: dict[str, int], *, levels: int
) -> tuple[list[Entry], int]:
    """Rows of the parts of a module and one of the rest of it; and its multiply-adds altogether.

    Parts are shown of so many levels, and of stacks and what is in them: blocks are told apart in attention
    and the like, attention is not.
    """
    rows: list[Entry] = []
    inside = 0
    for name, child in module.named_children() if levels > 0 else ():
        deeper = max(levels - 1, 2 if isinstance(child, _STACKS) else 0)
        found, macs = _foreign_rows(f"{path}.{name}", child, counts, levels=deeper)
        rows, inside = rows + found, inside + macs
    whole = max(inside, counts.get(path, 0))  # a list of modules is never called itself
    return [*rows, (path, module, whole - inside, (0, 0))], whole


def _linear(module: nn.Module, rows: int) -> int:
    """Multiply-adds of a module's linear layers for so many rows: every number of a matrix once for each.

    DoRA multiplies its two matrices in every call, for the lengths of the rows of the sum.
    """
    each = sum(p.numel() for p in module.parameters() if p.dim() == 2)
    dora = (m for m in module.modules() if isinstance(m, AdaptedLinear) and m.magnitude is not None)
    return each * rows + sum(m.lora_a.numel() * m.out_features for m in dora)


def _inner(attention: Attention) -> int:
    return attention.num_heads * attention.head_dim


def _sum(name: str, rows: "tuple[Size, ...] | list[Size]") -> Size:
    return Size(
        name=name,
        parameters=sum(row.parameters for row in rows),
        bytes=sum(row.bytes for row in rows),
        image_macs=sum(row.image_macs for row in rows),
        token_macs=sum(row.token_macs for row in rows),
        line_macs=sum(row.line_macs for row in rows),
    )
