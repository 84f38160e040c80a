"""The loop of generation with a draft: guess some tokens, score all in one call, keep what is right.

Every token is chosen from the model's own scores by the same processors and the same chooser as without a
draft, one after the other; a guess only decides how many of them one call of the decoder gives. All rows of a
batch advance by as many tokens as the row that took the fewest.

Source: arXiv:2211.17192 and arXiv:2302.01318, whose acceptance is this for greedy search.
Differs: a row that ended no longer holds the others back.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from trocr.generation.drafts import Draft, Proposer
from trocr.generation.loop import Trace
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.processors import Processor
from trocr.generation.search import TokenChooser
from trocr.generation.session import Session


def check_draft(options: GenerationConfig) -> None:
    """Check that options leave a draft something to do.

    Raises:
        GenerationError: beams, sampling, no cache, or attentions and hidden states of every step.
    """
    problems = []
    if (options.num_beams or 1) > 1:
        problems.append(f"num_beams={options.num_beams}: it guesses for one row of an image (num_beams=1)")
    if options.do_sample:
        problems.append("do_sample=True: it is exact for the most probable token alone (do_sample=False)")
    if options.use_cache is False:
        problems.append("use_cache=False: without a cache nothing is saved (use_cache=True)")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(options, name) and options.return_dict_in_generate:
            problems.append(f"{name}=True: several tokens are computed in one step")
    if problems:
        raise GenerationError(f"a draft does not go together with {'; '.join(problems)}")


@torch.no_grad()
def speculative_steps(
    session: Session,
    chooser: TokenChooser,
    process: Processor,
    trace: Trace,
    draft: Draft,
    proposer: Proposer,
) -> Iterator[Tensor]:
    """Generate, with as many tokens from one call of the decoder as were guessed right, and one more.

    Args:
        session: the model's side, one row for each image.
        chooser: holds the rows and the results.
        process: processors of the scores.
        trace: keeps what is wanted of every step.
        draft: says how many tokens to guess, and counts.
        proposer: guesses.
    Yields:
        (R,) the newest token of every row, token by token as without a draft.
    """
    done, traced = False, trace.with_logits or trace.with_scores
    while not done:
        guesses = _guess(session, chooser, draft, proposer)
        length = len(guesses[0])
        ahead = torch.tensor(guesses, device=chooser.ids.device) if length else None
        logits = session.score(chooser.ids, ahead)  # (R', k+1, V)
        draft.counts.calls += 1
        draft.counts.guessed += length
        for place in range(length + 1):
            step = logits[:, place]
            scores = process(chooser.ids, chooser.prepare(step))
            if trace.with_logits:
                trace.logits.append(step)
            if trace.with_scores:
                trace.scores.append(scores)
            before = chooser.open
            choice = chooser.choose(scores, tuple(trace.scores) if trace.with_scores else None)
            done = choice.done
            if choice.rows is not None and not done:
                session.follow(choice.rows)
                proposer.follow(choice.rows)
                logits = logits[choice.rows]
                guesses = [guesses[row] for row in choice.rows.tolist()]
            yield choice.tokens
            # a row that just ended need not be right, unless the scores that follow in it are kept
            rows = before if done or traced else chooser.open
            is_right = place < length and all(chooser.newest[row] == guesses[row][place] for row in rows)
            draft.counts.accepted += is_right
            if done or not is_right:
                break
        session.truncate(chooser.ids.shape[1] - 1)
    proposer.finish(chooser.results().sequences)


def _guess(
    session: Session, chooser: TokenChooser, draft: Draft, proposer: Proposer
) -> Sequence[Sequence[int]]:
    """Give equally long guesses for all rows that are computed, padding after an end token."""
    num_rows, ends = len(chooser.ids), chooser.stop.ends
    filler, padding = chooser.pad_token_id or 0, getattr(session.decoder.config, "pad_token_id", None)
    # the last token of a row is never read
    most = min(draft.num_tokens, chooser.stop.max_length - chooser.ids.shape[1] - 1)
    unread = [[token] for token in chooser.newest] if chooser.newest else chooser.ids.tolist()
    # sinusoidal positions are counted without padding inside one call, and with it across calls
    if most < 1 or any(padding in unread[row] for row in chooser.open):
        return [[]] * num_rows
    found = proposer.propose(chooser.ids, most, chooser.open)
    length, longest = most, 0
    guesses = [[filler] * most for _ in range(num_rows)]
    for row in chooser.open:
        guess = _cut(found[row][:most], {*ends, padding}, session.decoder.config.vocab_size)
        guesses[row][: len(guess)] = guess
        longest = max(longest, len(guess))
        if not (guess and guess[-1] in ends):
            length = min(length, len(guess))
    length = min(length, longest)
    return [guess[:length] for guess in guesses]


def _cut(guess: Sequence[int], last: Collection[int | None], vocab_size: int) -> list[int]:
    """End a guess with the first of its tokens that is one of `last`.

    Raises:
        GenerationError: a token outside the vocabulary.
    """
    kept: list[int] = []
    for token in guess:
        if not 0 <= token < vocab_size:
            raise GenerationError(
                f"the draft guessed token {token}, the model's vocabulary has ids 0 to {vocab_size - 1}"
            )
        kept.append(token)
        if token in last:
            break
    return kept
