"""What must hold before a vocabulary is changed.

Source: original work.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from trocr.models import VisionEncoderDecoderModel
from trocr.nn.embeddings import SinusoidalPositions
from trocr.processor import TrOCRProcessor
from trocr.surgery.blocks import refuse_adapter
from trocr.surgery.pairing import expect_processor
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.vocabulary_corpus import expect_unicode
from trocr.surgery.vocabulary_ids import needed_ids
from trocr.surgery.vocabulary_match import end_id
from trocr.surgery.vocabulary_rows import check_tables
from trocr.tokenizers import Tokenizer, TokenizerError
from trocr.tokenizers.editing import Editor, edit

_SHOWN = 8
_T = TypeVar("_T")
_P = ParamSpec("_P")


def check_pair(model: VisionEncoderDecoderModel, processor: TrOCRProcessor) -> Editor:
    """The editor of a processor's tokenizer, which must be the one that the model was trained with.

    Raises:
        SurgeryError: it has more tokens than the model rows, or far fewer, or other tokens for padding and
            the end; or it is none of ours; or the model has an adapter.
    """
    refuse_adapter(model)
    tokenizer = expect_processor(processor).tokenizer
    editor = asked(edit, tokenizer)
    check_tables(model)
    rows, config = model.config.decoder.vocab_size, model.config
    reason = ""
    if not editor.num_ids <= rows <= editor.num_ids + Tokenizer.PADDING_IDS:
        reason = f"it has {editor.num_ids} ids, the model {rows} rows"
    ends = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    if config.pad_token_id not in (None, tokenizer.pad_token_id):
        reason = f"it pads with {tokenizer.pad_token_id}, the model with {config.pad_token_id}"
    elif config.eos_token_id is not None and end_id(tokenizer) not in ends:
        reason = f"it ends texts with {end_id(tokenizer)}, the model with {config.eos_token_id}"
    if reason:
        raise SurgeryError(
            f"the processor's tokenizer is not the model's: {reason}; load both from one checkpoint, or set "
            "right what is wrong"
        )
    return editor


def check_tokens(tokens: Iterable[str]) -> list[str]:
    """The tokens of an extension as a list.

    Raises:
        SurgeryError: there are none, or one is empty, white space, no string, or given twice.
    """
    if isinstance(tokens, str):
        raise SurgeryError(
            f"tokens is the string {tokens!r}, expected a list of tokens, such as [{tokens!r}]"
        )
    found = list(tokens)
    if not found:
        raise SurgeryError("no token was given, expected at least one")
    for token in found:
        if not isinstance(token, str) or not token.strip():
            raise SurgeryError(f"a token is {token!r}, expected a string that is more than white space")
        expect_unicode(token, f"token {token!r}")
    twice = [token for token, count in Counter(found).items() if count > 1]
    if twice:
        raise SurgeryError(f"given twice: {some(map(repr, twice))}; give each token once")
    return found


def ids_to_keep(editor: Editor, keep: Iterable[str]) -> set[int]:
    """Ids of tokens by their names, and of the tokens of texts.

    Raises:
        SurgeryError: one is neither.
    """
    if isinstance(keep, str):
        raise SurgeryError(f"keep is the string {keep!r}, expected a list, such as [{keep!r}]")
    found: set[int] = set()
    for name in keep:
        if not isinstance(name, str) or not name:
            raise SurgeryError(f"keep holds {name!r}, expected a token or a text")
        token_id = editor.id_of(name)
        ids = {token_id} if token_id is not None else set(asked(editor.ids, name))
        if not ids or (token_id is None and editor.tokenizer.unk_token_id in ids):
            raise SurgeryError(
                f"keep: {name!r} is no token of the vocabulary and cannot be written with its tokens; leave "
                "it out, or add what is missing with extend_vocabulary"
            )
        found |= ids
    return found


def ids_of_model(model: VisionEncoderDecoderModel, editor: Editor) -> set[int]:
    """Ids that the model's settings need.

    Raises:
        SurgeryError: one has no token.
    """
    needed = needed_ids(model)
    for token_id, where in needed.items():
        if token_id not in editor.token_ids():
            raise SurgeryError(
                f"{where} is {token_id}, an id without a token in the tokenizer; set it to a token's id first"
            )
    return set(needed)


def check_same(before: Editor, after: Editor, ids: Mapping[int, int], texts: Sequence[str]) -> None:
    """Check that a tokenizer writes texts as another does.

    Args:
        before: of the old tokenizer.
        after: of the new one.
        ids: old id -> new id.
        texts: to write.
    Raises:
        SurgeryError: a text comes out otherwise.
    """
    for text in texts:
        old, new = before.ids(text), after.ids(text)
        if [ids.get(token_id) for token_id in old] != new:
            raise SurgeryError(
                f"{text!r} would be written with other tokens than before: {before.tokenizer.tokenize(text)} "
                f"became {after.tokenizer.tokenize(text)}; the model was left as it was"
            )


def check_positions(model: VisionEncoderDecoderModel, padding_id: int | None) -> None:
    """Check that sinusoidal positions stay where they are under a new id of the padding token.

    Raises:
        SurgeryError: they would not.
    """
    positions = model.decoder.embed_positions
    if isinstance(positions, SinusoidalPositions) and positions.padding_idx != padding_id:
        raise SurgeryError(
            f"the id of the padding token would go from {positions.padding_idx} to {padding_id}, and "
            "sinusoidal positions are counted from it: the model would read otherwise"
        )


def asked(function: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """What a tokenizer answers, with its errors as this layer's.

    Raises:
        SurgeryError: where it raises its own.
    """
    try:
        return function(*args, **options)
    except TokenizerError as error:
        raise SurgeryError(str(error)) from error


def some(items: Iterable[str]) -> str:
    """The first few of a list, in words."""
    found = list(items)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
