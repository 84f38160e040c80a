"""Which class a directory is loaded with."""

import json
from pathlib import Path

import pytest

from trocr.tokenizers import (
    BertTokenizer,
    RobertaTokenizer,
    TokenizerError,
    XLMRobertaTokenizer,
    load_tokenizer,
)

FAMILIES = {"roberta": RobertaTokenizer, "xlm": XLMRobertaTokenizer, "bert": BertTokenizer}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> type:
    return FAMILIES[request.param]


@pytest.mark.parametrize("name", ["the same", "Fast", "PreTrainedTokenizerFast", "TokenizersBackend", None])
def test_by_class_name_or_document(tmp_path: Path, family: type, name: str | None) -> None:
    family().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = {"the same": family.__name__, "Fast": f"{family.__name__}Fast"}.get(
        str(name), name
    )
    path.write_text(json.dumps(config))
    assert type(load_tokenizer(tmp_path)) is family


def test_by_the_files(tmp_path: Path, reference: Path) -> None:
    RobertaTokenizer().save_pretrained(tmp_path / "roberta")
    BertTokenizer().save_pretrained(tmp_path / "bert")
    for name in ("roberta", "bert"):
        for document in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name / document).unlink()
    (tmp_path / "xlm").mkdir()
    model = "sentencepiece.bpe.model"
    (tmp_path / "xlm" / model).symlink_to(reference / "trocr-small-printed" / model)
    for name, kind in FAMILIES.items():
        assert type(load_tokenizer(tmp_path / name)) is kind


def test_the_shipped_and_the_official_ones(tiny_dir: Path, reference: Path) -> None:
    assert type(load_tokenizer(tiny_dir)) is RobertaTokenizer
    assert type(load_tokenizer(reference / "trocr-small-printed")) is XLMRobertaTokenizer
    assert type(load_tokenizer(reference / "roberta-bpe")) is RobertaTokenizer


def test_what_is_not_implemented(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(
        TokenizerError, match="tokenizer_class is 'T5Tokenizer'; implemented are RobertaTokenizer"
    ):
        load_tokenizer(tmp_path)
    config.write_text("{}")
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    with pytest.raises(
        TokenizerError, match=r"tokenizer.json: the model is 'WordLevel'; implemented are BPE"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer files; expected .*; found tokenizer_config.json"):
        load_tokenizer(tmp_path)
    config.write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json: no JSON at line 1"):
        load_tokenizer(tmp_path)
