"""Where the model looked while it wrote each token: cross-attention on the image, and attention rollout.

The map of a token is the cross-attention of the decoder position that predicted it, averaged over heads and
blocks. Rollout follows it further down: encoder states are mixtures of patches, so each is replaced by the
mixture that the encoder's attentions made, half of which is the residual stream.

Source: arXiv:2005.00928 sec. 3 for rollout; maps on pixels are original work.
Differs: rollout ends at the encoder's input and starts from cross-attention; the decoder's self-attention is
left out, since it mixes tokens, not places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from trocr.encoder import ImageEncoder
from trocr.inspect.geometry import Floats, Geometry
from trocr.inspect.hooks import capture
from trocr.inspect.reading import Reading, evaluating, read_image
from trocr.inspect.rollout import attention_rollout, check_rollout, encoder_attention
from trocr.inspect.taps import check_model, is_patch_encoder
from trocr.models import VisionEncoderDecoderModel
from trocr.nn.attention import Attention
from trocr.processor import TrOCRProcessor
from trocr.surgery.patterns import SurgeryError, choose_blocks


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """Maps of one image. N tokens, each with M maps: one, or one for each head.

    Attributes:
        source: the path that was given, or "image".
        picture: the image, upright, in RGB and of its own size.
        text: what the model read.
        tokens: N names of the tokens it wrote, the end token with them.
        parts: N texts that the tokens add; joined they are `text`.
        maps: (N, M, rows, columns) share of attention on each patch, float32.
        prefix: (N, M, P) share on the prefix tokens: class, distillation. A map and its prefix add up to 1.
        heads: M pairs (block, head); empty where the maps are averages.
        is_rollout: whether they were followed down to the patches.
        geometry: where the patches lie on the image.
    """

    source: str
    picture: Image.Image
    text: str
    tokens: tuple[str, ...]
    parts: tuple[str, ...]
    maps: Floats
    prefix: Floats
    heads: tuple[tuple[int, int], ...]
    is_rollout: bool
    geometry: Geometry

    def check(self, token: int, which: int = 0) -> None:
        """Refuse a map that is not there.

        Raises:
            SurgeryError: no such token or map.
        """
        if not (-len(self.tokens) <= token < len(self.tokens) and 0 <= which < self.maps.shape[1]):
            raise SurgeryError(
                f"map {which} of token {token}: there are {len(self.tokens)} tokens with "
                f"{self.maps.shape[1]} maps each"
            )

    def pixels(self, token: int, which: int = 0) -> Floats:
        """Lay one map on the image: (height, width), each pixel with the share of its patch.

        Args:
            token: 0 to N - 1; negative numbers count from the end.
            which: 0 to M - 1.
        Raises:
            SurgeryError: no such token or map.
        """
        self.check(token, which)
        return self.geometry.to_pixels(self.maps[token, which])

    def distinct(self) -> Floats:
        """(N, M, rows, columns) without what all tokens share: the least value of each patch is taken off.

        Rollout gives every token nearly the same mixture of patches that the encoder made common property;
        what is left after it is what tells tokens apart.
        """
        if len(self.maps) < 2:
            return self.maps
        left: Floats = self.maps - self.maps.min(axis=0, keepdims=True)
        return left

    @property
    def padding(self) -> Floats:
        """(N, M) share of attention on patches that show nothing of the image."""
        outside: Floats = self.maps[..., ~self.geometry.on_image()].sum(axis=-1)
        return outside

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": self.source,
            "text": self.text,
            "tokens": [
                {
                    "token": name,
                    "text": part,
                    "map": np.round(grids, 6).tolist(),
                    "prefix": np.round(prefix, 6).tolist(),
                }
                for name, part, grids, prefix in zip(
                    self.tokens, self.parts, self.maps, self.prefix, strict=True
                )
            ],
            "heads": [list(pair) for pair in self.heads],
            "patches": list(self.geometry.box),
        }


def attention_maps(
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    image: Any,
    *,
    layers: str | Sequence[int] = "all",
    heads: Sequence[int] | None = None,
    rollout: bool = False,
    per_head: bool = False,
    **options: Any,
) -> AttentionMaps:
    """Read an image and tell where the model looked for each token.

    Args:
        model: with an encoder whose tokens have places in the image: patches, or a backbone's map.
        processor: the model's own.
        image: whatever `trocr.image.open_image` takes.
        layers: decoder blocks whose cross-attention counts, as in `trocr.surgery.patterns.choose_blocks`.
        heads: numbers of the heads that count; None means all.
        rollout: follow the attention through the encoder down to the patches.
        per_head: a map for each head of each of those blocks, instead of their average.
        options: of `generate`, such as `num_beams`; `native_width=True` leaves out the padding on the right,
            as `Reader.read` does. Maps are those of the text that was chosen.
    Raises:
        SurgeryError: no such model, block or head, an option that is set here, an encoder without patches, or
            (rollout) without attentions among all its states.
        ImageError: the image cannot be read.
    Source: see the module.
    """
    check_model(model)
    blocks = choose_blocks(layers, len(model.decoder.blocks))
    chosen = [_heads(model, block, heads) for block in blocks]
    num_prefix, patch_hw, grid = _patches(model)
    if rollout:
        check_rollout(model)
    reading = read_image(model, processor, image, **options)
    input_hw = reading.pixel_values.shape[2], reading.pixel_values.shape[3]
    if is_patch_encoder(model.encoder):  # the image may have another size than the encoder is made for
        grid = input_hw[0] // patch_hw[0], input_hw[1] // patch_hw[1]
    geometry = Geometry.of(
        processor.image_processor,
        (reading.picture.height, reading.picture.width),
        patch_hw=patch_hw,
        grid=grid,
    )
    geometry = replace(geometry, input_hw=input_hw)
    probs = _cross_attention(model, reading, blocks, chosen)  # blocks of (H, N, S)
    if per_head:
        maps = torch.cat(probs)
    else:
        maps = torch.stack([found.mean(dim=0) for found in probs]).mean(dim=0, keepdim=True)  # (1, N, S)
    if rollout:
        maps = maps @ attention_rollout(encoder_attention(model, reading))[0].float()
    maps = maps.transpose(0, 1).cpu()  # (N, M, S)
    return AttentionMaps(
        source=reading.source,
        picture=reading.picture,
        text=reading.text,
        tokens=reading.tokens,
        parts=reading.parts,
        maps=maps[..., num_prefix:].reshape(*maps.shape[:-1], *grid).numpy(),
        prefix=maps[..., :num_prefix].numpy(),
        heads=tuple(_pairs(blocks, chosen)) if per_head else (),
        is_rollout=rollout,
        geometry=geometry,
    )


@torch.no_grad()
def _cross_attention(
    model: VisionEncoderDecoderModel, reading: Reading, blocks: Sequence[int], heads: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Probabilities (H, N, S) of the given blocks and heads, in one pass over what was written."""
    names = [f"blocks.{block}.cross_attn.probs" for block in blocks]
    with evaluating(model), capture(model.decoder, names) as captured:
        model.decoder(input_ids=reading.ids[:, :-1], encoder_hidden_states=reading.memory, use_cache=False)
    return [captured[name][0][0, list(found)].float() for name, found in zip(names, heads, strict=True)]


def _heads(model: VisionEncoderDecoderModel, block: int, heads: Sequence[int] | None) -> list[int]:
    attention = model.decoder.get_submodule(f"blocks.{block}.cross_attn")
    assert isinstance(attention, Attention)
    count = attention.num_heads
    found = list(range(count)) if heads is None else heads
    known = isinstance(found, list | tuple | range) and all(
        type(head) is int and 0 <= head < count for head in found
    )
    if not known or not found:
        raise SurgeryError(
            f"heads {heads!r} are not among the {count} of decoder block {block}, which are numbered 0 to "
            f"{count - 1}"
        )
    return list(found)


def _pairs(blocks: Sequence[int], heads: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    for block, found in zip(blocks, heads, strict=True):
        yield from ((block, head) for head in found)


def _patches(model: VisionEncoderDecoderModel) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Prefix tokens, (height, width) of a patch, and (rows, columns) of patches of a model's encoder."""
    encoder: nn.Module = model.encoder
    if not isinstance(encoder, ImageEncoder):
        raise SurgeryError(
            f"attention maps need an encoder whose tokens are patches of the image, {type(encoder).__name__} "
            "does not say where its tokens are"
        )
    embeddings = encoder.embeddings
    try:
        return embeddings.num_prefix, embeddings.patch_hw, embeddings.grid
    except ValueError as error:  # a backbone whose states form no grid
        raise SurgeryError(f"attention maps need to know where states are in the image: {error}") from error
