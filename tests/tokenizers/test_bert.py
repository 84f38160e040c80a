"""BERT's tokenizer: its constructor, its files and what is wrong with them."""

from pathlib import Path

import pytest

from trocr.tokenizers import BertTokenizer, BertTokenizerFast, TokenizerError, load_tokenizer

transformers = pytest.importorskip("transformers")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "##er", "é", "e"]


def write(directory: Path, text: str) -> Path:
    (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="")
    return directory


def test_every_way_to_construct_one(tmp_path: Path) -> None:
    write(tmp_path, "\n".join(TOKENS))
    path = tmp_path / "vocab.txt"
    for tokenizer in (
        BertTokenizer(TOKENS),
        BertTokenizer({token: index for index, token in enumerate(TOKENS)}),
        BertTokenizer(str(path)),
        BertTokenizer(vocab_file=path),
        BertTokenizerFast.from_pretrained(tmp_path),
        load_tokenizer(tmp_path),
    ):
        encoding = tokenizer("Lower é", "low")
        assert encoding.input_ids == [2, 5, 6, 8, 3, 5, 3]
        assert encoding.token_type_ids == [0, 0, 0, 0, 0, 1, 1]
        assert tokenizer.decode(encoding.input_ids) == "[CLS] lower e [SEP] low [SEP]"
    assert BertTokenizer().get_vocab() == transformers.BertTokenizer().get_vocab()
    assert BertTokenizer(path, do_lower_case=False).tokenize("Low é") == ["[UNK]", "é"]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_lines_of_the_vocabulary(tmp_path: Path, end: str) -> None:
    write(tmp_path, "".join(token + end for token in TOKENS))
    ours, judge = (kind.from_pretrained(tmp_path) for kind in (BertTokenizer, transformers.BertTokenizer))
    assert ours.get_vocab() == judge.get_vocab() == {token: index for index, token in enumerate(TOKENS)}


def test_a_missing_mask_token_is_added(tmp_path: Path) -> None:
    write(tmp_path, "\n".join(token for token in TOKENS if token != "[MASK]"))
    ours, judge = (kind.from_pretrained(tmp_path) for kind in (BertTokenizer, transformers.BertTokenizer))
    assert ours.mask_token_id == judge.mask_token_id == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"vocab.txt: found no tokens, expected one on each line; the file is damaged"),
        ("[PAD]\n[UNK]\na\n[UNK]\n", r"vocab.txt: the token '\[UNK\]' is on line 2 and again on line 4"),
        ('{"a": 0}', r"vocab.txt: the unk_token '\[UNK\]' is not in the 1 tokens, and WordPiece needs it"),
        ("[UNK]\n[SEP]\n[PAD]\na\n", r"the cls_token '\[CLS\]' has no id: .* vocabulary \(4 tokens\)"),
    ],
)
def test_a_damaged_vocabulary(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        BertTokenizer.from_pretrained(write(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"vocab.txt is missing; BertTokenizer needs it, or tokenizer.json"
    ):
        BertTokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_with_holes_has_no_text_file(tmp_path: Path) -> None:
    holes = BertTokenizer({token: 2 * index for index, token in enumerate(TOKENS)})
    with pytest.raises(TokenizerError, match=r"no token with id 1, and vocab.txt needs one for every id"):
        holes.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
