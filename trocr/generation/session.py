"""The model's side of generation: scores the next token, and keeps the cache in step with the rows.

Source: original work; whisper's `Inference` for the idea of hiding cache and memory from the search.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.generation.options import GenerationError
from trocr.outputs import CausalLMOutput


class Decoder(Protocol):
    """What generation asks of a text decoder; `trocr.models.TrOCRForCausalLM` has it."""

    @property
    def config(self) -> Any:
        """A `TrOCRConfig`."""

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        past_key_values: DecoderCache | None,
        use_cache: bool,
        output_attentions: bool,
        output_hidden_states: bool,
        logits_to_keep: int,
    ) -> CausalLMOutput:
        """Score the last `logits_to_keep` tokens of (R, T) ids as (R, logits_to_keep, V) logits.

        A decoder may also have a method `drops_rows(num_rows, num_finished) -> bool` (`search.DropRule`): it
        says when rows that are finished are taken out of the batch, which is cheap for some.
        """


@dataclass
class Record:
    """Attentions and hidden states of every step, as the decoder gave them.

    Attributes:
        attentions, cross_attentions, hidden_states: one tuple over blocks per step, where asked for.
    """

    with_attentions: bool = False
    with_hidden_states: bool = False
    attentions: list[tuple[Tensor, ...]] = field(default_factory=list)
    cross_attentions: list[tuple[Tensor, ...]] = field(default_factory=list)
    hidden_states: list[tuple[Tensor, ...]] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether anything is kept."""
        return self.with_attentions or self.with_hidden_states

    def add(self, out: CausalLMOutput) -> None:
        """Keep what is wanted of one step."""
        if self.with_attentions and out.attentions is not None:
            self.attentions.append(out.attentions)
        if self.with_attentions and out.cross_attentions is not None:
            self.cross_attentions.append(out.cross_attentions)
        if self.with_hidden_states and out.hidden_states is not None:
            self.hidden_states.append(out.hidden_states)


class Session:
    """Scores the next token of rows that grow, `group` neighbouring rows for each image.

    The first call scores each image's start once and repeats it for the rows of the group; keys and values of
    the image are shared by them throughout.

    Args:
        decoder: the text decoder.
        memory: (B, S, D) encoder states, or None for a decoder alone.
        group: rows per image: beams, or results of sampling.
        keep_mask: (B, T) of the start, 1 = attend, or None where all of it counts.
        use_cache: keep keys and values of earlier tokens.
        record: what to keep beside the scores.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        memory: Tensor | None,
        group: int = 1,
        keep_mask: Tensor | None = None,
        use_cache: bool = True,
        record: Record | None = None,
    ) -> None:
        self.decoder = decoder
        self.memory = memory
        self.group = group
        self.keep_mask = keep_mask
        self.use_cache = use_cache
        self.record = record or Record()
        self.cache: DecoderCache | None = None
        self._started = False

    def next_logits(self, ids: Tensor) -> Tensor:
        """Score what follows rows (B*group, T) as float32 logits (B*group, V)."""
        if self._started:
            return self._run(ids[:, -1:] if self.use_cache else ids)
        self._started = True
        if self.group == 1 or self.record.wanted:
            self._spread_mask()
            return self._run(ids)
        logits = self._run(ids[:: self.group]).repeat_interleave(self.group, dim=0)
        if self.cache is not None:
            self.cache.select(torch.arange(ids.shape[0], device=ids.device) // self.group)
        self._spread_mask()
        return logits

    def score(self, ids: Tensor, ahead: Tensor | None = None) -> Tensor:
        """Score what follows rows, and what follows each of the tokens that might come next, in one call.

        Needs a cache, and one row for each image. The cache holds the tokens of `ahead` afterwards;
        `truncate` takes back those that do not come.

        Args:
            ids: (R, T) rows; what the cache does not hold of them is read.
            ahead: (R, k) tokens that may come next, or None.
        Returns:
            (R, k+1, V) float32 logits: after the row, and after each token of `ahead`.
        """
        self._started = True
        held = 0 if self.cache is None else self.cache.length
        num_ahead = 0 if ahead is None else ahead.shape[1]
        if self.keep_mask is not None:
            num_new = ids.shape[1] + num_ahead - self.keep_mask.shape[1]
            new = self.keep_mask.new_ones(len(ids), max(num_new, 0))
            self.keep_mask = torch.cat((self.keep_mask, new), dim=1)
        ids = ids[:, held:]
        if ahead is None or num_ahead == 0:
            return self._run(ids)[:, None]
        return self._run(torch.cat((ids, ahead), dim=1), keep=1 + num_ahead)

    def truncate(self, length: int) -> None:
        """Let the cache hold the first `length` tokens of every row, and no more.

        Raises:
            GenerationError: the decoder's cache cannot be cut back.
        """
        if self.cache is None or self.cache.length == length:
            return
        if not hasattr(self.cache, "truncate"):
            raise GenerationError(
                f"{type(self.cache).__name__} cannot forget tokens (it has no truncate), which a draft "
                "needs; leave draft out for this model"
            )
        self.cache.truncate(length)
        if self.keep_mask is not None:
            self.keep_mask = self.keep_mask[:, : length + 1]

    def _spread_mask(self) -> None:
        if self.keep_mask is not None:
            self.keep_mask = self.keep_mask.repeat_interleave(self.group, dim=0)

    def follow(self, rows: Tensor) -> None:
        """Make row i of the next call the continuation of what was row `rows[i]`, of the same image.

        Args:
            rows: (R',) as many as before, or fewer: images of which no row is named are forgotten.
        """
        if self.cache is not None:
            self.cache.select(rows)
        if self.memory is not None and len(rows) < self.memory.shape[0] * self.group:
            images = rows[:: self.group] // self.group
            self.memory = self.memory.index_select(0, images)
            if self.cache is not None:
                self.cache.keep_images(images)

    def _run(self, ids: Tensor, keep: int = 1) -> Tensor:
        out = self.decoder(
            input_ids=ids,
            attention_mask=self.keep_mask,
            encoder_hidden_states=self.memory,
            past_key_values=self.cache,
            use_cache=self.use_cache,
            output_attentions=self.record.with_attentions,
            output_hidden_states=self.record.with_hidden_states,
            logits_to_keep=keep,
        )
        self.cache = out.past_key_values
        self.record.add(out)
        if self.keep_mask is not None:
            self.keep_mask = torch.cat((self.keep_mask, torch.ones_like(self.keep_mask[:, :1])), dim=1)
        return (out.logits[:, -1] if keep == 1 else out.logits[:, -keep:]).float()
