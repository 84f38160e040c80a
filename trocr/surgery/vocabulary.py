"""Another vocabulary for a model: more tokens, fewer tokens, or another tokenizer, rows by what tokens write.

The tables are new parameters: make an optimizer afterwards.

Source: each operation names its own.
"""

from collections.abc import Iterable, Sequence
from os import PathLike

from trocr.models import VisionEncoderDecoderModel
from trocr.nn.embeddings import SinusoidalPositions
from trocr.processor import TrOCRProcessor
from trocr.surgery.blocks import forget_adapter
from trocr.surgery.report import SurgeryReport, report
from trocr.surgery.tokenizer_training import train_tokenizer
from trocr.surgery.vocabulary_checks import (
    asked,
    check_pair,
    check_positions,
    check_same,
    check_tokens,
    ids_of_model,
    ids_to_keep,
    some,
)
from trocr.surgery.vocabulary_corpus import Corpus, compared, read_corpus
from trocr.surgery.vocabulary_ids import follow
from trocr.surgery.vocabulary_match import load_any, match, new_start, special_ids
from trocr.surgery.vocabulary_rows import RowPlan, replace_rows
from trocr.tokenizers import Tokenizer
from trocr.tokenizers.editing import Edited, Editor, edit

__all__ = ["extend_vocabulary", "replace_tokenizer", "shrink_vocabulary", "train_tokenizer"]

_STARTS = {
    True: "it has the row of its own role, so the model must be trained further",
    False: "it is read with that one's row",
}


def extend_vocabulary(
    model: VisionEncoderDecoderModel,
    tokens: Iterable[str],
    *,
    processor: TrOCRProcessor,
    corpus: Corpus | None = None,
    seed: int = 0,
) -> SurgeryReport:
    """Add tokens, each with rows that are the mean of the rows of the pieces it was written with before.

    How a token is added depends on the tokenizer, so that texts are written without loss, here and in
    `transformers`. Byte-level BPE: an added token, found before anything else; or, for a letter from U+00A1
    to U+0143, which added tokens cannot write, a merge of its two bytes. SentencePiece: a piece. WordPiece:
    two pieces, for the start of words and within words. Tokens above the new ones may get other ids; their
    rows go with them.

    Rows that the model has beyond its tokenizer's tokens are used first.

    Args:
        model: changed in place.
        tokens: as they stand in texts: letters, words; a space at the start is part of the token. Those that
            are there already are left as they are.
        processor: its tokenizer is replaced.
        corpus: texts to count tokens on, before and after.
        seed: of the rows of tokens of which the old tokenizer knew nothing.
    Returns:
        The report; numbers: rows before, after, carried, composed and new; with a corpus, before and after,
        its `fertility` (tokens per character), `unknown_rate` (share of tokens) and `changed_rate` (share of
        texts that do not come back from their tokens as they were).
    Raises:
        SurgeryError: no tokens, one that is empty, white space, given twice or that the tokenizer cannot
            write; the tokenizer is not this model's; the corpus cannot be read; a model with an adapter.
    Source: `add_tokens` and `resize_token_embeddings` of `transformers` 5.23.
    Differs: those add an "é" that byte-level BPE reads as another character's byte, put spaces behind tokens
        in the middle of a SentencePiece word, and draw new rows at random.
    """
    wanted = check_tokens(tokens)
    editor = check_pair(model, processor)
    texts = None if corpus is None else read_corpus(corpus)
    edited = asked(editor.extended, wanted)
    old_rows = model.config.decoder.vocab_size
    after = edit(edited.tokenizer)
    size = max(old_rows, after.num_ids)
    composed, new = _made(editor, edited)
    spare = {row: row for row in range(after.num_ids, old_rows)}
    plan = RowPlan(
        size=size,
        tokens=editor.num_ids,
        carried={**edited.carried, **spare},
        composed=composed,
        new=frozenset(new),
    )
    numbers = {**plan.numbers(old_rows), **compared(editor, after, texts)}
    notes = [*_known(edited.known), *_told_moves(editor, edited)]
    if not edited.made:
        return report("extend_vocabulary", model, (), numbers=numbers, notes=notes)
    ids = {old: new_id for new_id, old in edited.carried.items()}
    followed = follow(model, ids, vocab_size=size)
    changes = replace_rows(model, plan, followed, seed=seed, action="carried")
    processor.tokenizer = edited.tokenizer
    notes += [*_lost(followed.lost), *forget_adapter(model)]
    return report("extend_vocabulary", model, changes, numbers=numbers, notes=notes)


def shrink_vocabulary(
    model: VisionEncoderDecoderModel,
    corpus: Corpus,
    *,
    processor: TrOCRProcessor,
    keep: Iterable[str] = (),
) -> SurgeryReport:
    """Keep the tokens that a corpus is written with, and those that any text may need.

    Kept are special tokens, single bytes (byte-level BPE) or single characters, the tokens of the corpus, and
    what these are made from; and their rows, bit for bit, in the old order under new ids. The corpus is
    written with the same tokens as before, which is checked. Other texts are written too, with more tokens.

    Args:
        model: changed in place; its settings get the new ids.
        corpus: texts such as the model is to read.
        processor: its tokenizer is replaced.
        keep: further tokens by their name in the vocabulary ("Ġthe"), or texts whose tokens are kept.
    Returns:
        The report; numbers as those of `extend_vocabulary`.
    Raises:
        SurgeryError: the corpus is empty or cannot be read, a text of `keep` cannot be written, the tokenizer
            is not this model's; a model with an adapter.
    Source: vocabulary trimming (arXiv:2305.15020) by tokens that are used.
    """
    editor = check_pair(model, processor)
    texts = read_corpus(corpus)
    wanted = editor.basic_ids() | asked(editor.needed_ids, texts) | ids_to_keep(editor, keep)
    wanted |= ids_of_model(model, editor)
    if isinstance(model.decoder.embed_positions, SinusoidalPositions):
        wanted |= set(range(model.decoder.embed_positions.padding_idx)) & editor.token_ids()
    edited = asked(editor.subset, wanted)
    ids = {old: new_id for new_id, old in edited.carried.items()}
    after = edit(edited.tokenizer)
    check_same(editor, after, ids, texts)
    plan = RowPlan(size=after.num_ids, tokens=editor.num_ids, carried=edited.carried)
    old_rows = model.config.decoder.vocab_size
    numbers = {**plan.numbers(old_rows), **compared(editor, after, texts)}
    if plan.size == old_rows:
        return report("shrink_vocabulary", model, (), numbers=numbers, notes=["all tokens are needed"])
    followed = follow(model, ids, vocab_size=plan.size)
    check_positions(model, followed.config.decoder.pad_token_id)
    changes = replace_rows(model, plan, followed, action="sliced")
    processor.tokenizer = edited.tokenizer
    notes = [*_lost(followed.lost), *forget_adapter(model)]
    return report("shrink_vocabulary", model, changes, numbers=numbers, notes=notes)


def replace_tokenizer(
    model: VisionEncoderDecoderModel,
    tokenizer: Tokenizer | str | PathLike[str],
    *,
    processor: TrOCRProcessor,
    corpus: Corpus | None = None,
    seed: int = 0,
) -> SurgeryReport:
    """Take another tokenizer, of any family; rows go along with what their tokens write.

    A token has the row of the old token that writes the same text, with a space before it or without ("Ġthe",
    "▁the" and WordPiece's "the" are one). Special tokens have the rows of those with the same role. Where
    there is none, the row is the mean of the rows of the pieces by which the old tokenizer writes the token's
    text; and where it cannot write it, it is drawn from the mean and deviation of the old rows.

    The end, padding and begin tokens become those of the new tokenizer. Texts start with its end token, or
    with its begin token where it has no `eos_token` (BERT's), as in models that `assemble` makes; a model
    whose texts started with another token than that goes on with the token of the same role.

    Args:
        model: changed in place.
        tokenizer: one of ours, or a directory or Hub id with its files.
        processor: its tokenizer is replaced.
        corpus: texts to count tokens on, before and after.
        seed: of rows that are drawn.
    Returns:
        The report; numbers as those of `extend_vocabulary`.
    Raises:
        SurgeryError: it cannot be loaded or lacks a token for begin, end or padding; the processor's
            tokenizer is not this model's; the corpus cannot be read; a model with an adapter.
    Source: "Fine-Tuning Transformers: Vocabulary Transfer" (arXiv:2112.14569).
    Differs: unilm's `--adapt-dictionary` copies rows by index, whatever their tokens are.
    """
    editor = check_pair(model, processor)
    found = load_any(tokenizer)
    after = asked(edit, found)
    special = special_ids(found)
    texts = None if corpus is None else read_corpus(corpus)
    matched = match(editor, after)
    ids = matched.ids()
    start = new_start(model.config, editor.tokenizer, found, ids)
    old_start = model.config.decoder_start_token_id
    read = {} if old_start in (None, matched.carried.get(start)) else {start: old_start}
    plan = RowPlan(
        size=after.num_ids,
        tokens=editor.num_ids,
        carried=matched.carried,
        composed=matched.composed,
        new=frozenset(matched.new),
        read=read,
    )
    old_rows = model.config.decoder.vocab_size
    numbers = {**plan.numbers(old_rows), **compared(editor, after, texts)}
    special = {**special, "decoder_start_token_id": start}
    followed = follow(model, ids, vocab_size=plan.size, special=special)
    notes = [*_positions(model, special["pad_token_id"]), *_lost(followed.lost)]
    if read:
        names = found.convert_ids_to_tokens(start), editor.tokenizer.convert_ids_to_tokens(read[start])
        notes.append(f"texts start with {names[0]!r} instead of {names[1]!r}; {_STARTS[bool(model.tied)]}")
    changes = replace_rows(model, plan, followed, seed=seed, action="carried")
    processor.tokenizer = found
    notes += forget_adapter(model)
    return report("replace_tokenizer", model, changes, numbers=numbers, notes=notes)


def _made(editor: Editor, edited: Edited) -> tuple[dict[int, tuple[int, ...]], list[int]]:
    composed, new = {}, []
    for token_id, text in edited.made.items():
        pieces = tuple(editor.pieces(text))
        if pieces:
            composed[token_id] = pieces
        else:
            new.append(token_id)
    return composed, new


def _known(tokens: Sequence[str]) -> list[str]:
    return [f"there already: {some(map(repr, tokens))}"] if tokens else []


def _told_moves(editor: Editor, edited: Edited) -> list[str]:
    name = editor.tokenizer.convert_ids_to_tokens
    moved = [f"{name(old)} {old} -> {new}" for new, old in sorted(edited.carried.items()) if new != old]
    return [f"ids that changed: {some(moved)}"] if moved else []


def _positions(model: VisionEncoderDecoderModel, padding_id: int) -> list[str]:
    positions = model.decoder.embed_positions
    if not isinstance(positions, SinusoidalPositions) or positions.padding_idx == padding_id:
        return []
    return [
        f"the padding token's id went from {positions.padding_idx} to {padding_id}, and sinusoidal positions "
        "are counted from it: all positions are others, so the model must be trained further"
    ]


def _lost(lost: Sequence[str]) -> list[str]:
    return [f"left out, because the token is gone: {some(lost)}"] if lost else []
