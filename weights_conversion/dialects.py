"""All dialects, and which one a file is written in.

Source: the tables of this package.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from weights_conversion import hf
from weights_conversion.fairseq import FAIRSEQ
from weights_conversion.rename import Table
from weights_conversion.timm import TIMM

Part = Literal["model", "encoder", "decoder", "stack"]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A table and what it describes.

    Attributes:
        table: the rules.
        part: "model" (encoder and decoder), "encoder", "decoder" (with its output projection) or "stack"
            (a decoder without one).
        title: a phrase for people.
    """

    table: Table
    part: Part
    title: str


DIALECTS = (
    Dialect(table=hf.HF, part="model", title="Hugging Face, names in files"),
    Dialect(table=hf.HF_MEMORY, part="model", title="Hugging Face, names in memory of transformers 5"),
    Dialect(table=FAIRSEQ, part="model", title="unilm / fairseq"),
    Dialect(table=hf.HF_DECODER, part="decoder", title="Hugging Face TrOCRForCausalLM"),
    Dialect(table=hf.HF_STACK, part="stack", title="Hugging Face TrOCRDecoder"),
    Dialect(table=hf.HF_ENCODER, part="encoder", title="Hugging Face ViTModel or DeiTModel"),
    Dialect(table=hf.HF_ENCODER_MEMORY, part="encoder", title="the same, names in memory of transformers 5"),
    Dialect(table=hf.HF_VIT, part="encoder", title="Hugging Face ViT with a task head"),
    Dialect(table=hf.HF_DEIT, part="encoder", title="Hugging Face DeiT with a task head"),
    Dialect(table=TIMM, part="encoder", title="timm vision transformer"),
)


class DialectError(ValueError):
    """No dialect knows a file's tensor names."""


def recognize(names: Iterable[str], *, origin: str) -> Dialect:
    """Choose the dialect that knows most of the names; the first of `DIALECTS` on a draw.

    Raises:
        DialectError: none knows half of them.
    """
    names = list(names)
    best = max(DIALECTS, key=lambda dialect: dialect.table.knows(names))
    known = best.table.knows(names)
    if 2 * known < len(names) or not known:
        raise DialectError(
            f"{origin}: not a TrOCR, ViT or DeiT checkpoint: the nearest dialect ({best.title}) "
            f"knows {known} of {len(names)} tensor names; the first are {', '.join(names[:4])}"
        )
    return best
