"""Tiny models of all families with tokenizers of all kinds, and what every vocabulary must keep."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.config import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.hub import PRETRAINED
from trocr.image import ViTImageProcessor
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.tokenizer_training import train_tokenizer
from trocr.tokenizers import Tokenizer, XLMRobertaTokenizer, load_tokenizer
from trocr.tokenizers.sentencepiece_model import SentencePieceModel

sys.path.append(str(Path(__file__).resolve().parents[1] / "tokenizers"))  # SentencePiece models

from families import FAMILIES, Family, load_hf, randomise
from tiny_spm import train as train_sentencepiece

SPARE = 7
"""Rows of the models beyond the tokenizer's tokens."""

LOGITS = 1e-5
"""Difference from `transformers` in float32, relative to the largest logit: orders of summation differ."""

ENGLISH = (
    "the quick brown fox jumps over the lazy dog",
    "a total of 123.45 was paid to the printers",
    "nothing but the truth, they said; the others left",
)
FRENCH = ("l'été à Noël, où le cœur est là", "Œuvre de père et mère, déjà payée", "ÇA ET LÀ: 12 €")
ARABIC = ("السلام عليكم ورحمة الله", "هذا الكتاب قديم جدا", "في البيت كتاب جديد وقلم قديم")
HINDI = ("नमस्ते दुनिया यह एक किताब है", "यह किताब बहुत पुरानी है", "घर में एक नई किताब है")
VIETNAMESE = ("tiếng Việt rất đẹp và phong phú", "quyển sách này rất cũ", "trong nhà có một quyển sách mới")
ALL_TEXTS = (*ENGLISH, *FRENCH, *ARABIC, *HINDI, *VIETNAMESE)


@cache
def _tokenizer(kind: str) -> Tokenizer:
    if kind == "shipped":
        return load_tokenizer(PRETRAINED / "tiny-printed")
    if kind == "sentencepiece":  # with a normaliser, from a model file of SentencePiece itself
        return XLMRobertaTokenizer(SentencePieceModel.from_bytes(train_sentencepiece()))
    size = {"byte-bpe": 300, "unigram": 110, "wordpiece": 130}[kind]
    return train_tokenizer([*ENGLISH, *FRENCH] * 3, kind=kind, vocab_size=size)  # type: ignore[arg-type]


def tokenizer(kind: str) -> Tokenizer:
    """ "shipped", "sentencepiece", "byte-bpe", "unigram" or "wordpiece"."""
    return copy.deepcopy(_tokenizer(kind))


KINDS = ("shipped", "sentencepiece", "wordpiece")
"""One of each family: byte-level BPE, SentencePiece unigram, WordPiece."""


def make(
    family: str | Family = "learned", kind: str = "shipped", *, spare: int = SPARE
) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    """A random model of a family with `spare` rows more than its tokenizer has tokens, and its processor."""
    family = FAMILIES[family] if isinstance(family, str) else family
    text = tokenizer(kind)
    end = text.eos_token_id if text.eos_token_id is not None else text.sep_token_id
    begin = text.bos_token_id if text.bos_token_id is not None else text.cls_token_id
    ids = {
        "pad_token_id": text.pad_token_id,
        "eos_token_id": end,
        "bos_token_id": begin,
        "decoder_start_token_id": end if text.eos_token_id is not None else begin,
    }
    encoder = (DeiTConfig if family.deit else ViTConfig)(**family.encoder)
    decoder = TrOCRConfig(**{**family.decoder, "vocab_size": len(text) + spare, **ids})
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config).eval()
    randomise(model)
    model.tie_weights()
    height, width = family.image_hw
    image_processor = ViTImageProcessor(size={"height": height, "width": width})
    return model, TrOCRProcessor(image_processor, text)


def pixels(model: VisionEncoderDecoderModel, count: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(5)
    config = model.config.encoder
    return torch.randn(count, config.num_channels, *config.image_hw, generator=random)


@torch.no_grad()
def logits(model: nn.Module, pixel_values: Tensor, ids: Tensor) -> Tensor:
    return model(pixel_values=pixel_values, decoder_input_ids=ids).logits


def rows(model: VisionEncoderDecoderModel) -> tuple[Tensor, Tensor]:
    """Copies of the embedding and the output projection."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    embedding, projection = (table.weight.detach().clone() for table in tables)
    return embedding, projection


def ids_of(processor: TrOCRProcessor, text: str) -> list[int]:
    found: list[int] = processor.tokenizer(text, add_special_tokens=False).input_ids
    return found


def written_back(tokenizer: Tokenizer, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids))


def snapshot(model: VisionEncoderDecoderModel, processor: TrOCRProcessor) -> tuple[Any, ...]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return (
        state,
        model.config,
        model.generation_config,
        processor.tokenizer,
        processor.tokenizer.get_vocab(),
        dict(processor.tokenizer.added_tokens_decoder),
    )


@contextmanager
def refused(model: VisionEncoderDecoderModel, processor: TrOCRProcessor, message: str) -> Iterator[None]:
    """An operation must fail with this message and leave everything as it was."""
    before = snapshot(model, processor)
    with pytest.raises(SurgeryError, match=message):
        yield
    after = snapshot(model, processor)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:3] == after[1:3]
    assert before[3] is after[3]
    assert before[4:] == after[4:]


def check_saved(
    model: VisionEncoderDecoderModel, processor: TrOCRProcessor, folder: Path, texts: tuple[str, ...]
) -> None:
    """What was saved reads the same, here and in `transformers`: tokens, texts, logits."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    ours = VisionEncoderDecoderModel.from_pretrained(folder)
    ids = torch.randint(3, len(processor.tokenizer), (2, 6), generator=torch.Generator().manual_seed(1))
    image = pixels(model)
    expected = logits(model, image, ids)
    assert torch.equal(logits(ours, image, ids), expected)
    assert ours.config.decoder == model.config.decoder
    assert ours.generation_config == model.generation_config
    loaded = TrOCRProcessor.from_pretrained(folder).tokenizer
    assert loaded.get_vocab() == processor.tokenizer.get_vocab()

    theirs = load_hf(folder)
    found = logits(theirs, image, ids)
    assert float((found - expected).abs().max()) <= LOGITS * float(expected.abs().max())
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts:
        written = processor.tokenizer(text).input_ids
        assert loaded(text).input_ids == written, text
        assert judge(text).input_ids == written, text
        assert judge.decode(written, skip_special_tokens=True) == loaded.decode(
            written, skip_special_tokens=True
        )


def check_generation(model: VisionEncoderDecoderModel) -> None:
    """With a cache and without, the same tokens."""
    image = pixels(model)
    found = [model.generate(image, max_new_tokens=8, use_cache=use) for use in (True, False)]
    assert torch.equal(found[0], found[1])


def check_training(model: VisionEncoderDecoderModel, processor: TrOCRProcessor, text: str) -> None:
    """One step gives every trainable parameter a gradient; that of keys' biases is zero but for rounding."""
    ids = [*ids_of(processor, text)[:12], model.config.decoder.eos_token_id]
    labels = torch.tensor([ids, ids])
    model.train()
    model.zero_grad()
    model(pixel_values=pixels(model), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):
            assert bool(parameter.grad.abs().sum() > 0), name
    model.zero_grad()
    model.eval()
