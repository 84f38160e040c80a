"""The weights of a model, laid out for reading: fused projections, scaled queries, patches as rows.

`collect` turns a model into plain tensors by name, and knows nothing of kernels; the fast encoder and decoder
are built from such tensors, and an optimized checkpoint is a file of them.

Source: original work.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from trocr.decoder import DecoderBlock, TextDecoderLM
from trocr.encoder import EncoderBlock, ImageEncoder
from trocr.model import ImageToText
from trocr.nn.attention import Attention
from trocr.nn.embeddings import ImageEmbeddings, LearnedPositions, SinusoidalPositions, TokenEmbedding
from trocr.nn.linear import Linear
from trocr.nn.mlp import MLP, Activation

Tensors = Mapping[str, Tensor]

_SIMPLE = (nn.Linear, nn.LayerNorm, nn.Identity, nn.Dropout, nn.Conv2d, nn.ModuleList, Linear, Activation)
_OWN = (Attention, MLP, EncoderBlock, DecoderBlock, ImageEmbeddings, TokenEmbedding, LearnedPositions)
_LEAST = (SinusoidalPositions,)


class OptimizeError(ValueError):
    """A model cannot be made fast in the way that was asked for."""


def check_expressible(part: nn.Module, name: str) -> None:
    """Check that a part consists of nothing but what the fast path computes.

    Raises:
        OptimizeError: modules of another kind, such as adapters, or hooks, all in one message.
    """
    problems = []
    for path, module in part.named_modules():
        where = f"{name}.{path}" if path else name
        kind = type(module)
        if path and kind not in (*_SIMPLE, *_OWN, *_LEAST) and not where.startswith("encoder.pooler"):
            problems.append(f"{where} is a {kind.__name__}")
        elif module._forward_hooks or module._forward_pre_hooks:
            problems.append(f"{where} has hooks")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise OptimizeError(
            f"the fast path cannot compute this model: {', '.join(problems[:4])}{more}. Merge adapters "
            "(trocr surgery merge-adapter) and remove hooks first, or read with the model itself"
        )


def collect_encoder(encoder: ImageEncoder) -> dict[str, Tensor]:
    """Give an image encoder's tensors, on their device and in their precision.

    Raises:
        OptimizeError: see `check_expressible`.
    """
    check_expressible(encoder, "encoder")
    found: dict[str, Tensor] = {}
    embeddings = encoder.embeddings
    prefix = [embeddings.cls_token]
    if embeddings.distillation_token is not None:
        prefix.append(embeddings.distillation_token)
    found["prefix"] = torch.cat([token.detach() for token in prefix], dim=1)  # (1, n, D)
    found["positions"] = embeddings.position_embeddings.detach()
    found["patch.weight"] = embeddings.patch_embeddings.weight.detach().flatten(1)  # (D, C*height*width)
    if embeddings.patch_embeddings.bias is not None:
        found["patch.bias"] = embeddings.patch_embeddings.bias.detach()
    for number, block in enumerate(encoder.blocks):
        assert isinstance(block, EncoderBlock)
        parts = {
            "attn_norm": plain(block.attn_norm),
            "qkv": fuse(scaled_queries(block.self_attn), block.self_attn.k_proj, block.self_attn.v_proj),
            "out": plain(block.self_attn.out_proj),
            "mlp_norm": plain(block.mlp_norm),
            "fc1": plain(block.mlp.fc1),
            "fc2": plain(block.mlp.fc2),
        }
        found.update(_under(f"blocks.{number}", parts))
    found.update(_under("", {"norm": plain(encoder.norm)}))
    return found


def collect_decoder(decoder: TextDecoderLM) -> dict[str, Tensor]:
    """Give a text decoder's tensors, on their device and in their precision.

    Raises:
        OptimizeError: see `check_expressible`, or a decoder without cross-attention.
    """
    check_expressible(decoder, "decoder")
    positions = decoder.embed_positions
    found: dict[str, Tensor] = {"tokens": decoder.embed_tokens.weight.detach()}
    if isinstance(positions, LearnedPositions):
        found["positions"] = positions.weight.detach()[LearnedPositions.OFFSET :]
    else:
        found["positions"] = positions.table
    if not isinstance(decoder.embed_norm, nn.Identity):
        found.update(_under("", {"embed_norm": plain(decoder.embed_norm)}))
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, DecoderBlock)
        if block.cross_attn is None:
            raise OptimizeError("decoder.blocks have no cross-attention: there is no image to read")
        attn, cross = block.self_attn, block.cross_attn
        parts = {
            "qkv": fuse(scaled_queries(attn), attn.k_proj, attn.v_proj),
            "out": plain(attn.out_proj),
            "attn_norm": plain(block.attn_norm),
            "cross_q": fuse(scaled_queries(cross)),
            "cross_k": {"weight": cross.k_proj.weight.detach()},
            "cross_v": {"weight": cross.v_proj.weight.detach()},
            "cross_out": plain_with_values(cross),
            "cross_norm": plain(block.cross_attn_norm),
            "fc1": plain(block.mlp.fc1),
            "fc2": plain(block.mlp.fc2),
            "mlp_norm": plain(block.mlp_norm),
        }
        found.update(_under(f"blocks.{number}", parts))
    found.update(_under("", {"head": plain(decoder.output_projection)}))
    return found


def collect(model: ImageToText, *, with_encoder: bool = True) -> dict[str, Tensor]:
    """Give all tensors of a model.

    Args:
        model: left as it is; tensors that need no change are shared with it.
        with_encoder: False for an encoder that is used as it is.
    Raises:
        OptimizeError: see `check_expressible`.
    """
    parts = {"encoder": collect_encoder(model.encoder)} if with_encoder else {}
    parts["decoder"] = collect_decoder(model.decoder)
    if not isinstance(model.enc_to_dec_proj, nn.Identity):
        check_expressible(model.enc_to_dec_proj, "enc_to_dec_proj")
        parts["projection"] = plain(model.enc_to_dec_proj)
    return _under("", parts)


def plain(layer: nn.Module) -> dict[str, Tensor]:
    """Give the tensors of one layer by leaf name."""
    return {name: parameter.detach() for name, parameter in layer.named_parameters(recurse=False)}


def scaled_queries(attention: Attention) -> tuple[Tensor, Tensor | None]:
    """Give weight and bias of the query projection in float32, with the scale of the scores in them.

    The scale is exact in floating point where the head's width is a power of four, as in all official models.
    """
    scale = attention.head_dim**-0.5
    weight, bias = attention.q_proj.weight.detach().float(), attention.q_proj.bias
    return weight * scale, None if bias is None else bias.detach().float() * scale


def plain_with_values(attention: Attention) -> dict[str, Tensor]:
    """Give the output projection's tensors, with what the bias of the values comes to behind it.

    Attention weights of a query sum to one, so that the values' bias reaches the output unchanged, once. The
    keys' bias adds the same to all scores of a query, which the softmax takes away again.
    """
    found, bias = plain(attention.out_proj), attention.v_proj.bias
    if bias is None:
        return found
    behind = found["weight"].float() @ bias.detach().float()
    return {**found, "bias": found["bias"].float() + behind if "bias" in found else behind}


def fuse(*layers: nn.Linear | tuple[Tensor, Tensor | None]) -> dict[str, Tensor]:
    """Put layers of the same input one below the other; where one has a bias, the others get zeros."""
    pairs = [layer if isinstance(layer, tuple) else (layer.weight.detach(), _bias(layer)) for layer in layers]
    weights = [weight for weight, _ in pairs]
    found = {"weight": weights[0] if len(weights) == 1 else torch.cat(weights)}
    if any(bias is not None for _, bias in pairs):
        biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs]
        found["bias"] = torch.cat(biases)
    return found


def under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Give the tensors whose names begin with `prefix` and a dot, without that."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def linear_names(tensors: Tensors) -> Iterator[str]:
    """Give the names of the layers that are matrix products: those with a weight of two dimensions."""
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dim() == 2:
            yield name.removesuffix(".weight")


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _under(prefix: str, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    start = f"{prefix}." if prefix else ""
    return {
        f"{start}{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()
    }
