"""Special tokens and sizes: the model's configuration against its tokenizer and its family.

Source: all eleven official models start with `</s>` (2), pad with 1 and end with 2; unilm's generator starts
from `</s>`, and public notebooks that start from `<s>` are behind many failed trainings.
"""

from collections.abc import Iterator, Mapping

from trocr.doctor.findings import Finding, ok
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.reader import SPARE_ROWS
from trocr.tokenizers import BertTokenizer, Tokenizer

IMAGE_STATISTICS = {"mean": 0.5, "std": 0.5}
"""How every official model's pixels are normalised, in all channels."""


CLEAR, CLEAR_SHARE = 0.05, 0.1
"""A start token is worse than another where its loss is higher by so many nats a token and by this share."""

_KEYS = {"end token": "eos_token_id", "padding token": "pad_token_id"}

_WHY = {
    "end token": "labels are built with one id and generation looks for another: texts never end, or at once",
    "padding token": "the decoder's input is padded with another token than the one that is masked",
}


def check_tokens(model: VisionEncoderDecoderModel, processor: TrOCRProcessor) -> Iterator[Finding]:
    """Compare padding and end tokens, and the size of the vocabulary."""
    tokenizer, config = processor.tokenizer, model.config
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    yield from _same_id("end token", end, model)
    yield from _same_id("padding token", tokenizer.pad_token_id, model)
    rows, size = config.decoder.vocab_size, len(tokenizer)
    if rows < size:
        yield Finding(
            "error",
            "vocabulary",
            f"the tokenizer has {size} tokens and the embedding {rows} rows",
            "texts with the tokens beyond cannot be trained on: indexing fails, on GPUs without a message",
            "take the checkpoint's own tokenizer, or grow the embedding before training",
        )
    elif rows > size + SPARE_ROWS:
        yield Finding(
            "warning",
            "vocabulary",
            f"the embedding has {rows} rows and the tokenizer {size} tokens",
            "this is probably another checkpoint's tokenizer: its numbers mean other tokens to the decoder",
            "take the tokenizer files of the checkpoint that the weights come from",
        )
    else:
        yield ok("vocabulary", f"{size} tokens, {rows} rows")


def _same_id(name: str, tokenizer_id: int | None, model: VisionEncoderDecoderModel) -> Iterator[Finding]:
    places = {
        "the configuration's": model.config,
        "its decoder's": model.config.decoder,
        "generation's": model.generation_config,
    }
    ids = {place: getattr(holder, _KEYS[name]) for place, holder in places.items()}
    wrong = [
        f"{place} {found}"
        for place, found in ids.items()
        if found is not None and tokenizer_id not in (found if isinstance(found, list | tuple) else [found])
    ]
    if tokenizer_id is None or wrong:
        found = f"the tokenizer's is {tokenizer_id}" + (f", {', '.join(wrong)}" if wrong else "")
        yield Finding(
            "error",
            name,
            found,
            _WHY[name],
            f"set {_KEYS[name]}={tokenizer_id} in config.json (top level and decoder) and "
            "generation_config.json",
        )
    else:
        yield ok(name, f"{tokenizer_id} everywhere")


def start_tokens(processor: TrOCRProcessor) -> list[int]:
    """Tokens that texts may start with: the one of the tokenizer's family first, then the other."""
    tokenizer = processor.tokenizer
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    ids = [end, tokenizer.cls_token_id]
    if isinstance(tokenizer, BertTokenizer):
        ids.reverse()
    return [id for id in ids if id is not None]


def check_start(
    model: VisionEncoderDecoderModel, processor: TrOCRProcessor, losses: Mapping[int, float], *, is_new: bool
) -> Iterator[Finding]:
    """Look at the token that texts start with.

    Args:
        model: its configuration and generation name it.
        processor: its tokenizer has a usual one.
        losses: loss per token by start token, where it could be measured; see `start_losses`.
        is_new: the weights are random, and learn any start token.
    """
    trained = model.config.decoder_start_token_id
    generated = model.generation_config.decoder_start_token_id
    if trained is None:
        yield Finding(
            "error",
            "start token",
            "the configuration has no decoder_start_token_id",
            "labels cannot be shifted into the decoder's input",
            f"set decoder_start_token_id={start_tokens(processor)[0]} in config.json",
        )
        return
    if generated is not None and generated != trained:
        yield Finding(
            "error",
            "start token",
            f"training starts texts with {trained}, generation with {generated}",
            "the decoder has never seen the token it is started with: CER stays high although the loss falls",
            f"set decoder_start_token_id={trained} in generation_config.json too",
        )
        return
    below = model.config.decoder.decoder_start_token_id
    if below != trained:
        yield Finding(
            "warning",
            "decoder's start token",
            f"texts start with {trained}, and decoder.decoder_start_token_id is {below}",
            "programs that take the decoder's part of the configuration start texts otherwise",
            "set both in config.json to the token that the weights were trained from",
        )
    yield _usual_start(trained, processor, losses, is_new=is_new)


def _usual_start(
    trained: int, processor: TrOCRProcessor, losses: Mapping[int, float], *, is_new: bool
) -> Finding:
    tokenizer = processor.tokenizer
    usual, *others = start_tokens(processor)
    rival = usual if trained != usual else others[0] if others else trained
    own, other = losses.get(trained), losses.get(rival)
    here = f"{trained} ({_token(tokenizer, trained)})"
    there = f"{rival} ({_token(tokenizer, rival)})"
    measured = ""
    if own is not None and other is not None:
        measured = f"; these lines cost {own:.2f} a token from {trained} and {other:.2f} from {rival}"
        if own - other > CLEAR + CLEAR_SHARE * other:
            return Finding(
                "error",
                "start token",
                f"texts start with {here}, and the weights were trained from {there}{measured}",
                "the decoder begins with a token that it hardly knows: the usual cause of a CER that does "
                "not fall although the loss does",
                f"set decoder_start_token_id={rival} in config.json (top level and decoder) and "
                "generation_config.json",
            )
        if other - own > CLEAR + CLEAR_SHARE * own:
            return ok("start token", f"{here}, in training and generation{measured}")
    if trained == usual or is_new:
        return ok("start token", f"{here}, in training and generation{measured}")
    return Finding(
        "warning",
        "start token",
        f"texts start with {here}; models of this family start with {there}{measured}",
        "official weights were trained from </s>; from <s> they read worse at first, and labels with <s> "
        "begin twice",
        f"set decoder_start_token_id={usual}, unless this checkpoint was trained otherwise",
    )


def _token(tokenizer: Tokenizer, id: int | None) -> str:
    return "none" if id is None else repr(tokenizer.convert_ids_to_tokens(id))


def check_processor(model: VisionEncoderDecoderModel, processor: TrOCRProcessor) -> Iterator[Finding]:
    """Compare the images that the processor makes with those that the encoder takes."""
    settings, wanted = processor.image_processor, model.encoder.embeddings.image_hw
    size = settings.size
    made = (size.get("height"), size.get("width"))
    if made != tuple(wanted):
        yield Finding(
            "error",
            "image size",
            f"the processor makes {made[0]} x {made[1]} pixels (height x width), the encoder takes "
            f"{wanted[0]} x {wanted[1]}",
            "the encoder refuses the images, or reads them with positions of another grid",
            f'set size to {{"height": {wanted[0]}, "width": {wanted[1]}}} in preprocessor_config.json',
        )
    else:
        yield ok("image size", f"{wanted[0]} x {wanted[1]} pixels")
    mean, std = settings.image_mean, settings.image_std
    usual = all(value == 0.5 for value in (*_values(mean), *_values(std)))
    if settings.do_normalize and settings.do_rescale and usual:
        yield ok("normalisation", "mean 0.5, deviation 0.5: pixels from -1 to 1")
    else:
        yield Finding(
            "warning",
            "normalisation",
            f"mean {mean}, deviation {std}, rescaling {settings.do_rescale}, normalising "
            f"{settings.do_normalize}",
            "every official model was trained on pixels from -1 to 1; others shift all activations",
            "set image_mean and image_std to 0.5 in preprocessor_config.json, unless this encoder is another",
        )


def _values(value: object) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)  # type: ignore[return-value]
