"""Does an exported model read as the model does? Nothing that does not is written.

Source: original work.
"""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trocr.export.errors import ExportError
from trocr.export.graph_model import GraphModel
from trocr.export.tracing import image_shape, takes_any_width
from trocr.generation import GenerateOutput
from trocr.generation.rules import as_ids
from trocr.models import VisionEncoderDecoderModel

NUM_RANDOM = 3
RANDOM_TOKENS = 12
"""Tokens that are read in each random image: there is no text in noise that could end."""
BEAMS = 3

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Largest difference of scores, relative to the largest of them. In float32 sums in another order differ by
some 1e-5; half precisions round at 2^-9 and 2^-12 in other places."""

INT8_AGREEMENT = {"images": 0.95, "noise": 0.6}
"""Least share of tokens that int8 must choose as float32 does, each after the same text. In noise many tokens
are about equally likely; `trocr.evaluation.gate` has the bounds for texts of real lines."""


@dataclass(frozen=True)
class Agreement:
    """How an exported model and the one it comes from read the same images.

    Attributes:
        images: that both read.
        same: images whose tokens are the same, read greedily.
        tokens: that the model wrote.
        agreeing: of them, those that the exported model would write after the same text.
        difference: largest difference of scores, relative to the largest score.
    """

    images: int
    same: int
    tokens: int
    agreeing: int
    difference: float

    @property
    def share(self) -> float:
        """Share of tokens that agree."""
        return self.agreeing / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def random_images(model: VisionEncoderDecoderModel) -> Tensor:
    """Noise (B, C, height, width), always the same."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(NUM_RANDOM, *image_shape(model), generator=random)


@torch.no_grad()
def compare(
    model: VisionEncoderDecoderModel,
    exported: GraphModel,
    pixel_values: Tensor | None = None,
    *,
    min_agreement: float | None = None,
) -> Agreement:
    """Read images with both models.

    Args:
        model: in evaluation mode.
        exported: what was made of it.
        pixel_values: (B, C, height, width), or None for noise.
        min_agreement: least share of tokens that agree; None asks for the same tokens, greedily and with
            beams, and for scores within `TOLERANCE`.
    Raises:
        ExportError: they do not read the same.
    """
    limit = RANDOM_TOKENS if pixel_values is None else None
    pixels = random_images(model) if pixel_values is None else pixel_values
    if pixels.dim() != 4 or len(pixels) == 0:
        raise ExportError(
            f"the images of the check have shape {tuple(pixels.shape)}, expected (images, channels, height, "
            "width) with at least one image"
        )
    tokens, theirs = _tokens(model, pixels, 1, limit), _tokens(exported, pixels, 1, limit)
    scores, other = _scores(model, pixels, tokens), _scores(exported, pixels, tokens)
    counted = _counted(tokens, as_ids(model.generation_config.eos_token_id))
    found = Agreement(
        images=len(tokens),
        same=sum(_same(one, two) for one, two in zip(tokens.tolist(), theirs.tolist(), strict=True)),
        tokens=int(counted.sum()),
        agreeing=int((counted & (scores.argmax(dim=2) == other.argmax(dim=2))).sum()),
        difference=float((scores - other).abs().max() / scores.abs().max()),
    )
    problems = _problems(found, exported.manifest.dtype, min_agreement)
    if min_agreement is None and not problems:
        beams = [_tokens(reader, pixels[:2], BEAMS, limit) for reader in (model, exported)]
        if not torch.equal(*beams):
            problems.append(f"with {BEAMS} beams the tokens differ")
        problems += _at_half_width(model, exported, pixels)
    if problems:
        raise ExportError(
            f"the exported model does not read as the model does: {'; '.join(problems)}. Nothing is written"
        )
    return found


def _problems(found: Agreement, dtype: str, min_agreement: float | None) -> list[str]:
    measured = f"the scores differ by {found.difference:.2g} of the largest"
    if not found.difference < float("inf"):
        return ["it gives scores that are no numbers"]
    if min_agreement is not None:
        if found.share >= min_agreement:
            return []
        return [
            f"{found.agreeing} of {found.tokens} tokens agree ({found.share:.3f}), expected at least "
            f"{min_agreement:g}, and {measured}"
        ]
    problems = []
    if dtype == "float32" and found.same < found.images:
        problems.append(f"{found.images - found.same} of {found.images} images have other tokens")
    if found.difference > TOLERANCE[dtype]:
        problems.append(f"{measured}, expected at most {TOLERANCE[dtype]:g}")
    return problems


def _tokens(reader: Any, pixels: Tensor, beams: int, limit: int | None) -> Tensor:
    options: dict[str, Any] = {
        "num_beams": beams,
        "num_return_sequences": 1,
        "do_sample": False,
        "return_dict_in_generate": True,
        **dict.fromkeys(("output_attentions", "output_hidden_states", "output_scores"), False),
    }
    if limit is not None:
        room = reader.config.decoder.max_position_embeddings
        options["max_new_tokens"] = min(limit, room - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that are cut, options without effect beside beams
        out = reader.generate(pixels, **options)
    assert isinstance(out, GenerateOutput)
    return out.sequences


def _scores(reader: Any, pixels: Tensor, tokens: Tensor) -> Tensor:
    """Scores (B, T-1, V) of what follows each token but the last."""
    memory = reader.memory(reader.encode(pixels))
    out = reader.decoder(input_ids=tokens[:, :-1], encoder_hidden_states=memory, use_cache=False)
    return out.logits.float()


def _counted(tokens: Tensor, ends: tuple[int, ...]) -> Tensor:
    """Which of the new tokens (B, T-1) belong to a text: those up to the first end token."""
    ended = torch.isin(tokens[:, 1:], torch.tensor(ends, dtype=torch.long)).long()
    return ended.cumsum(dim=1) - ended == 0


def _same(one: list[int], other: list[int]) -> bool:
    """Whether rows are equal but for padding, which repeats the last token or is short of it."""
    short = min(len(one), len(other))
    return one[:short] == other[:short] and len(set(one[short:] + other[short:])) <= 1


def _at_half_width(model: VisionEncoderDecoderModel, exported: GraphModel, pixels: Tensor) -> list[str]:
    if not takes_any_width(model):
        return []
    embeddings = model.encoder.embeddings
    narrow = pixels[:1, ..., : max(1, embeddings.grid[1] // 2) * embeddings.patch_hw[1]]
    states = [reader.encode(narrow, crop_pos_encoding=True).last_hidden_state for reader in (model, exported)]
    difference = float((states[0] - states[1]).abs().max() / states[0].abs().max())
    tolerance = TOLERANCE[exported.manifest.dtype]
    if difference <= tolerance:
        return []
    return [f"at half the width the encoder's states differ by {difference:.2g}, expected {tolerance:g}"]
