"""Beam search: the chooser that follows several rows of every image at once.

Source: `transformers` 5.23 (`_beam_search`), whose order of operations is kept so that results with equal
scores come out in the same order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trocr.generation.ranker import WORST, Finished, Rules, take
from trocr.generation.search import Choice, DropRule, Hypotheses, half_of_many
from trocr.generation.stopping import Stop


class BeamChooser:
    """Keeps the best `num_beams` rows of every image running, and the best finished ones beside them.

    In every step the best continuations of all rows of an image compete. More are looked at than there are
    beams, so that enough remain when many of them end. Of these the best `num_beams` may become results.

    Args:
        ids: (B*n, T) the rows' start, n equal rows for each image.
        stop: says when a row is finished.
        rules: how results are ranked and when the search ends.
        num_beams: n, rows per image.
        num_results: results per image, at most n.
        fill: id after the end of results.
        sample: draw continuations by their probability instead of taking the best.
        generator: random numbers for drawing; None is torch's own.
        with_log_probs: follow the log-probabilities of the chosen tokens.
        may_drop: stop computing images that are settled once `drops` says so. Not for sampling, where random
            numbers would then fall to other images.
        drops: asked with the number of rows that are computed, and how many of them are of settled images.
    """

    def __init__(
        self,
        ids: Tensor,
        stop: Stop,
        rules: Rules,
        *,
        num_beams: int,
        num_results: int,
        fill: int,
        sample: bool = False,
        generator: torch.Generator | None = None,
        with_log_probs: bool = False,
        may_drop: bool = False,
        drops: DropRule = half_of_many,
    ) -> None:
        self.ids = ids
        self.stop = stop
        self.rules = rules
        self.num_beams = num_beams
        self.num_results = num_results
        self.sample = sample
        self.generator = generator
        self.with_log_probs = with_log_probs
        self.may_drop = may_drop
        self.drops = drops
        self._prefix = ids.shape[1]
        self._num_candidates = max(2, 1 + len(stop.end_tokens)) * num_beams
        images = ids.shape[0] // num_beams
        sequences = ids.new_full((images, num_beams, stop.max_length), fill)
        sequences[:, :, : self._prefix] = ids.view(images, num_beams, -1)
        rows = ids.new_full((images, num_beams, stop.max_length - self._prefix), -1)
        self._images = torch.arange(images, device=ids.device)  # those that are still searched
        self._settled: list[tuple[Tensor, Finished]] = []  # images that are not, with their results
        self._finished = Finished.empty(rules, sequences, rows)
        self._rows = rows[:, :, :0]
        # all rows of an image begin alike: only the first may win in the first step
        self._sums = torch.full((images, num_beams), WORST, device=ids.device)
        self._sums[:, 0] = 0.0
        self._history = [self._sums]

    def prepare(self, logits: Tensor) -> Tensor:
        """Turn logits into log-probabilities, which can be added up."""
        return logits.log_softmax(dim=-1)

    def choose(self, scores: Tensor, earlier: Sequence[Tensor] | None) -> Choice:
        """Let the continuations of every image's rows compete."""
        images, beams = self._sums.shape
        sums, parents, tokens = self._candidates(scores.view(images, beams, -1))
        sequences = torch.cat((take(self.ids.view(images, beams, -1), parents), tokens[:, :, None]), dim=2)
        origin = parents + self._images[:, None] * beams  # counted over all images, searched or not
        rows = torch.cat((take(self._rows, parents), origin[:, :, None]), dim=2)
        done = self.stop(sequences.flatten(0, 1), earlier).view(images, -1)

        running = sums + done.float() * WORST
        best = running.topk(beams).indices
        self.ids = take(sequences, best).flatten(0, 1)
        self._rows = take(rows, best)
        self._sums = take(running, best)

        num_tokens = self.ids.shape[1] - self._prefix
        ended = done.clone()
        ended[:, beams:] = False
        self._finished.offer(sequences, rows, sums, ended, num_tokens)
        self._finished.lose_hope(self._sums, num_tokens)
        if self.with_log_probs:
            whole = torch.zeros_like(self._history[0])
            self._history.append(whole.index_copy_(0, self._images, self._sums))
        first = torch.arange(images, device=best.device)[:, None] * beams
        return self._next(take(parents, best) + first, done)

    def _next(self, kept: Tensor, done: Tensor) -> Choice:
        """Decide how the search goes on, given the row (B, n) that every row now continues."""
        moved = kept.flatten() != torch.arange(kept.numel(), device=kept.device)
        facts = (self._finished.open & ~done.all(), moved.any(), self._finished.hopeless.sum())
        more, has_moved, num_settled = torch.stack([fact.long() for fact in facts]).tolist()
        tokens, images = self.ids[:, -1], len(kept)
        if (
            self.may_drop
            and more
            and images > num_settled > 0
            and self.drops(len(tokens), num_settled * self.num_beams)
        ):
            searched = (~self._finished.hopeless).nonzero()[:, 0]
            settled = self._finished.hopeless.nonzero()[:, 0]
            self._settled.append((self._images[settled], self._finished.of_images(settled)))
            self._finished = self._finished.of_images(searched)
            self.ids = self.ids.view(images, self.num_beams, -1)[searched].flatten(0, 1)
            self._images, self._rows = self._images[searched], self._rows[searched]
            self._sums, kept, has_moved = self._sums[searched], kept[searched], True
        return Choice(tokens, kept.flatten() if has_moved else None, done=not more)

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pick continuations of (B, n, V) scores: summed log-probabilities, rows and tokens, each (B, K)."""
        vocab_size = scores.shape[2]
        sums = (scores + self._sums[:, :, None]).flatten(1)  # (B, n*V)
        if self.sample:
            places = torch.multinomial(sums.softmax(dim=-1), self._num_candidates, generator=self.generator)
            best = sums.gather(1, places)
        else:
            best, places = sums.topk(self._num_candidates)
        return best, places // vocab_size, places % vocab_size

    def results(self) -> Hypotheses:
        """Give every image's best results, best first."""
        parts = [*self._settled, (self._images, self._finished)]
        order = torch.cat([images for images, _ in parts]).argsort()
        held = Finished.join([finished for _, finished in parts]).of_images(order)
        rows = held.rows[:, : self.num_results].flatten(0, 1)
        scores = held.scores[:, : self.num_results].flatten()
        taken = held.taken[:, : self.num_results].flatten()
        lengths = (rows >= 0).sum(dim=1)
        longest = int(lengths.max())
        rows = rows[:, :longest]
        sequences = held.sequences[:, : self.num_results, : self._prefix + longest].flatten(0, 1)
        last = sequences.gather(1, (lengths + self._prefix - 1)[:, None]).squeeze(1)
        ended = self.stop.ended(last)
        return Hypotheses(
            sequences=sequences,
            token_log_probs=self._log_probs(rows, scores, lengths, taken) if self.with_log_probs else None,
            finished=taken & ended,
            cut=taken & ~ended & (lengths + self._prefix >= self.stop.max_length),
            scores=scores,
            rows=rows,
        )

    def _log_probs(self, rows: Tensor, scores: Tensor, lengths: Tensor, taken: Tensor) -> Tensor:
        """Differences of the summed log-probabilities along every result, (N, T')."""
        sums = torch.stack([step.flatten() for step in self._history[: rows.shape[1]]])  # (T', B*n)
        before = sums.gather(1, rows.clamp(min=0).t()).t()  # (N, T')
        total = (scores * lengths**self.rules.length_penalty)[:, None]
        after = torch.cat((before[:, 1:], total), dim=1)
        steps = torch.arange(rows.shape[1], device=rows.device)
        after = torch.where(steps == lengths[:, None] - 1, total, after)
        return torch.where((rows >= 0) & taken[:, None], after - before, 0.0)
