"""`tokenizer.json`: documents of other pipelines are refused, old forms are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from trocr.tokenizers import BertTokenizer, RobertaTokenizer, Tokenizer, TokenizerError, load_tokenizer
from trocr.tokenizers.tokenizer_json import model_type

ROBERTA = RobertaTokenizer(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "<mask>"], ["a b"])
BERT = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"])


def saved(tokenizer: Tokenizer, directory: Path, change: Any = None) -> Path:
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer.json"
    document = json.loads(path.read_text())
    if change:
        change(document)
    path.write_text(json.dumps(document))
    return directory


def put(document: dict[str, Any], where: str, value: Any) -> None:
    *parents, last = where.split(".")
    for parent in parents:
        document = document[parent]
    document[last] = value


@pytest.mark.parametrize(
    ("tokenizer", "where", "value", "message"),
    [
        (
            ROBERTA,
            "model.type",
            "Unigram",
            "model.type is 'Unigram'; RobertaTokenizer implements only 'BPE' or None",
        ),
        (ROBERTA, "model.byte_fallback", True, "model.byte_fallback is True; .* only False"),
        (ROBERTA, "model.unk_token", "<unk>", "model.unk_token is '<unk>'; .* only None"),
        (ROBERTA, "model.end_of_word_suffix", "</w>", "model.end_of_word_suffix is '</w>'"),
        (
            ROBERTA,
            "pre_tokenizer",
            {"type": "Metaspace"},
            "pre_tokenizer.type is 'Metaspace'; .* only 'ByteLevel'",
        ),
        (ROBERTA, "pre_tokenizer.use_regex", False, "pre_tokenizer.use_regex is False"),
        (ROBERTA, "normalizer", {"type": "NFC"}, "normalizer.type is 'NFC'; .* only None"),
        (ROBERTA, "decoder", None, "decoder.type is None; .* only 'ByteLevel'"),
        (
            ROBERTA,
            "post_processor",
            {"type": "ByteLevel"},
            r"the post_processor \(ByteLevel\) makes 'A' of a text A; RobertaTokenizer makes '<s> A </s>'",
        ),
        (ROBERTA, "post_processor.sep", ["<s>", 0], r"\(RobertaProcessing\) makes '<s> A <s>' of a text A"),
        (ROBERTA, "model.vocab", {}, "found no vocabulary, expected an object of token: id"),
        (ROBERTA, "model.merges", ["a"], "merge 1 is 'a', expected two tokens with one space between"),
        (ROBERTA, "model.merges", ["a c"], "merge 1 joins 'a' and 'c' but the vocabulary has no token 'c'"),
        (
            ROBERTA,
            "added_tokens",
            [{"id": "x", "content": "<s>"}],
            "added token '<s>' has id 'x', expected a number",
        ),
        (ROBERTA, "added_tokens", [{"id": 1}], "found the token {'id': 1}, expected a string or {'content'"),
        (
            ROBERTA,
            "added_tokens",
            [{"id": 4, "content": "b"}],
            "added token 'b' has id 4 but the vocabulary says 5",
        ),
        (
            BERT,
            "model.continuing_subword_prefix",
            "@@",
            "model.continuing_subword_prefix is '@@'; BertTokenizer",
        ),
        (BERT, "model.max_input_chars_per_word", 50, "model.max_input_chars_per_word is 50; .* only 100"),
        (
            BERT,
            "normalizer",
            {"type": "Lowercase"},
            "normalizer.type is 'Lowercase'; .* only 'BertNormalizer'",
        ),
        (BERT, "normalizer.clean_text", False, "normalizer.clean_text is False; .* only True"),
        (BERT, "decoder.cleanup", False, "decoder.cleanup is False"),
        (
            BERT,
            "post_processor.single",
            [],
            r"\(TemplateProcessing\) makes 'A' of a text A; .* '\[CLS\] A \[SEP\]'",
        ),
    ],
)
def test_other_pipelines_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, where: str, value: Any, message: str
) -> None:
    saved(tokenizer, tmp_path, lambda document: put(document, where, value))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_old_and_new_forms_are_read(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["model"]["type"]
        put(document, "model.merges", [["a", "b"]])
        put(document, "padding", {"direction": "Left", "strategy": "BatchLongest", "pad_id": 1})
        put(document, "truncation", {"direction": "Left", "max_length": 4})

    saved(ROBERTA, tmp_path, change)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded("ab").input_ids == ROBERTA("ab").input_ids
    assert (loaded.padding_side, loaded.truncation_side) == ("left", "left")
    assert loaded.get_vocab() == ROBERTA.get_vocab()


def test_options_are_read_from_the_document(tmp_path: Path) -> None:
    BertTokenizer(BERT.get_vocab(), do_lower_case=False, tokenize_chinese_chars=False).save_pretrained(
        tmp_path / "b"
    )
    RobertaTokenizer(ROBERTA.get_vocab(), ["a b"], add_prefix_space=True).save_pretrained(tmp_path / "r")
    for name in "br":
        (tmp_path / name / "tokenizer_config.json").unlink()
    bert, roberta = (load_tokenizer(tmp_path / name) for name in "br")
    assert isinstance(bert, BertTokenizer)
    assert (bert.do_lower_case, bert.tokenize_chinese_chars, bert.strip_accents) == (False, False, None)
    assert isinstance(roberta, RobertaTokenizer)
    assert roberta.add_prefix_space is True


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"type": "WordLevel", "merges": []}, "WordLevel"),
        ({"merges": []}, "BPE"),
        ({"unk_id": 0}, "Unigram"),
        ({"continuing_subword_prefix": "##"}, "WordPiece"),
        ({}, "none"),
        (None, "none"),
    ],
)
def test_model_type(model: Any, kind: str) -> None:
    assert model_type({"model": model}) == kind
