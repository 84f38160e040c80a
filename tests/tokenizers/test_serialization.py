"""Files around a vocabulary: which one wins, and writing without loss."""

import json
from pathlib import Path
from typing import Any

import pytest

from trocr.tokenizers import AddedToken, TokenizerError
from trocr.tokenizers import serialization as files


def write(directory: Path, **documents: Any) -> None:
    for name, content in documents.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_the_special_tokens_map_wins_over_the_configuration(tmp_path: Path) -> None:
    config = {"pad_token": "<p>", "mask_token": {"__type": "AddedToken", "content": "<m>", "lstrip": True}}
    found = files.read_special_tokens(tmp_path, config)
    assert found["pad_token"] == "<p>"
    assert found["mask_token"] == AddedToken("<m>", lstrip=True, normalized=False, special=True)
    write(
        tmp_path, special_tokens_map={"pad_token": "<q>", "cls_token": None, "extra_special_tokens": ["<x>"]}
    )
    found = files.read_special_tokens(tmp_path, config)
    assert (found["pad_token"], found["cls_token"], found["extra_special_tokens"]) == ("<q>", None, ["<x>"])
    found = files.read_special_tokens(tmp_path, {**config, "added_tokens_decoder": {}})
    assert found["pad_token"] == "<p>"


@pytest.mark.parametrize(
    "extra", [["<x>", "<y>"], {"one": "<x>", "two": "<y>"}, [{"content": "<x>"}, {"content": "<y>"}]]
)
def test_forms_of_extra_special_tokens(tmp_path: Path, extra: Any) -> None:
    for name in ("extra_special_tokens", "additional_special_tokens"):
        found = files.read_special_tokens(tmp_path, {name: extra})["extra_special_tokens"]
        assert [str(token) for token in found] == ["<x>", "<y>"]


def test_added_tokens_of_three_files(tmp_path: Path) -> None:
    write(tmp_path, added_tokens={"<a>": 5, "b": 6})
    found = files.read_added_tokens(tmp_path, {}, None, frozenset({"<a>"}))
    assert found == {
        5: AddedToken("<a>", normalized=False, special=True),
        6: AddedToken("b", normalized=True),
    }
    document = {"added_tokens": [{"id": 6, "content": "b", "lstrip": True}, {"id": 7, "content": "c"}]}
    found = files.read_added_tokens(tmp_path, {}, document, frozenset())
    assert (found[6].lstrip, found[7].content, found[5].special) == (True, "c", False)
    config = {"added_tokens_decoder": {"7": {"content": "c", "rstrip": True}}}
    found = files.read_added_tokens(tmp_path, config, document, frozenset())
    assert list(found) == [6, 7]
    assert found[7].rstrip


def test_bad_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json: found the token 5, expected a string"):
        files.read_special_tokens(tmp_path, {"pad_token": 5})
    with pytest.raises(TokenizerError, match="added token 'x' has id '-1', expected a number"):
        files.read_added_tokens(
            tmp_path, {"added_tokens_decoder": {"-1": {"content": "x"}}}, None, frozenset()
        )
    write(tmp_path, added_tokens={"x": 1, "y": 1})
    with pytest.raises(TokenizerError, match=r"added_tokens.json: id 1 belongs to two tokens, 'x' and 'y'"):
        files.read_added_tokens(tmp_path, {}, None, frozenset())


def test_json_is_written_as_text() -> None:
    assert files.json_bytes({"Ġé": 1}).decode() == '{\n  "Ġé": 1\n}\n'
