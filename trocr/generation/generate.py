"""`generate` and `stream`: options and inputs in, token ids out.

Source: `GenerationMixin.generate` of `transformers` 5.23 for arguments and their meaning.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from trocr.generation import processors
from trocr.generation.beam import BeamChooser
from trocr.generation.drafts import Draft, DraftSource, Proposer, draft_of
from trocr.generation.inputs import ImageInputs, Start, decoder_of
from trocr.generation.lengths import Length, resolve_length, warn_cut
from trocr.generation.loop import Trace, steps
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.processors import Processor
from trocr.generation.ranker import Rules
from trocr.generation.request import Request, check_vocabulary, sort_arguments
from trocr.generation.results import GenerateOutput
from trocr.generation.rules import as_ids
from trocr.generation.search import Chooser, DropRule, Hypotheses, TokenChooser, half_of_many
from trocr.generation.session import Record, Session
from trocr.generation.speculation import check_draft, speculative_steps
from trocr.generation.stopping import Stop
from trocr.generation.streaming import Outlet


def generate(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    **options: Any,
) -> Tensor | GenerateOutput:
    """Generate token ids, for images or as the continuation of tokens.

    Runs without gradients; whether the model is in evaluation mode is the caller's business.

    Args:
        model: a `VisionEncoderDecoderModel`, or a `TrOCRForCausalLM` alone.
        inputs: images (B, C, height, width), or ids (B, T) for a decoder alone; the same as `pixel_values=`
            or `input_ids=`.
        generation_config: options; what it leaves unset comes from `model.generation_config`.
        options: options by name, which go before both (see `GenerationConfig`; None switches one off); inputs
            (see `ImageInputs`, and `TextInputs` for a decoder alone); and the arguments of `Extras`.
    Returns:
        (B * num_return_sequences, T) ids from the start token on, padded at the right; or a `GenerateOutput`
        with `return_dict_in_generate=True`.
    Raises:
        GenerationError: unknown or contradictory options, inputs that do not fit, more tokens than positions.
    Warns:
        UserWarning: options without effect; rows cut at a limit that the caller did not set.
    Source: `GenerationMixin.generate` of `transformers` 5.23: the same tokens for the same weights and
        options.
    Differs: the default length is that of a line of text (see `lengths.py`), not 20 tokens.
    """
    job = prepare(model, inputs, generation_config, options)
    for _ in job.run():
        pass
    output = job.output()
    return output if job.options.return_dict_in_generate else output.sequences


def stream(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Generate and give the newest token of every row, step by step; arguments and errors as `generate`.

    Yields:
        (B * num_return_sequences,) ids; padding in rows that have ended.
    Raises:
        GenerationError: also with beams, whose tokens are not settled before the end.
    """
    job = prepare(model, inputs, generation_config, options, streams=True)
    return job.run()


@torch.no_grad()
def prepare(
    model: Any,
    inputs: Tensor | None,
    generation_config: GenerationConfig | None,
    arguments: dict[str, Any],
    *,
    streams: bool = False,
) -> "Job":
    """Check everything that can be checked, then encode the images; arguments as `generate`.

    Args:
        streams: whether tokens are handed out while they are generated.
    Raises:
        GenerationError: see `generate`.
    """
    request = sort_arguments(model, inputs, generation_config, arguments)
    options = request.options
    decoder, config = decoder_of(model)
    check_vocabulary(options, config.vocab_size)
    if (streams or request.extras.streamer is not None) and options.num_beams != 1:
        raise GenerationError(
            f"streaming needs num_beams=1, got {options.num_beams}: the tokens of beams settle at the end"
        )
    tokens = request.inputs.tokens(model, options)
    if request.extras.draft is not None:
        check_draft(options)
    length = resolve_length(
        options, request.chosen, prefix=tokens[0].shape[1], positions=config.max_position_embeddings
    )
    start = request.inputs.read(model, options, tokens)
    job = Job.of(request, decoder, length, start)
    return job if request.extras.draft is None else job.with_draft(request, config.vocab_size)


@dataclass(frozen=True)
class Job:
    """One call, ready to run."""

    options: GenerationConfig
    length: Length
    start: Start
    session: Session
    chooser: Chooser
    process: Processor
    trace: Trace
    outlet: Outlet
    draft: Draft | None = None
    proposer: Proposer | None = None

    @classmethod
    def of(cls, request: Request, decoder: Any, length: Length, start: Start) -> "Job":
        """Put the roles together."""
        options, extras = request.options, request.extras
        group = max(options.num_beams or 1, options.num_return_sequences or 1)
        ids = start.ids.repeat_interleave(group, dim=0)
        padding = start.padding
        keeps = options.return_dict_in_generate is True
        stop = Stop(
            end_tokens=as_ids(options.eos_token_id),
            max_length=length.most,
            max_time_s=options.max_time,
            criteria=tuple(extras.stopping_criteria or ()),
            device=ids.device,
        )
        process = processors.build(
            options,
            prefix=ids.shape[1],
            max_length=length.most,
            device=ids.device,
            padding=None if padding is None else padding.repeat_interleave(group),
            allowed=extras.prefix_allowed_tokens_fn,
            custom=tuple(extras.logits_processor or ()),
        )
        session = Session(
            decoder,
            memory=start.memory,
            group=group,
            keep_mask=start.keep_mask,
            use_cache=options.use_cache is True,
            record=Record(
                keeps and bool(options.output_attentions), keeps and bool(options.output_hidden_states)
            ),
        )
        trace = Trace(keeps and bool(options.output_logits), keeps and bool(options.output_scores))
        alike = padding is None and not (
            extras.logits_processor or extras.stopping_criteria or extras.prefix_allowed_tokens_fn
        )
        may_drop = alike and not (trace.with_logits or trace.with_scores or session.record.wanted)
        drops = getattr(decoder, "drops_rows", half_of_many)
        random = extras.random(ids.device)
        chooser = build_chooser(options, ids, stop, random, may_drop=may_drop, drops=drops)
        return cls(options, length, start, session, chooser, process, trace, Outlet(extras.streamer))

    def with_draft(self, request: Request, vocab_size: int) -> "Job":
        """Add the draft that a request asks for.

        Raises:
            GenerationError: it is no draft, or does not fit the model or the inputs.
        """
        draft = draft_of(request.extras.draft)
        inputs = request.inputs
        has_images = isinstance(inputs, ImageInputs) and isinstance(inputs.pixel_values, Tensor)
        source = DraftSource(
            prefix=self.start.ids.shape[1],
            vocab_size=vocab_size,
            end_tokens=frozenset(as_ids(self.options.eos_token_id)),
            memory=self.start.memory,
            keep_mask=self.start.keep_mask,
            encode=cast(ImageInputs, inputs).memory_of if has_images else None,
        )
        return replace(self, draft=draft, proposer=draft.start(source))

    def run(self) -> Iterator[Tensor]:
        """Generate, giving the newest tokens (R,) of every step."""
        self.outlet.start(self.chooser.ids)
        roles = (self.session, self.chooser, self.process, self.trace)
        if self.draft is None or self.proposer is None:
            made = steps(*roles)
        else:
            assert isinstance(self.chooser, TokenChooser)
            made = speculative_steps(self.session, self.chooser, *roles[2:], self.draft, self.proposer)
        for tokens in made:
            self.outlet.put(tokens)
            yield tokens
        self.outlet.end()

    def output(self) -> GenerateOutput:
        """Give the results, and warn about rows that were cut at a limit nobody chose."""
        found = self.chooser.results()
        warn_cut(self.length, int(found.cut.sum()), len(found.cut))
        record, trace, encoded = self.session.record, self.trace, self.start.encoded
        attentions = tuple(record.attentions) if record.with_attentions else None
        states = tuple(record.hidden_states) if record.with_hidden_states else None
        return GenerateOutput(
            sequences=found.sequences,
            sequences_scores=found.scores,
            scores=tuple(trace.scores) if trace.with_scores else None,
            logits=tuple(trace.logits) if trace.with_logits else None,
            beam_indices=found.rows,
            encoder_attentions=encoded.attentions if encoded is not None and record.with_attentions else None,
            encoder_hidden_states=encoded.hidden_states if encoded is not None and states else None,
            decoder_attentions=attentions if encoded is not None else None,
            cross_attentions=tuple(record.cross_attentions) if record.cross_attentions else None,
            decoder_hidden_states=states if encoded is not None else None,
            attentions=attentions if encoded is None else None,
            hidden_states=states if encoded is None else None,
            past_key_values=self.session.cache,
            finished=self._finished(found),
            token_log_probs=found.token_log_probs,
        )

    def _finished(self, found: Hypotheses) -> Tensor:
        """Ended by an end token; one that was forced at the maximum length does not count."""
        if self.options.forced_eos_token_id is None or found.sequences.shape[1] < self.length.most:
            return found.finished
        before = found.sequences[:, self.start.ids.shape[1] : -1]
        ends = torch.tensor(as_ids(self.options.eos_token_id), dtype=torch.long, device=before.device)
        return found.finished & torch.isin(before, ends).any(dim=1)


def build_chooser(
    options: GenerationConfig,
    ids: Tensor,
    stop: Stop,
    random: torch.Generator | None,
    *,
    may_drop: bool,
    drops: DropRule = half_of_many,
) -> Chooser:
    """Build the chooser that the options ask for: greedy, sampling or beams.

    Args:
        options: all options, defaults filled in.
        ids: (R, T) the rows' start.
        stop: says when a row is finished.
        random: random numbers for sampling.
        may_drop: whether rows that are finished need not be computed, when nothing is drawn.
        drops: when they are taken out of the batch.
    """
    keeps, sample = options.return_dict_in_generate is True, options.do_sample is True
    may_drop = may_drop and not sample
    pad, ends = options.pad_token_id, as_ids(options.eos_token_id)
    if options.num_beams is None or options.num_beams == 1:
        return TokenChooser(
            ids,
            stop,
            pad_token_id=pad,
            sample=sample,
            generator=random,
            with_log_probs=keeps,
            may_drop=may_drop,
            drops=drops,
        )
    rules = Rules(
        length_penalty=1.0 if options.length_penalty is None else options.length_penalty,
        early_stopping=options.early_stopping or False,
        max_new_tokens=stop.max_length - ids.shape[1],
    )
    return BeamChooser(
        ids,
        stop,
        rules,
        num_beams=options.num_beams,
        num_results=options.num_return_sequences or 1,
        # a padding id of 0 gives way to the end token, as in transformers
        fill=pad or (ends[0] if ends else 0),
        sample=sample,
        generator=random,
        with_log_probs=keeps,
        may_drop=may_drop,
        drops=drops,
    )
