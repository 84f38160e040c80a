"""Tokenizer directories: the files around a vocabulary, read with checks.

The classic files (transformers 4 and the official repositories): `tokenizer_config.json`,
`special_tokens_map.json`, `added_tokens.json` and the vocabulary of the family; and `tokenizer.json`, which
has all of it.

Source: transformers 5.23 `PreTrainedTokenizerBase._from_pretrained` (which file wins), 4.52 (what is
written).
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trocr.tokenizers.added import AddedToken
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.vocabulary import SPECIAL_TOKENS_ATTRIBUTES

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
DOCUMENT_FILE = "tokenizer.json"
AGAIN = "the file is damaged, fetch or save it again"


def existing_directory(source: str | os.PathLike[str]) -> Path:
    """The directory of a tokenizer.

    Raises:
        TokenizerError: it is no directory.
    """
    directory = Path(source)
    if not directory.is_dir():
        raise TokenizerError(
            f"{directory}: no such directory; a tokenizer is loaded from a directory with its files "
            "(to load from the Hub by name, use TrOCRProcessor.from_pretrained)"
        )
    return directory


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        TokenizerError: it is missing or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is no UTF-8 text; {AGAIN}") from error
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror or error}); {AGAIN}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        TokenizerError: the file is no JSON, holds something else than an object, or repeats a key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise TokenizerError(f"{path}: the key {twice!r} is there twice; {AGAIN}")
        return found

    text = read_text(path)
    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path}: no JSON at line {error.lineno}, column {error.colno} ({len(text)} characters); {AGAIN}"
        ) from error
    if not isinstance(data, dict):
        raise TokenizerError(
            f"{path}: found a JSON {type(data).__name__}, expected an object {{...}}; {AGAIN}"
        )
    return data


def check_vocabulary(vocab: Any, source: str | Path) -> dict[str, int]:
    """Check that a vocabulary maps strings to different whole numbers.

    Raises:
        TokenizerError: it does not.
    """
    if not isinstance(vocab, Mapping) or not vocab:
        raise TokenizerError(f"{source}: found no vocabulary, expected an object of token: id; {AGAIN}")
    owners: dict[int, str] = {}
    for token, token_id in vocab.items():
        if (
            not isinstance(token, str)
            or isinstance(token_id, bool)
            or not isinstance(token_id, int)
            or token_id < 0
        ):
            raise TokenizerError(
                f"{source}: token {token!r} has id {token_id!r}, expected a whole number from 0; {AGAIN}"
            )
        if token_id in owners:
            raise TokenizerError(
                f"{source}: id {token_id} belongs to two tokens, {owners[token_id]!r} and {token!r}; "
                f"expected one id for each; {AGAIN}"
            )
        owners[token_id] = token
    return dict(vocab)


def read_added_token(data: Any, source: str | Path) -> AddedToken:
    """An added token as a file describes it: a string, or an object with a `content`.

    Raises:
        TokenizerError: it is neither.
    """
    if isinstance(data, str):
        return AddedToken(data, special=True, normalized=False)
    if isinstance(data, AddedToken):
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get("content"), str):
        raise TokenizerError(
            f"{source}: found the token {data!r}, expected a string or {{'content': ...}}; {AGAIN}"
        )
    return AddedToken.from_dict(data)


def read_special_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Named and extra special tokens of a directory, as constructor arguments.

    `special_tokens_map.json` wins over `tokenizer_config.json`, unless that has `added_tokens_decoder` (then
    it is complete). A JSON null unsets a token.
    """
    names = SPECIAL_TOKENS_ATTRIBUTES
    wanted = (*names, "additional_special_tokens", "extra_special_tokens")
    found = {name: config[name] for name in wanted if name in config}
    source = directory / CONFIG_FILE
    special_file = directory / SPECIAL_FILE
    if "added_tokens_decoder" not in config and special_file.is_file():
        found.update(read_json(special_file))
        source = special_file
    arguments: dict[str, Any] = {}
    for name in names:
        if name in found:
            value = found[name]
            plain = value is None or isinstance(value, str)
            arguments[name] = value if plain else read_added_token(value, source).resolve(special=True)
    extra = found.get("extra_special_tokens") or found.get("additional_special_tokens") or []
    if isinstance(extra, Mapping):
        extra = list(extra.values())
    arguments["extra_special_tokens"] = [
        token if isinstance(token, str) else read_added_token(token, source) for token in extra
    ]
    return arguments


def read_added_tokens(
    directory: Path, config: Mapping[str, Any], document: Mapping[str, Any] | None, special: frozenset[str]
) -> dict[int, AddedToken]:
    """Added tokens of a directory by id.

    They come from `added_tokens.json`, `tokenizer.json` and `added_tokens_decoder`; the last one wins.

    Args:
        directory: where `added_tokens.json` may be.
        config: `tokenizer_config.json`.
        document: `tokenizer.json`, None where there is none.
        special: contents that are special tokens, for `added_tokens.json`, which does not say.
    """
    found: dict[int, AddedToken] = {}
    added_file = directory / ADDED_FILE
    if "added_tokens_decoder" not in config and added_file.is_file():
        added = read_json(added_file)
        for content, token_id in (check_vocabulary(added, added_file) if added else {}).items():
            known = content in special
            found[token_id] = AddedToken(content, normalized=not known, special=known)
    for entry in (document or {}).get("added_tokens") or []:
        token = read_added_token(entry, directory / DOCUMENT_FILE)
        found[_token_id(entry.get("id"), directory / DOCUMENT_FILE, token)] = token
    for key, entry in (config.get("added_tokens_decoder") or {}).items():
        token = read_added_token(entry, directory / CONFIG_FILE)
        found[_token_id(key, directory / CONFIG_FILE, token)] = token
    return found


def _token_id(value: Any, source: Path, token: AddedToken) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise TokenizerError(
            f"{source}: added token {token.content!r} has id {value!r}, expected a number; {AGAIN}"
        )
    return number


def read_sides(document: Mapping[str, Any]) -> dict[str, str]:
    """Constructor arguments from the padding and truncation that a `tokenizer.json` may have."""
    sides = {}
    for name, argument in (("padding", "padding_side"), ("truncation", "truncation_side")):
        direction = (document.get(name) or {}).get("direction")
        if direction:
            sides[argument] = str(direction).lower()
    return sides


def json_bytes(data: Any) -> bytes:
    """JSON as these files have it: two spaces, UTF-8, a newline at the end."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def without(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy that lacks a key."""
    return {name: value for name, value in data.items() if name != key}
