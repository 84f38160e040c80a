"""A draft from texts: which token follows the last few, by counting; it costs next to nothing to ask.

Source: original work; n-grams as a cheap draft are arXiv:2211.17192's (sec. 4.4), and falling back to shorter
contexts is Katz's (1987).
"""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from torch import Tensor

from trocr.atomic_write import write_files
from trocr.generation.drafts import NUM_TOKENS, DraftCounts, DraftError, DraftSource, check_num_tokens
from trocr.generation.options import GenerationError

FORMAT = 1
"""Number of the file format."""
MAX_ENTRIES = 1_000_000
"""Pairs of context and follower that are kept by default, some 200 bytes each."""
BEGIN = -1
"""Stands for the start token in contexts, whatever its id is."""


class TextTokenizer(Protocol):
    """What `NGramDraft.from_texts` asks of a tokenizer; all of `trocr.tokenizers` have it."""

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Give `input_ids` of a text."""


class _Followers:
    """What was seen after one context: counts by token, their sum, and the token seen most often."""

    __slots__ = ("best", "counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.best = -1

    def add(self, token: int, count: int) -> bool:
        """Count a token, and say whether it is new here."""
        before = self.counts.get(token, 0)
        self.counts[token] = before + count
        self.total += count
        if self.best < 0 or before + count > self.counts[self.best]:
            self.best = token
        return before == 0

    @property
    def share(self) -> float:
        """Share of the best token; one case more is counted against it, so that seen once is no certainty."""
        return self.counts[self.best] / (self.total + 1)


class NGramDraft:
    """Guesses the token that most often followed the last few tokens, in texts or in lines read before.

    Of the contexts that were seen, the longest counts: the last `order - 1` tokens, then one less, down to
    one. A guess ends before a token that followed in less than `min_share` of the cases.

    One draft may serve any number of calls. With `learns=True` every call adds the rows that it generated.

    Args:
        order: n of the longest n-grams: a token and the `order - 1` before it; 2 or more.
        num_tokens: most tokens guessed at once.
        min_share: least share of a guess among what followed its context and one case more, 0 to 1.
        learns: count the rows of every call that uses the draft, once it is done.
        max_entries: pairs of context and follower to keep. Beyond, all counts are halved, and those that come
            to nothing are forgotten: what was seen once, or long ago.
    Raises:
        DraftError: numbers out of range.
    """

    def __init__(
        self,
        *,
        order: int = 6,
        num_tokens: int = NUM_TOKENS,
        min_share: float = 0.5,
        learns: bool = False,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        if isinstance(order, bool) or not isinstance(order, int) or order < 2:
            raise DraftError(f"order is {order!r}, expected a whole number, 2 or more")
        if not 0.0 <= min_share <= 1.0:
            raise DraftError(f"min_share is {min_share}, expected a share from 0 to 1")
        if max_entries < 1:
            raise DraftError(f"max_entries is {max_entries}, expected 1 or more")
        check_num_tokens(num_tokens)
        self.order = order
        self.num_tokens = num_tokens
        self.min_share = min_share
        self.learns = learns
        self.max_entries = max_entries
        self.counts = DraftCounts()
        self._tables: list[dict[tuple[int, ...], _Followers]] = [{} for _ in range(order - 1)]
        self._entries = 0
        self._num_ids = 0

    def __len__(self) -> int:
        """Pairs of context and follower that are known."""
        return self._entries

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        tokenizer: TextTokenizer,
        *,
        add_special_tokens: bool = False,
        **options: Any,
    ) -> Self:
        """Count the n-grams of texts, one line each.

        Args:
            texts: lines as the model is to write them.
            tokenizer: of the model.
            add_special_tokens: take the rows as the tokenizer ends and begins them, for a model that writes
                those tokens; otherwise the text and the end token, as this library and fairseq train.
            options: those of `NGramDraft`.
        Raises:
            DraftError: no text, a tokenizer without an end token, or options out of range.
        """
        draft = cls(**options)
        end = tokenizer.eos_token_id
        if end is None:
            raise DraftError(f"this {type(tokenizer).__name__} has no end token: set its eos_token")
        for text in texts:
            ids = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
            draft.learn([int(token) for token in ids] if add_special_tokens else [*map(int, ids), end])
        if not len(draft):
            raise DraftError("there is no text to count n-grams in; give lines of text")
        return draft

    def learn(self, ids: Sequence[int]) -> None:
        """Count the n-grams of one row.

        Args:
            ids: tokens after the start token, the end token included.
        """
        row = [BEGIN, *ids]
        self._num_ids = max(self._num_ids, *(token + 1 for token in row))
        for place in range(1, len(row)):
            for size in range(1, min(self.order - 1, place) + 1):
                self._add(tuple(row[place - size : place]), row[place], 1)
        if self._entries > self.max_entries:
            self._forget()

    def guess(self, row: Sequence[int], most: int, end_tokens: frozenset[int] = frozenset()) -> list[int]:
        """Guess what follows a row.

        Args:
            row: tokens so far, with `BEGIN` for the start token.
            most: tokens to guess.
            end_tokens: ids after which nothing follows.
        """
        context = list(row[-(self.order - 1) :])
        found: list[int] = []
        while len(found) < most:
            followers = self._after(context)
            if followers is None or followers.share < self.min_share:
                break
            found.append(followers.best)
            if followers.best in end_tokens:
                break
            context = [*context, followers.best][-(self.order - 1) :]
        return found

    def start(self, source: DraftSource) -> "NGramProposer":
        """Begin with a batch.

        Raises:
            GenerationError: the n-grams have tokens that the model does not know.
        """
        if self._num_ids > source.vocab_size:
            raise GenerationError(
                f"the n-gram draft has token ids up to {self._num_ids - 1}, the model's vocabulary has ids 0 "
                f"to {source.vocab_size - 1}; make it with the tokenizer of the model"
            )
        return NGramProposer(self, source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the counts and the options into one file, whole or not at all."""
        arrays = {f"ngrams_{size}": self._rows(size) for size in range(2, self.order + 1)}
        numbers = [FORMAT, self.order, self.num_tokens, int(self.learns), self.max_entries]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            numbers=np.array(numbers, np.int64),
            min_share=np.array(self.min_share, np.float64),
            **arrays,  # type: ignore[arg-type]
        )
        target = Path(path)
        write_files(target.parent, {target.name: buffer.getvalue()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Read a file of `save`.

        Args:
            path: the file.
            options: those of `NGramDraft` but `order`, instead of the ones in the file.
        Raises:
            DraftError: the file is missing, damaged, or of another kind.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                version, order, num_tokens, learns, max_entries = map(int, arrays["numbers"])
                if version != FORMAT:
                    raise DraftError(f"{path}: format {version} of n-gram files, expected {FORMAT}")
                kept = {"num_tokens": num_tokens, "learns": bool(learns), "max_entries": max_entries}
                draft = cls(order=order, **{**kept, "min_share": float(arrays["min_share"]), **options})
                for size in range(2, order + 1):
                    draft._read_rows(arrays[f"ngrams_{size}"], size)
        except DraftError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DraftError(
                f"{path}: cannot be read as n-grams ({error}); expected a file that NGramDraft.save wrote"
            ) from error
        return draft

    def _add(self, context: tuple[int, ...], token: int, count: int) -> None:
        table = self._tables[len(context) - 1]
        followers = table.get(context)
        if followers is None:
            followers = table[context] = _Followers()
        self._entries += followers.add(token, count)

    def _after(self, context: Sequence[int]) -> _Followers | None:
        """What followed the longest end of a context that was seen."""
        for size in range(min(len(context), self.order - 1), 0, -1):
            found = self._tables[size - 1].get(tuple(context[-size:]))
            if found is not None:
                return found
        return None

    def _each(self) -> Iterator[tuple[tuple[int, ...], int, int]]:
        for table in self._tables:
            for context, followers in table.items():
                for token, count in followers.counts.items():
                    yield context, token, count

    def _forget(self) -> None:
        """Halve the counts until there is room for as much again as half of what may be kept."""
        while self._entries > self.max_entries // 2:
            kept = [(context, token, count // 2) for context, token, count in self._each() if count > 1]
            self._tables = [{} for _ in range(self.order - 1)]
            self._entries = 0
            for context, token, count in kept:
                self._add(context, token, count)

    def _rows(self, size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        rows = [
            (*context, token, count)
            for context, followers in self._tables[size - 2].items()
            for token, count in followers.counts.items()
        ]
        return np.array(rows, np.int32).reshape(-1, size + 1)

    def _read_rows(self, rows: np.ndarray[Any, Any], size: int) -> None:
        if rows.ndim != 2 or rows.shape[1] != size + 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"the {size}-grams have shape {rows.shape} and type {rows.dtype}")
        if len(rows) and (rows[:, :-2].min() < BEGIN or rows[:, -2].min() < 0 or rows[:, -1].min() < 1):
            raise ValueError(f"the {size}-grams have negative ids, or counts below 1")
        if len(rows):
            self._num_ids = max(self._num_ids, 1 + int(rows[:, :-1].max()))
        for *context, token, count in rows.tolist():
            self._add(tuple(context), token, count)


class NGramProposer:
    """An n-gram draft at work on one batch.

    Args:
        draft: the n-grams.
        source: what the batch is.
    """

    def __init__(self, draft: NGramDraft, source: DraftSource) -> None:
        self.draft = draft
        self.source = source

    def propose(self, ids: Tensor, most: int, rows: Sequence[int]) -> list[list[int]]:
        """Look up what follows; see `Proposer`."""
        guesses: list[list[int]] = [[] for _ in range(len(ids))]
        first = max(1, ids.shape[1] - self.draft.order + 1)
        texts = ids[:, first:].tolist()
        begin = [BEGIN] if first == 1 else []
        for row in rows:
            guesses[row] = self.draft.guess([*begin, *texts[row]], most, self.source.end_tokens)
            if not guesses[row]:
                break  # no row can be further ahead than the others
        return guesses

    def follow(self, rows: Tensor) -> None:
        """Keep some rows, of which nothing is known here."""

    def finish(self, sequences: Tensor) -> None:
        """Count the rows where the draft learns: those that have an end token, up to it."""
        if not self.draft.learns:
            return
        for row in sequences[:, 1:].tolist():
            ends = [place for place, token in enumerate(row) if token in self.source.end_tokens]
            if ends:
                self.draft.learn(row[: ends[0] + 1])
