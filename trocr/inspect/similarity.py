"""How alike two models' activations are, layer by layer: linear CKA.

Source: arXiv:1905.00414 sec. 3.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from trocr.inspect.hooks import capture
from trocr.inspect.reading import evaluating, read_image, token_name
from trocr.inspect.taps import check_model, is_patch_encoder
from trocr.models import VisionEncoderDecoderModel
from trocr.outputs import BaseModelOutput
from trocr.processor import TrOCRProcessor
from trocr.surgery.patterns import SurgeryError

MAX_ROWS = 2048
"""Rows of activations that CKA is computed on, at most, spread evenly over those of all images."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Similarity of two sets of activations of the same inputs: 1 if equal but for rotation, scale, shift.

    Args:
        x: (n, d) rows of one input each.
        y: (n, d') of the same inputs.
    Returns:
        0 to 1. With fewer rows than features it is high for anything: give several times as many.
    Raises:
        SurgeryError: the rows are not as many, fewer than two, all the same, or hold NaN or infinity.
    Source: arXiv:1905.00414 sec. 3, linear kernel, in the form of features: |Y'X|^2 / (|X'X| |Y'Y|).
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < 2:
        raise SurgeryError(
            f"CKA of activations {tuple(x.shape)} and {tuple(y.shape)}: expected two tables of equally many "
            "rows, two at least"
        )
    problem = _problem(x) or _problem(y)
    if problem:
        raise SurgeryError(f"CKA of activations that {problem}: give more, or other, images")
    x, y = x.double() - x.double().mean(dim=0), y.double() - y.double().mean(dim=0)
    if len(x) < min(x.shape[1], y.shape[1]):  # the same number from the smaller products
        gram_x, gram_y = x @ x.T, y @ y.T
        together, own_x, own_y = (gram_x * gram_y).sum(), gram_x.norm(), gram_y.norm()
    else:
        together, own_x, own_y = (y.T @ x).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    return float(together / (own_x * own_y))


def _problem(rows: Tensor) -> str:
    """Why rows cannot be compared, if so."""
    if not bool(rows.isfinite().all()):
        return "are not all finite"
    return "are the same in every row" if bool((rows == rows[0]).all()) else ""


@dataclass(frozen=True, kw_only=True)
class ActivationComparison:
    """CKA between the layers of two models.

    Attributes:
        layers: stack ("encoder", "decoder") -> names of the layers of the two models.
        cka: stack -> [layer of a][layer of b]; NaN where one of them has no CKA, as a note says.
        rows: stack -> number of rows that it is computed on.
        notes: what could not be compared, or is doubtful.
    """

    layers: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    cka: Mapping[str, tuple[tuple[float, ...], ...]]
    rows: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None stands for NaN."""
        cka = {
            stack: [[None if math.isnan(value) else value for value in row] for row in table]
            for stack, table in self.cka.items()
        }
        return {**asdict(self), "cka": cka}

    def table(self) -> str:
        """Lay out for a terminal: layers of the first model down, of the second across."""
        lines = []
        for stack, (down, across) in self.layers.items():
            width = max(map(len, down))
            columns = [max(5, len(name)) for name in across]
            lines.append(f"{stack}: linear CKA on {self.rows[stack]} rows, layers of A down, of B across")
            lines.append(
                "  ".join(["".ljust(width), *(n.rjust(w) for n, w in zip(across, columns, strict=True))])
            )
            lines += [
                "  ".join(
                    [name.ljust(width), *(_cell(v).rjust(w) for v, w in zip(row, columns, strict=True))]
                )
                for name, row in zip(down, self.cka[stack], strict=True)
            ]
        return "\n".join([*lines, *self.notes])


def compare_activations(
    a: VisionEncoderDecoderModel,
    b: VisionEncoderDecoderModel,
    images: Iterable[Any],
    *,
    processor: TrOCRProcessor,
    other_processor: TrOCRProcessor | None = None,
) -> ActivationComparison:
    """Compare the residual streams of two models after every block, on the same images and the same texts.

    Rows are encoder tokens, prefix tokens included, and the decoder positions of what the first model reads;
    the second model's decoder gets the same tokens. A stack is left out, with a note, where its rows do not
    stand for the same: encoders of other grids, decoders that know the tokens by other numbers.

    Args:
        a: the first model.
        b: the second; other widths and depths are fine.
        images: each whatever `trocr.image.open_image` takes.
        processor: of the first model.
        other_processor: of the second; None means that it is the same.
    Raises:
        SurgeryError: no such model, no image, or neither stack can be compared.
        ImageError: an image cannot be read.
    Source: arXiv:1905.00414.
    """
    check_model(a)
    check_model(b)
    sources = list(images)
    if not sources:
        raise SurgeryError("no image was given, expected at least one to compare activations on")
    other = other_processor or processor
    skip = {stack: why for stack, why in (("encoder", _other_places(a, b)),) if why}
    each = max(1, MAX_ROWS // len(sources))
    collected: dict[str, tuple[Layers, Layers]] = {"encoder": ({}, {}), "decoder": ({}, {})}
    for source in sources:
        reading = read_image(a, processor, source)
        pixels = other.image_processor(reading.picture, return_tensors="pt")["pixel_values"].to(b.device)
        if "decoder" not in skip and (why := _other_tokens(reading.ids, b, processor, other)):
            skip["decoder"] = why
        ids = None if "decoder" in skip else reading.ids
        for place, (model, values) in enumerate(((a, reading.pixel_values), (b, pixels))):
            states, decoded = _residuals(model, values, ids)
            for stack, layers in (("encoder", states), ("decoder", decoded)):
                for name, state in layers.items():
                    collected[stack][place].setdefault(name, []).append(_spread(state, each))
    return _compared(collected, skip)


Layers = dict[str, list[Tensor]]
"""Layer -> rows (n, D) of each image."""


def _other_places(a: VisionEncoderDecoderModel, b: VisionEncoderDecoderModel) -> str:
    """Why the states of two encoders do not stand for the same places of an image, if so."""
    found = [_places(model) for model in (a, b)]
    if None in found or found[0] == found[1]:
        return ""
    told = [f"{p[0]} + {p[1][0]} x {p[1][1]}" for p in found if p]
    return f"the encoders give {told[0]} and {told[1]} states (prefix tokens + rows x columns of places)"


def _places(model: VisionEncoderDecoderModel) -> tuple[int, tuple[int, int]] | None:
    """Prefix tokens and (rows, columns) of an encoder; None where they are not known."""
    try:
        return model.encoder.embeddings.num_prefix, model.encoder.embeddings.grid
    except (AttributeError, ValueError):
        return None


def _other_tokens(
    ids: Tensor, b: VisionEncoderDecoderModel, processor: TrOCRProcessor, other: TrOCRProcessor
) -> str:
    """Why a decoder cannot be given the tokens that another one wrote, if so."""
    written = ids[0].tolist()
    room, rows = b.config.decoder.max_position_embeddings, b.config.decoder.vocab_size
    if len(written) - 1 > room:
        return f"a text of {len(written) - 1} tokens is more than the {room} positions of B"
    if max(written) >= rows:
        return f"the text has the token {max(written)}, and B has {rows} only"
    names = [[token_name(one.tokenizer, id) for id in written] for one in (processor, other)]
    return "" if names[0] == names[1] else "the tokenizers have other vocabularies"


@torch.no_grad()
def _residuals(
    model: VisionEncoderDecoderModel, pixels: Tensor, ids: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States (n, D) after each layer of the encoder, and of the decoder where it gets ids."""
    encoder, decoder = model.encoder, model.decoder
    layers: dict[str, str] = {}
    if is_patch_encoder(encoder):
        layers["encoder.embeddings"] = "embeddings"
        layers |= {f"encoder.blocks.{i}.mlp_resid": f"block {i}" for i in range(len(encoder.blocks))}
    layers |= {"enc_to_dec_proj": "memory"}
    deeper = {"decoder.embed_norm": "embeddings"}
    deeper |= {f"decoder.blocks.{i}.mlp_norm": f"block {i}" for i in range(len(decoder.blocks))}
    with evaluating(model), capture(model, [*layers, *deeper]) as captured:
        memory = model.memory(BaseModelOutput.of(model.encode(pixels)))
        if ids is not None:
            decoder(input_ids=ids[:, :-1].to(model.device), encoder_hidden_states=memory, use_cache=False)
    states, decoded = (
        {label: captured[name][0][0].float().cpu() for name, label in table.items() if captured[name]}
        for table in (layers, deeper)
    )
    return states, decoded


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def _compared(
    collected: Mapping[str, tuple[Layers, Layers]], skip: Mapping[str, str]
) -> ActivationComparison:
    layers, cka, rows, notes = {}, {}, {}, []
    for stack, (first, second) in collected.items():
        if stack in skip:
            notes.append(f"{stack}: not compared, {skip[stack]}")
            continue
        x, y = ({name: torch.cat(parts) for name, parts in found.items()} for found in (first, second))
        counts = [len(next(iter(found.values()))) for found in (x, y)]
        if counts[0] != counts[1]:
            notes.append(f"{stack}: not compared, the models have {counts[0]} and {counts[1]} tokens")
            continue
        if counts[0] < 2:
            notes.append(f"{stack}: not compared, {counts[0]} row is too little; give more images")
            continue
        bad = [{name: why for name, rows in found.items() if (why := _problem(rows))} for found in (x, y)]
        layers[stack] = tuple(x), tuple(y)
        cka[stack] = tuple(
            tuple(
                math.nan if one in bad[0] or other in bad[1] else linear_cka(x[one], y[other]) for other in y
            )
            for one in x
        )
        rows[stack] = counts[0]
        for letter, problems in zip("AB", bad, strict=True):
            notes += [f"{stack}: activations of {letter}'s {name} {why}" for name, why in problems.items()]
        width = max(state.shape[1] for state in (*x.values(), *y.values()))
        if counts[0] < 2 * width:
            notes.append(
                f"{stack}: {counts[0]} rows for up to {width} features make CKA high for anything; give more "
                "images"
            )
    if not layers:
        raise SurgeryError(f"nothing could be compared: {'; '.join(notes)}")
    return ActivationComparison(layers=layers, cka=cka, rows=rows, notes=tuple(notes))


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
