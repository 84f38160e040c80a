"""Labels: what the tokenizer makes of the texts, and what the loss counts.

Source: unilm `trocr/data.py`: the target is the tokens and `</s>`; positions after it are -100.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from trocr.doctor.findings import Finding, ok, some
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.training.batches import label_ids, pad_labels
from trocr.training.ctc import CTCHead

UNKNOWN_SHARE = 0.001
"""Share of unknown tokens, or of characters that a CTC head lacks, from which on there is a finding."""


def check_labels(
    texts: Sequence[tuple[str, str]],
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    *,
    limit: int,
    ctc: CTCHead | None = None,
) -> Iterator[Finding]:
    """Look at labels as training makes them.

    Args:
        texts: (name, text) of lines.
        model: its generation is to write them.
        processor: its tokenizer makes them.
        limit: most tokens of a label; longer ones are cut.
        ctc: head that is trained too, or None.
    """
    rows = [label_ids(processor, text) for _, text in texts]
    yield from _round_trip(texts, rows, processor)
    yield from _unknown(rows, processor)
    yield from _lengths(texts, rows, model, limit)
    yield from _special(texts, rows, model, processor)
    if ctc is not None:
        yield from _alphabet(texts, ctc)


def _round_trip(
    texts: Sequence[tuple[str, str]], rows: Sequence[Sequence[int]], processor: TrOCRProcessor
) -> Iterator[Finding]:
    back = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    wrong = [
        f"{name}: {text!r} comes back as {found!r}"
        for (name, text), found in zip(texts, back, strict=True)
        if found != text
    ]
    only_spaces = all(
        " ".join(text.split()) == " ".join(found.split())
        for (_, text), found in zip(texts, back, strict=True)
        if found != text
    )
    if not wrong:
        yield ok("round trip", f"{len(texts)} texts come back from the tokenizer as they were")
    else:
        yield Finding(
            "warning" if only_spaces else "error",
            "round trip",
            f"{len(wrong)} of {len(texts)} texts come back otherwise: {some(wrong)}",
            "the model can never write these texts; their characters count as errors for ever",
            "clean the spaces of the texts"
            if only_spaces
            else "extend the vocabulary, or normalise the texts",
        )


def _unknown(rows: Sequence[Sequence[int]], processor: TrOCRProcessor) -> Iterator[Finding]:
    unknown, total = processor.tokenizer.unk_token_id, sum(map(len, rows))
    count = sum(token == unknown for row in rows for token in row) if unknown is not None else 0
    if count / total > UNKNOWN_SHARE:
        yield Finding(
            "error",
            "unknown tokens",
            f"{count} of {total} tokens ({count / total:.1%}) are unknown to the tokenizer",
            "the model learns to write the unknown token, which is no text",
            "take a checkpoint whose tokenizer has this alphabet, or extend the vocabulary",
        )
    else:
        yield ok("unknown tokens", f"{count} of {total}")


def _lengths(
    texts: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[int]],
    model: VisionEncoderDecoderModel,
    limit: int,
) -> Iterator[Finding]:
    is_own = limit < model.config.decoder.max_position_embeddings
    bound = "data.max_label_tokens" if is_own else "the decoder's positions"
    cut = [f"{name} ({len(row)})" for (name, _), row in zip(texts, rows, strict=True) if len(row) > limit]
    longest = max(map(len, rows))
    if cut:
        yield Finding(
            "error",
            "length",
            f"{len(cut)} of {len(rows)} labels have more tokens than {limit}, {bound}: {some(cut)}",
            "they are cut before their end token: the model learns to stop in mid-text",
            f"raise data.max_label_tokens to {longest}, or set it to 0"
            if is_own
            else "cut these lines in two, take them out, or take a model with more positions",
        )
    else:
        yield ok("length", f"the longest label has {longest} tokens, {bound} are {limit}")
    allowed = _generated(model)
    if allowed is not None and longest > allowed:
        yield Finding(
            "warning",
            "generation length",
            f"labels have up to {longest} tokens and generation stops after {allowed}",
            "long texts are cut when the model reads, in validation too",
            f"set max_new_tokens={longest} or more in generation_config.json",
        )


def _alphabet(texts: Sequence[tuple[str, str]], ctc: CTCHead) -> Iterator[Finding]:
    characters = Counter(character for _, text in texts for character in text)
    outside = Counter({c: count for c, count in characters.items() if c not in ctc.classes})
    count, total = outside.total(), max(characters.total(), 1)
    if count / total > UNKNOWN_SHARE:
        yield Finding(
            "warning",
            "CTC alphabet",
            f"{count} of {total} characters ({count / total:.1%}) are not in loss.ctc_alphabet: "
            f"{some([repr(character) for character, _ in outside.most_common()], 10)}",
            "the head learns to pass over them, and so does the encoder",
            "add them to loss.ctc_alphabet",
        )
    else:
        yield ok("CTC alphabet", f"{count} of {total} characters are not in it")


def _generated(model: VisionEncoderDecoderModel) -> int | None:
    """Most tokens that generation writes by the model's own settings."""
    options = model.generation_config
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    return None if options.max_length is None else options.max_length - 1


def _special(
    texts: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[int]],
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
) -> Iterator[Finding]:
    """Padding must be masked, the end counted, and no special token must stand within a text."""
    labels = pad_labels(rows[:64], multiple=8)
    padding = model.config.pad_token_id
    ends = [int(row[row != -100][-1]) for row in labels]
    if not set(ends) <= {processor.tokenizer.eos_token_id, processor.tokenizer.sep_token_id}:
        yield Finding(
            "error",
            "masking",
            "labels do not end with the end token",
            "the model never learns to stop",
            "set the tokenizer's eos_token",
        )
        return
    special = set(processor.tokenizer.all_special_ids)
    within = [name for (name, _), row in zip(texts, rows, strict=True) if special & set(row[:-1])]
    if within:
        yield Finding(
            "error",
            "masking",
            f"{len(within)} texts hold special tokens: {some(within)}",
            f"padding ({padding}), start or end tokens within a text are masked, or end it early",
            "take '<s>', '</s>', '<pad>' and the like out of the texts",
        )
    else:
        masked = float((labels == -100).float().mean())
        yield ok("masking", f"padding is -100 ({masked:.0%} of a batch), the end token counts, none within")
