"""Other vocabularies for SentencePiece unigram.

Source: original work. `tokenizers` 0.23, `pre_tokenizers/metaspace`, is why new tokens are pieces of the
model and not added tokens: a space comes before the text behind an added token, so that "tiếng" with an added
"ế" is written as "tiế ng".
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from trocr.tokenizers.editing.base import Edited, Editor, TokenText
from trocr.tokenizers.sentencepiece_model import Piece, PieceType, SentencePieceModel
from trocr.tokenizers.sentencepiece_writer import file_with_pieces, float32
from trocr.tokenizers.unigram_json import SPACE
from trocr.tokenizers.xlm_roberta import _WORD, MODEL_FILE, UNK_ID, XLMRobertaTokenizer

_MARKS = re.compile(f"{SPACE}+")


class UnigramEditor(Editor):
    """Editor of an `XLMRobertaTokenizer`.

    A part of the vocabulary keeps the least likely piece, from which the price of unknown characters is
    counted: of the ways to cut a word, the best one and its probability then stay.

    New tokens are pieces of the model, before `<mask>`. A single character gets the score of the least likely
    piece: it is used where no longer piece has it. A longer token gets 0, the highest score there is, and is
    used wherever it stands; or less, where a piece of the same text with "▁" is to be used at the start of
    words as before.
    """

    tokenizer: XLMRobertaTokenizer

    def __init__(self, tokenizer: XLMRobertaTokenizer) -> None:
        super().__init__(tokenizer)
        self._unigram = tokenizer._unigram
        self._scores = dict(self._unigram.vocab)

    def _text_of_base(self, token: str) -> TokenText | None:
        starts_word = token.startswith(SPACE)
        return TokenText(starts_word, token[starts_word:].replace(SPACE, " ").encode("utf-8"))

    def _encode(self, text: TokenText) -> list[int]:
        plain = text.decoded()
        if plain is None:
            return []
        words: list[str] = _WORD.findall(plain)
        mark = SPACE if self.tokenizer.add_prefix_space else ""
        marked = [mark + word for word in words]
        if words and not text.starts_word and plain.startswith(words[0]):
            marked[0] = words[0]
        if not words and mark:
            marked = [mark]
        return [token_id for word in marked for _, token_id in self._unigram.encode(word)]

    def basic_ids(self) -> set[int]:
        """Ids of single characters."""
        return {token_id for token_id, token in self._base.items() if len(token) == 1}

    def needed_ids(self, texts: Iterable[str]) -> set[int]:
        """Ids that texts are written with, and the piece that sets the price of unknown characters."""
        used = {token_id for text in texts for token_id in self.ids(text)}
        scores = [score for _, score in self._unigram.vocab]
        return used | {scores.index(min(scores))}

    def subset(self, ids: AbstractSet[int]) -> Edited:
        """A tokenizer with these pieces."""
        kept = set(ids) | self.special_ids() | set(range(UNK_ID + 1))
        base = [token_id for token_id in range(len(self._unigram)) if token_id in kept]
        new_ids = self._numbered(base, kept)
        vocab = [self._unigram.vocab[token_id] for token_id in base]
        model = self._model()
        data = None
        if model is not None:
            last = len(self._unigram) - 1
            pieces = [model.pieces[token_id - 1] for token_id in base if UNK_ID < token_id < last]
            data = file_with_pieces(model, [*model.pieces[:UNK_ID], *pieces])
        tokenizer = self._rebuilt(self._arguments(vocab, data), self._flagged(new_ids))
        return Edited(tokenizer=tokenizer, carried={new: old for old, new in new_ids.items()})

    def extended(self, tokens: Sequence[str]) -> Edited:
        """A tokenizer with more pieces."""
        new: list[tuple[str, float]] = []
        known = []
        for token in tokens:
            piece = SPACE + token[1:] if token.startswith(" ") else token
            if piece in self._unigram.token_to_id or token in self._added.ids:
                known.append(token)
            else:
                self._check(token, piece)
                new.append((piece, self._score(piece)))
        if not new:
            return self._unchanged(known)
        pieces = [piece for piece, _ in new]
        twice = next((piece for piece in pieces if pieces.count(piece) > 1), None)
        if twice is not None:
            raise self._refuse(twice, "it is given twice, with a space and with the mark for it")
        vocab = list(self._unigram.vocab)
        first = len(vocab) - (vocab[-1][0] == self.tokenizer.mask_token)
        vocab[first:first] = new
        model = self._model()
        data = None
        if model is not None:
            made = [Piece(piece, score, PieceType.NORMAL) for piece, score in new]
            data = file_with_pieces(model, [*model.pieces, *made])
        new_ids = self._shifted(first, len(new))
        texts = [self._text_of_base(piece) for piece in pieces]
        return Edited(
            tokenizer=self._rebuilt(self._arguments(vocab, data), self._flagged(new_ids)),
            carried={new_id: old for old, new_id in new_ids.items()},
            made={first + place: text for place, text in enumerate(texts) if text is not None},
            known=tuple(known),
        )

    def _unchanged(self, known: Sequence[str]) -> Edited:
        same = {token_id: token_id for token_id in self._shifted(0, 0)}
        return Edited(tokenizer=self.tokenizer, carried=same, known=tuple(known))

    def _check(self, token: str, piece: str) -> None:
        text = piece.removeprefix(SPACE)
        if not self.tokenizer.add_prefix_space and piece.startswith(SPACE):
            raise self._refuse(token, "this tokenizer has no mark for the start of words (add_prefix_space)")
        if SPACE in text or _WORD.findall(text) != [text]:
            raise self._refuse(
                token, "there is a space in it, and SentencePiece cuts texts at spaces; add the words"
            )
        normal = self.tokenizer._normalize(text)
        if normal != text:
            raise self._refuse(
                token,
                f"the tokenizer's normaliser makes {normal!r} of it, so that it never occurs; add that "
                "instead",
            )

    def _score(self, piece: str) -> float:
        lowest = min(score for _, score in self._unigram.vocab)
        if len(piece.removeprefix(SPACE)) == 1:
            return lowest
        whole, mark = self._scores.get(SPACE + piece), self._scores.get(SPACE)
        if whole is None or mark is None:
            return 0.0
        return float32(min(0.0, whole - mark - 1e-3))

    def _arguments(self, vocab: Sequence[tuple[str, float]], data: bytes | None) -> dict[str, object]:
        charsmap = self.tokenizer._charsmap
        return {
            "vocab": vocab,
            "charsmap": None if charsmap is None else charsmap.data,
            "model_data": data,
        }

    def _model(self) -> SentencePieceModel | None:
        """The model file that the tokenizer saves; None where it saves none."""
        data = self.tokenizer._vocabulary_files().get(MODEL_FILE)
        return None if data is None else SentencePieceModel.from_bytes(data, source=MODEL_FILE)
