"""Learn a vocabulary from texts, as one of our tokenizers.

Source: `tokenizers` 0.23 does the learning: BPE (arXiv:1508.07909) on bytes as in GPT-2, unigram
(arXiv:1804.10959), WordPiece (arXiv:1609.08144).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from trocr.surgery.patterns import SurgeryError
from trocr.surgery.vocabulary_corpus import Corpus, read_corpus
from trocr.tokenizers import BertTokenizer, RobertaTokenizer, Tokenizer, XLMRobertaTokenizer
from trocr.tokenizers.sentencepiece_model import SentencePieceModel
from trocr.tokenizers.sentencepiece_writer import float32, unigram_file
from trocr.tokenizers.unigram_json import SPACE
from trocr.tokenizers.wordpiece import CONTINUATION, clean, separate_ideographs, split_words

Kind = Literal["byte-bpe", "unigram", "wordpiece"]

FIRST = ("<s>", "<pad>", "</s>", "<unk>")
"""The first ids of RoBERTa's and XLM-R's vocabularies; `<mask>` is the last."""

BERT_FIRST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(
    corpus: Corpus, *, vocab_size: int, kind: Kind = "byte-bpe", min_frequency: int = 2
) -> Tokenizer:
    """Learn a vocabulary from texts.

    Texts are taken as they are: no letter is changed or left out, capitals and accents stay. What a model
    shall write must be in the form in which it is to be written (a letter with its accent as one character,
    say, or as two, but not now so, now so).

    Args:
        corpus: texts, the more the better.
        vocab_size: tokens, special ones included; there are fewer where the corpus has no more. Byte-level
            BPE needs 261 at least, unigram one for each character of the corpus, WordPiece two for most.
        kind: "byte-bpe" makes a `RobertaTokenizer`, for which no text is unknown; "unigram" an
            `XLMRobertaTokenizer`, which writes fewer tokens in scripts of more than one byte a letter, and
            for which characters are unknown that the corpus does not have; "wordpiece" a `BertTokenizer`,
            which loses spaces before and behind marks.
        min_frequency: of what becomes a token of byte-level BPE or WordPiece.
    Returns:
        The tokenizer, with the ids of its family's special tokens.
    Raises:
        SurgeryError: the corpus is empty or cannot be read, the kind is unknown, or the vocabulary is too
            small.
    """
    if kind not in get_args(Kind):
        raise SurgeryError(f"kind {kind!r} is unknown, expected one of {', '.join(get_args(Kind))}")
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):
        raise SurgeryError(f"vocab_size is {vocab_size!r}, expected a whole number")
    if isinstance(min_frequency, bool) or not isinstance(min_frequency, int) or min_frequency < 1:
        raise SurgeryError(f"min_frequency is {min_frequency!r}, expected a whole number, 1 or more")
    texts = read_corpus(corpus)
    train: Mapping[Kind, Callable[[list[str], int, int], Tokenizer]] = {
        "byte-bpe": _byte_bpe,
        "unigram": _unigram,
        "wordpiece": _wordpiece,
    }
    return train[kind](texts, vocab_size, min_frequency)


def _byte_bpe(texts: list[str], vocab_size: int, min_frequency: int) -> RobertaTokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    _check_size(vocab_size, len(FIRST) + 256 + 1, "the 256 bytes and the special tokens")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=min_frequency,
        special_tokens=list(FIRST),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model = _learned(backend, texts, trainer)
    vocab = {**model["vocab"], "<mask>": len(model["vocab"])}
    return RobertaTokenizer(vocab, model["merges"])


def _unigram(texts: list[str], vocab_size: int, min_frequency: int) -> XLMRobertaTokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    characters = {character for text in texts for character in text if not character.isspace()} | {SPACE}
    what = f"the {len(characters)} characters of the corpus and the special tokens"
    _check_size(vocab_size, len(FIRST) + len(characters) + 1, what)
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
        ]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 1, special_tokens=list(FIRST), unk_token="<unk>", show_progress=False
    )
    learned = _learned(backend, texts, trainer)["vocab"]
    pieces = _in_order([(piece, score) for piece, score in learned if piece not in FIRST])
    excess = len(pieces) + len(FIRST) + 1 - vocab_size  # the library may give too many to a small size
    longer = [item for item in pieces if len(item[0]) > 1]
    dropped = set(longer[len(longer) - excess :]) if excess > 0 else set()
    pieces = [item for item in pieces if item not in dropped]
    return XLMRobertaTokenizer(
        SentencePieceModel.from_bytes(unigram_file(pieces), source="the learned vocabulary")
    )


def _in_order(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces by their scores, in the same order each time.

    The library has equally likely pieces in any order; and letters that got no score of their own, which it
    puts at the end at distances of 0.0001, share these scores out among them by chance.
    """
    pieces = sorted(pieces, key=lambda item: (-round(item[1], 4), item[0]))
    first = len(pieces) - 1
    while first > 0 and len(pieces[first - 1][0]) == 1 and pieces[first - 1][1] - pieces[first][1] < 1.1e-4:
        first -= 1
    letters = sorted(piece for piece, _ in pieces[first:])
    pieces[first:] = [(letter, score) for letter, (_, score) in zip(letters, pieces[first:], strict=True)]
    return [(piece, float32(score)) for piece, score in pieces]


def _wordpiece(texts: list[str], vocab_size: int, min_frequency: int) -> BertTokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word in split_words(separate_ideographs(clean(text)))}
    within = sorted({CONTINUATION + letter for word in words for letter in word[1:]})
    # Given at the start, all letters have the same ids each time, by which draws are decided.
    letters = [*BERT_FIRST, *sorted({letter for word in words for letter in word}), *within]
    _check_size(vocab_size, len(letters), "the letters at the start of words and within, and special tokens")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=letters,
        show_progress=False,
    )
    model = _learned(backend, texts, trainer)
    return BertTokenizer(model["vocab"], do_lower_case=False, strip_accents=False)


def _learned(backend: Any, texts: list[str], trainer: Any) -> dict[str, Any]:
    """The model section of the trained tokenizer."""
    try:
        backend.train_from_iterator(texts, trainer=trainer, length=len(texts))
    except Exception as error:  # the library raises no other
        if type(error) is not Exception:
            raise
        raise SurgeryError(f"no vocabulary can be learned from this corpus: {error}") from error
    return dict(json.loads(backend.to_str())["model"])


def _check_size(vocab_size: int, least: int, what: str) -> None:
    if vocab_size < least:
        raise SurgeryError(f"vocab_size is {vocab_size}, expected {least} or more, for {what}")
