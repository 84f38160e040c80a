"""Other vocabularies for WordPiece.

Source: original work. New tokens are pieces of the model and not added tokens: `tokenizers` 0.23 begins a new
word behind an added token, so that "kg" added to "5kgs" is written as "5 kg s".
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from trocr.tokenizers.bert import BertTokenizer
from trocr.tokenizers.editing.base import Edited, Editor, TokenText
from trocr.tokenizers.wordpiece import CONTINUATION, MAX_WORD, separate_ideographs, split_words


class WordPieceEditor(Editor):
    """Editor of a `BertTokenizer`.

    A part of the vocabulary keeps, beside the pieces of a text, those that were found in its unknown words
    before nothing more was found: without them other pieces might be.

    A new token becomes two pieces, one for the start of words and one ("##") for what follows; a token given
    with "##", a mark or an ideograph is one.
    """

    tokenizer: BertTokenizer

    def __init__(self, tokenizer: BertTokenizer) -> None:
        super().__init__(tokenizer)
        self._vocab = tokenizer._wordpiece.vocab
        self._longest = max(map(len, self._vocab), default=0)

    def _text_of_base(self, token: str) -> TokenText | None:
        if token.startswith(CONTINUATION) and token != CONTINUATION:
            return TokenText(False, token.removeprefix(CONTINUATION).encode("utf-8"))
        return TokenText(not self._stands_alone(token), token.encode("utf-8"))

    def _stands_alone(self, text: str) -> bool:
        """Whether it is a mark or an ideograph: a word of its own, with a space before it or without."""
        if len(text) != 1:
            return False
        return len(split_words(f"a{text}a")) == 3 or (
            self.tokenizer.tokenize_chinese_chars and separate_ideographs(text) != text
        )

    def _encode(self, text: TokenText) -> list[int]:
        plain = text.decoded()
        found: list[int] = []
        for place, word in enumerate(split_words(plain or "")):
            inside = not text.starts_word and place == 0
            pieces, is_whole = self._greedy(word, inside=inside and not self._stands_alone(word))
            if not is_whole and inside:
                pieces, is_whole = self._greedy(word)
            found += pieces if is_whole else [self._vocab[self.tokenizer._wordpiece.unknown]]
        return found

    def _greedy(self, word: str, *, inside: bool = False) -> tuple[list[int], bool]:
        """Longest pieces from the left, and whether they are the whole word."""
        pieces: list[int] = []
        start = 0
        while start < len(word) <= MAX_WORD:
            prefix = CONTINUATION if start or inside else ""
            stops = range(min(len(word), start + self._longest), start, -1)
            stop = next((stop for stop in stops if prefix + word[start:stop] in self._vocab), None)
            if stop is None:
                break
            pieces.append(self._vocab[prefix + word[start:stop]])
            start = stop
        return pieces, start == len(word)

    def basic_ids(self) -> set[int]:
        """Ids of single characters, at the start of words and within them."""
        return {
            token_id
            for token_id, token in self._base.items()
            if len(token) == 1 or (len(token) == 3 and token.startswith(CONTINUATION))
        }

    def needed_ids(self, texts: Iterable[str]) -> set[int]:
        """Ids that texts are written with, and the first pieces of unknown words."""
        needed: set[int] = set()
        seen: set[str] = set()
        for text in texts:
            for part in self._added.split(text):
                if part.token_id is not None:
                    needed.add(part.token_id)
                    continue
                for word in set(split_words(part.text)) - seen:
                    seen.add(word)
                    needed.update(self._greedy(word)[0])
        return needed

    def subset(self, ids: AbstractSet[int]) -> Edited:
        """A tokenizer with these pieces."""
        kept = set(ids) | self.special_ids()
        new_ids = self._numbered([token_id for token_id in sorted(self._base) if token_id in kept], kept)
        vocab = {self._base[old]: new for old, new in new_ids.items() if old in self._base}
        tokenizer = self._rebuilt({"vocab": vocab}, self._flagged(new_ids))
        return Edited(tokenizer=tokenizer, carried={new: old for old, new in new_ids.items()})

    def extended(self, tokens: Sequence[str]) -> Edited:
        """A tokenizer with more pieces."""
        known: list[str] = []
        new: dict[str, None] = {}
        for token in tokens:
            if token not in self._added.ids:
                self._check(token)
            lacking = [piece for piece in self._forms(token) if piece not in self.tokenizer._base]
            new |= dict.fromkeys(lacking)
            if not lacking:
                known.append(token)
        first = max(self._base, default=-1) + 1
        new_ids = self._shifted(first, len(new))
        vocab = {**self.tokenizer._base, **{piece: first + place for place, piece in enumerate(new)}}
        texts = [self._text_of_base(piece) for piece in new]
        return Edited(
            tokenizer=self._rebuilt({"vocab": vocab}, self._flagged(new_ids)) if new else self.tokenizer,
            carried={new_id: old for old, new_id in new_ids.items()},
            made={first + place: text for place, text in enumerate(texts) if text is not None},
            known=tuple(known),
        )

    def _forms(self, token: str) -> Iterator[str]:
        if token in self._added.ids:
            return
        yield token
        if not token.startswith(CONTINUATION) and not self._stands_alone(token):
            yield CONTINUATION + token

    def _check(self, token: str) -> None:
        text = token.removeprefix(CONTINUATION)
        normal = self.tokenizer._normalize(text).strip()
        if normal != text:
            raise self._refuse(
                token,
                f"the tokenizer makes {normal!r} of it before it looks for tokens (do_lower_case, "
                "strip_accents), so that it never occurs; add that instead",
            )
        if split_words(text) != [text]:
            raise self._refuse(
                token, "there is a space or a mark in it, and WordPiece cuts texts there; add the words"
            )
