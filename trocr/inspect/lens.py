"""The logit lens: what each decoder block's output would write if it were the last one.

A block's output goes through the output projection as it is. A TrOCR decoder norms after it adds and has no
norm behind its last block, so every block's output is normed already, and the last layer is the model's own
answer. How far a lower block speaks the output's language is what the lens shows; nothing made it do so.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
Differs: no final norm before the projection, since there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trocr.inspect.hooks import capture
from trocr.inspect.reading import evaluating, read_image, token_name
from trocr.inspect.taps import check_model
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.patterns import SurgeryError


@dataclass(frozen=True, kw_only=True)
class Lens:
    """The most probable tokens of each layer. L layers, N tokens that were written, k candidates.

    Attributes:
        source: the path that was given, or "image".
        text: what the model read.
        layers: L names: "embeddings", "block 0" ...
        tokens: N names of the tokens that were written.
        names: [layer][token][rank] of the candidates.
        ids: (L, N, k) of the candidates, the most probable first.
        probs: (L, N, k) their probabilities, float32.
        written: (L, N) probability of the token that was written.
    """

    source: str
    text: str
    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    names: tuple[tuple[tuple[str, ...], ...], ...]
    ids: Tensor
    probs: Tensor
    written: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": self.source,
            "text": self.text,
            "tokens": [
                {
                    "token": token,
                    "layers": [
                        {
                            "layer": layer,
                            "written": round(float(self.written[level, place]), 6),
                            "top": [
                                {"id": int(id), "token": name, "prob": round(float(prob), 6)}
                                for id, name, prob in zip(
                                    self.ids[level, place],
                                    self.names[level][place],
                                    self.probs[level, place],
                                    strict=True,
                                )
                            ],
                        }
                        for level, layer in enumerate(self.layers)
                    ],
                }
                for place, token in enumerate(self.tokens)
            ],
        }

    def table(self) -> str:
        """Lay out for a terminal: a row for each token, a column for each layer, k lines in a row."""
        head = ["token", *self.layers]
        lines = [head]
        for place, token in enumerate(self.tokens):
            for rank in range(self.ids.shape[2]):
                cells = [
                    f"{names[place][rank]!r} {float(probs[place, rank]):.2f}"
                    for names, probs in zip(self.names, self.probs, strict=True)
                ]
                lines.append([repr(token) if rank == 0 else "", *cells])
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        rows = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )
        return "\n".join([f"{self.source}: {self.text}", *(row.rstrip() for row in rows)])


@torch.no_grad()
def logit_lens(
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    image: Any,
    *,
    top_k: int = 3,
    **options: Any,
) -> Lens:
    """Read an image and tell what each decoder layer would have written, position by position.

    Args:
        model: the model.
        processor: the model's own.
        image: whatever `trocr.image.open_image` takes.
        top_k: candidates of each layer and position.
        options: of `generate`, and `native_width` as in `attention_maps`. Each position sees the tokens that
            were written before it.
    Raises:
        SurgeryError: no such model, `top_k` is below 1 or above the vocabulary, or an option that is set
            here.
        ImageError: the image cannot be read.
    Source: see the module.
    Differs: the layer "embeddings", before the first block, is shown too.
    """
    check_model(model)
    size = model.config.decoder.vocab_size
    if not 1 <= top_k <= size:
        raise SurgeryError(f"top_k is {top_k}, expected 1 to {size}, the size of the vocabulary")
    reading = read_image(model, processor, image, **options)
    states = _layer_states(model, reading.ids, reading.memory)
    written = reading.ids[:, 1:, None]  # (1, N, 1)
    probs, ids, chances = [], [], []
    for state in states.values():
        found = model.decoder.output_projection(state).float().softmax(dim=-1)  # (1, N, V)
        top = found.topk(top_k, dim=-1)
        probs.append(top.values[0])
        ids.append(top.indices[0])
        chances.append(found.gather(-1, written)[0, :, 0])
    chosen = torch.stack(ids).cpu()
    return Lens(
        source=reading.source,
        text=reading.text,
        layers=tuple(states),
        tokens=reading.tokens,
        names=tuple(
            tuple(tuple(token_name(processor.tokenizer, id) for id in row) for row in layer)
            for layer in chosen.tolist()
        ),
        ids=chosen,
        probs=torch.stack(probs).cpu(),
        written=torch.stack(chances).cpu(),
    )


def _layer_states(model: VisionEncoderDecoderModel, ids: Tensor, memory: Tensor) -> dict[str, Tensor]:
    """States (1, N, D) that predict the N tokens after the start token, by layer."""
    taps: Sequence[str] = ["embed_norm", *(f"blocks.{i}.mlp_norm" for i in range(len(model.decoder.blocks)))]
    with evaluating(model), capture(model.decoder, taps) as captured:
        model.decoder(input_ids=ids[:, :-1], encoder_hidden_states=memory, use_cache=False)
    return {
        "embeddings" if tap == "embed_norm" else f"block {tap.split('.')[1]}": calls[0]
        for tap, calls in captured.items()
    }
