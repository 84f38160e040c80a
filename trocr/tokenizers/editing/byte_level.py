"""Other vocabularies for byte-level BPE.

Source: original work. `tokenizers` 0.23, `decoders/byte_level` (its issue 1392), is why some characters are
merges and not added tokens: it takes an added token for bytes where all of its letters stand for bytes, so
that an added "é" is written as the byte E9, which is no text; and `add_tokens` finds "é" in the vocabulary.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

from trocr.tokenizers.added import AddedToken
from trocr.tokenizers.byte_bpe import BYTE_LETTERS, ByteBPE
from trocr.tokenizers.editing.base import Edited, Editor, TokenText
from trocr.tokenizers.roberta import RobertaTokenizer

_BYTE_OF = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


def byte_letters(text: str | bytes) -> str:
    """A text as byte-level BPE's vocabularies write it: " é" is "ĠÃ©"."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return "".join(BYTE_LETTERS[byte] for byte in data)


def _data(token: str) -> bytes:
    """The bytes of a token of the vocabulary; none where it has other letters."""
    return bytes(_BYTE_OF[x] for x in token) if all(x in _BYTE_OF for x in token) else b""


class ByteLevelEditor(Editor):
    """Editor of a `RobertaTokenizer`.

    A part of the vocabulary keeps the tokens that its tokens are merged from, and every merge among what is
    kept: the merges that write a text are then all there, in the same order, and none that was not tried
    before.

    New tokens are ordinary added tokens, which are found before anything else; a character that added tokens
    cannot write (see the module) becomes a merge of its two bytes, the first of all, with the same effect. A
    longer token that the letter is in, say with the space before it, stays.
    """

    tokenizer: RobertaTokenizer

    def __init__(self, tokenizer: RobertaTokenizer) -> None:
        super().__init__(tokenizer)
        self._bpe = tokenizer._bpe

    def _text_of_base(self, token: str) -> TokenText | None:
        return TokenText.of(_data(token) or token)

    def _encode(self, text: TokenText) -> list[int]:
        data = b" " + text.text if text.starts_word else text.text
        try:
            return [token_id for _, token_id in self._bpe.encode(data.decode("utf-8"))]
        except UnicodeDecodeError:
            return self._bpe._merge(data)

    def basic_ids(self) -> set[int]:
        """Ids of the 256 bytes."""
        return {token_id for token_id in self._bpe._byte_ids if token_id is not None}

    def needed_ids(self, texts: Iterable[str]) -> set[int]:
        """Ids that texts are written with; what these are merged from comes with `subset`."""
        return {token_id for text in texts for token_id in self.ids(text)}

    def id_of(self, token: str) -> int | None:
        """Id of a token by its name; a letter that is no ASCII is a text, not the byte it stands for."""
        return None if len(token) == 1 and not token.isascii() else super().id_of(token)

    def num_lost(self, text: str) -> int:
        """Bytes of a text that are left out because no token has them."""
        ids = self._bpe._byte_ids
        return sum(ids[byte] is None for byte in text.encode("utf-8")) if None in ids else 0

    def subset(self, ids: AbstractSet[int]) -> Edited:
        """A tokenizer with these tokens and those that they are merged from."""
        kept = set(ids) | self.special_ids()
        for token_id in list(kept):
            if token_id in self._base and token_id not in self._added.tokens:
                kept |= self._parts(self._base[token_id])
        new_ids = self._numbered([token_id for token_id in sorted(self._base) if token_id in kept], kept)
        vocab = {self._base[old]: new for old, new in new_ids.items() if old in self._base}
        merges = [pair for pair in self._bpe.merges if {*pair, "".join(pair)} <= vocab.keys()]
        tokenizer = self._rebuilt({"vocab": vocab, "merges": merges}, self._flagged(new_ids))
        return Edited(tokenizer=tokenizer, carried={new: old for old, new in new_ids.items()})

    def extended(self, tokens: Sequence[str]) -> Edited:
        """A tokenizer with more tokens, most of them as added tokens."""
        base = self.tokenizer._base
        merged, added, known = [], [], []
        for token in tokens:
            if token in self._added.ids or byte_letters(token) in base:
                known.append(token)
            elif BYTE_LETTERS[ord(" ")] in token:
                raise self._refuse(token, "it is given as vocabularies write it; write the space as a space")
            elif token.isascii() or not all(letter in _BYTE_OF for letter in token):
                self._check_added(token)
                added.append(token)
            else:
                self._check_merged(token)
                merged.append(token)
        first = max(base.values(), default=-1) + 1
        new_ids = self._shifted(first, len(merged)) if merged else self._shifted(0, 0)
        letters = {byte_letters(token): first + place for place, token in enumerate(merged)}
        vocab = {**base, **letters}
        merges = [*((pair[0], pair[1]) for pair in letters), *self._bpe.merges]
        merges += self._joined(vocab, merges, letters)
        flagged = self._flagged(new_ids)
        made = {first + place: TokenText.of(token) for place, token in enumerate(merged)}
        next_id = self.num_ids + len(merged)
        for place, token in enumerate(added):
            flagged[next_id + place] = AddedToken(token).resolve()
            made[next_id + place] = TokenText.of(token)
        return Edited(
            tokenizer=self._rebuilt({"vocab": vocab, "merges": merges}, flagged),
            carried={new: old for old, new in new_ids.items()},
            made=made,
            known=tuple(known),
        )

    def _joined(
        self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], letters: Iterable[str]
    ) -> list[tuple[str, str]]:
        """Merges that put old tokens together again which now come in two parts, such as "Ġ" and "Ãĸ"."""
        wanted = [token for token in self.tokenizer._base if any(letter in token for letter in letters)]
        if not wanted:
            return []
        bpe = ByteBPE(vocab, merges)
        parts = [[bpe._tokens[i] for i in bpe._merge(_data(token))] for token in wanted if _data(token)]
        return [(pair[0], pair[1]) for pair in parts if len(pair) == 2 and "".join(pair) in vocab]

    def _check_added(self, token: str) -> None:
        if self.tokenizer.add_prefix_space:
            raise self._refuse(
                token,
                "this tokenizer puts a space before every stretch of text (add_prefix_space), so a space "
                "would come behind the token; replace the tokenizer by one without",
            )

    def _check_merged(self, token: str) -> None:
        if len(token) > 1:
            alone = " ".join(sorted({letter for letter in token if not letter.isascii()}))
            raise self._refuse(
                token,
                f"byte-level BPE takes a token of such letters for bytes and cannot write it; add {alone} as "
                "tokens of one letter, or train a vocabulary and replace the tokenizer",
            )
        missing = [letter for letter in byte_letters(token) if letter not in self.tokenizer._base]
        if missing:
            raise self._refuse(token, f"the vocabulary lacks its bytes {', '.join(missing)}")

    def _parts(self, token: str) -> set[int]:
        """Ids on the way from bytes to a token, which is the way within any text.

        No merge joins what is in a token with what is beside it, for then the token would not be there. So
        its parts were joined in the order of their ranks, as if nothing was beside them.
        """
        ranks = self._bpe._ranks
        ids = [self.tokenizer._base.get(letter) for letter in token]
        found = {token_id for token_id in ids if token_id is not None}
        parts = [token_id for token_id in ids if token_id is not None]
        while True:
            candidates = [
                (*ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks
            ]
            if not candidates:
                return found
            _, whole, place = min(candidates)
            found.add(whole)
            parts[place : place + 2] = [whole]
