"""A toy model whose scores are a table: easy to reason about, and to search exhaustively."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from trocr.generation import GenerationConfig
from trocr.outputs import BaseModelOutput, CausalLMOutput

PAD, START, EOS = 1, 2, 2
OPTIONS = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=START, bos_token_id=0)


class ToyCache:
    """Remembers the rows it was told about, as `DecoderCache` remembers keys."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.selected: list[list[int]] = []
        self.kept_images: list[list[int]] = []

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def truncate(self, length: int) -> None:
        self.ids = self.ids[:, :length]

    def select(self, rows: Tensor) -> None:
        self.selected.append(rows.tolist())
        self.ids = self.ids[rows]

    def keep_images(self, rows: Tensor) -> None:
        self.kept_images.append(rows.tolist())


@dataclass
class ToyDecoder:
    """Scores of the next token depend on image, last token and length: `table[image, token, step]`.

    With a cache it sees the last tokens only, and goes by the row that the cache holds.
    """

    table: Tensor  # (images, V, steps, V)
    max_positions: int = 20
    calls: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(vocab_size=self.table.shape[1], max_position_embeddings=self.max_positions)

    def __call__(self, *, input_ids: Tensor, **rest: Any) -> CausalLMOutput:
        self.calls.append(tuple(input_ids.shape))
        cache = rest["past_key_values"]
        ids = input_ids if cache is None else torch.cat((cache.ids, input_ids), dim=1)
        if rest["use_cache"] and cache is None:
            cache = ToyCache(ids)
        elif cache is not None:
            cache.ids = ids
        memory = rest["encoder_hidden_states"]
        group = 1 if memory is None else ids.shape[0] // memory.shape[0]
        images = torch.zeros(ids.shape[0], dtype=torch.long)
        if memory is not None:
            images = memory[:, 0, 0].long().repeat_interleave(group)
        places = range(ids.shape[1] - rest.get("logits_to_keep", 1), ids.shape[1])
        steps = self.table.shape[2]
        logits = [self.table[images, ids[:, place], place % steps] for place in places]
        return CausalLMOutput(logits=torch.stack(logits, dim=1), past_key_values=cache)


@dataclass
class ToyModel:
    """Images whose first pixel says which table applies."""

    decoder: ToyDecoder
    generation_config: GenerationConfig = OPTIONS
    encoded: int = 0

    def encode(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        self.encoded += 1
        return BaseModelOutput(last_hidden_state=pixel_values[:, 0, :1, :1])

    def memory(self, encoded: BaseModelOutput) -> Tensor:
        return encoded.last_hidden_state


def toy(
    *, num_images: int = 3, vocab_size: int = 8, steps: int = 6, seed: int = 0, scale: float = 2.0
) -> ToyModel:
    """A toy model with a random table."""
    random = torch.Generator().manual_seed(seed)
    table = torch.randn(num_images, vocab_size, steps, vocab_size, generator=random) * scale
    return ToyModel(ToyDecoder(table))


def pixels(*images: int) -> Tensor:
    """Pixel values (B, 1, 1, 1) of the given toy images."""
    return torch.tensor(images, dtype=torch.float32)[:, None, None, None]


def spell(*sequences: list[int], vocab_size: int = 8, steps: int = 20) -> ToyModel:
    """A toy model that writes the given tokens, one sequence for each image, with certainty."""
    table = torch.full((len(sequences), vocab_size, steps, vocab_size), -9.0)
    for image, tokens in enumerate(sequences):
        for step, token in enumerate(tokens):
            table[image, :, step, token] = 9.0
    return ToyModel(ToyDecoder(table))
