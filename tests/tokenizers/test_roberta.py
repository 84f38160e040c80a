"""RoBERTa's tokenizer: its constructor, its files and what is wrong with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trocr.tokenizers import RobertaTokenizer, RobertaTokenizerFast, TokenizerError, load_tokenizer

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "l", "o", "w", "Ġ", "lo", "low", "Ġlow", "<mask>"]
VOCAB = {token: index for index, token in enumerate(TOKENS)}
MERGES = ["l o", "lo w", "Ġ low"]
transformers = pytest.importorskip("transformers")


def write(directory: Path, *, vocab: Any = VOCAB, merges: str | None = None) -> Path:
    content = vocab if isinstance(vocab, str | bytes) else json.dumps(vocab, ensure_ascii=False)
    (directory / "vocab.json").write_bytes(content.encode() if isinstance(content, str) else content)
    lines = "\n".join(["#version: 0.2", *MERGES, ""]) if merges is None else merges
    (directory / "merges.txt").write_text(lines, encoding="utf-8")
    return directory


def test_the_official_vocabulary(roberta_dir: Path) -> None:
    tokenizer = RobertaTokenizer.from_pretrained(roberta_dir)
    assert tokenizer("Hello world").input_ids == [0, 31414, 232, 2]
    assert tokenizer(" Hello world").input_ids == [0, 20920, 232, 2]
    assert tokenizer("a", "b").input_ids == [0, 102, 2, 2, 428, 2]
    assert (len(tokenizer), tokenizer.mask_token_id, tokenizer.convert_tokens_to_ids("Ġthe")) == (
        50265,
        50264,
        5,
    )


def test_every_way_to_construct_one(tmp_path: Path) -> None:
    write(tmp_path)
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    pairs = [tuple(merge.split()) for merge in MERGES]
    for tokenizer in (
        RobertaTokenizer(VOCAB, MERGES),
        RobertaTokenizer(TOKENS, pairs),
        RobertaTokenizer(vocab=VOCAB, merges=pairs),
        RobertaTokenizer(str(vocab), str(merges)),
        RobertaTokenizer(vocab_file=vocab, merges_file=merges),
        RobertaTokenizerFast.from_pretrained(tmp_path),
        load_tokenizer(str(tmp_path)),
    ):
        assert tokenizer("low lowlo").input_ids == [0, 9, 10, 8, 2]
        assert tokenizer.tokenize("low lowlo") == ["low", "Ġlow", "lo"]
    assert RobertaTokenizer().get_vocab() == transformers.RobertaTokenizer().get_vocab()


def test_a_space_in_front() -> None:
    spaced = RobertaTokenizer(VOCAB, MERGES, add_prefix_space=True)
    assert spaced.tokenize("low") == spaced.tokenize(" low") == ["Ġlow"]
    assert spaced.tokenize("low<mask>low") == ["Ġlow", "<mask>", "Ġlow"]


def test_errors_of_decoding() -> None:
    vocab = {**VOCAB, "Ã": len(VOCAB)}
    assert RobertaTokenizer(vocab, MERGES).decode([vocab["Ã"], 4]) == "\ufffdl"
    assert RobertaTokenizer(vocab, MERGES, errors="ignore").decode([vocab["Ã"], 4]) == "l"


def test_options_come_from_the_files(tmp_path: Path) -> None:
    config = {
        "add_prefix_space": True,
        "model_max_length": 9,
        "mask_token": {"content": "<mask>", "lstrip": True},
    }
    (write(tmp_path) / "tokenizer_config.json").write_text(json.dumps({**config, "name_or_path": "x"}))
    ours, judge = RobertaTokenizer.from_pretrained(tmp_path), transformers.RobertaTokenizer.from_pretrained
    assert ours.model_max_length == 9
    assert ours("low <mask>").input_ids == [0, 10, 11, 2]
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": "<mask>", "pad_token": "<unk>"})
    )
    ours = RobertaTokenizer.from_pretrained(tmp_path)
    assert ours("low <mask>").input_ids == judge(tmp_path)("low <mask>").input_ids == [0, 10, 7, 11, 2]
    assert ours.pad_token == judge(tmp_path).pad_token == "<unk>"
    assert RobertaTokenizer.from_pretrained(tmp_path, pad_token="o", add_prefix_space=False).pad_token_id == 5


def test_added_tokens_come_from_the_files(tmp_path: Path) -> None:
    (write(tmp_path) / "added_tokens.json").write_text(json.dumps({"wow": 12, "<fill>": 13}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<fill>"}))
    ours = RobertaTokenizer.from_pretrained(tmp_path)
    assert ours("wow<fill>").input_ids == [0, 12, 13, 2]
    assert ours.decode([12, 13], skip_special_tokens=True) == "wow"


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ('{"<s>": 0,', r"vocab.json: no JSON at line 1, column 11 \(10 characters\); the file is damaged"),
        ("[1]", "vocab.json: found a JSON list, expected an object"),
        ("{}", "vocab.json: found no vocabulary, expected an object of token: id"),
        (b"\xff{}", "vocab.json: byte 0 is no UTF-8 text"),
        ('{"a": 0, "b": 1, "a": 2}', "vocab.json: the key 'a' is there twice"),
        ({**VOCAB, "x": 4}, "vocab.json: id 4 belongs to two tokens, 'l' and 'x'; expected one id for each"),
        ({**VOCAB, "x": "4"}, "vocab.json: token 'x' has id '4', expected a whole number from 0"),
        ({**VOCAB, "x": -4}, "vocab.json: token 'x' has id -4, expected a whole number"),
        (
            {token: i for token, i in VOCAB.items() if i != 8},
            "merge 1 joins 'l' and 'o' but .* no token 'lo'",
        ),
        (
            {token: i for token, i in VOCAB.items() if i != 2},
            r"the sep_token '</s>' has no id: .*\(11 tokens\) nor an added token; .* with sep_token=",
        ),
    ],
)
def test_a_damaged_vocabulary(tmp_path: Path, vocab: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        RobertaTokenizer.from_pretrained(write(tmp_path, vocab=vocab))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("line", ["lo", "l o w", "l  o", " o"])
def test_damaged_merges(tmp_path: Path, line: str) -> None:
    with pytest.raises(
        TokenizerError, match=r"merges.txt: merge 2 is '.*', expected two tokens with one space"
    ):
        RobertaTokenizer.from_pretrained(write(tmp_path, merges=f"#version: 0.2\nl o\n{line}\n"))


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(TokenizerError, match=rf"{tmp_path}: {name} is missing; RobertaTokenizer needs"):
        RobertaTokenizer.from_pretrained(tmp_path)


def test_missing_merges_and_directories(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(TokenizerError, match=r"vocab.json: the merges are missing; pass merges_file"):
        RobertaTokenizer(tmp_path / "vocab.json")
    with pytest.raises(TokenizerError, match=r"nowhere: no such directory; .*TrOCRProcessor.from_pretrained"):
        RobertaTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"none.json: cannot be read \(No such file"):
        RobertaTokenizer(tmp_path / "none.json", MERGES)


def test_a_merge_of_hash_signs_is_no_comment(tmp_path: Path) -> None:
    vocab = [*TOKENS, "#", "##"]
    write(
        tmp_path, vocab={token: i for i, token in enumerate(vocab)}, merges="#version: 0.2\r\n# #\r\nl o\r\n"
    )
    ours, judge = (
        RobertaTokenizer.from_pretrained(tmp_path),
        transformers.RobertaTokenizer.from_pretrained(tmp_path),
    )
    assert ours("##lo").input_ids == judge("##lo").input_ids == [0, 13, 8, 2]


def test_document_wins_over_classic_files(tmp_path: Path, tiny_dir: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model*"))
    RobertaTokenizer(VOCAB, MERGES).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path)
    assert len(load_tokenizer(tmp_path)) == len(VOCAB)
