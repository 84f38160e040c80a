"""`tokenizer.json`: checks that a document describes the pipeline a family implements; parts to write one.

Source: tokenizers 0.23 (the serialised form of each component).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trocr.tokenizers.encoding import Template
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.serialization import DOCUMENT_FILE


def model_type(document: Mapping[str, Any]) -> str:
    """The model's type: "BPE", "WordPiece", "Unigram" or another (old documents say it by their keys)."""
    model = document.get("model")
    if not isinstance(model, Mapping):
        return "none"
    if isinstance(model.get("type"), str):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "Unigram" if "unk_id" in model else "WordPiece" if "continuing_subword_prefix" in model else "none"


def section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of the document; an empty one where it is null or missing."""
    return dict(document.get(name) or {})


def expect(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, where: str, source: Any, family: str
) -> None:
    """Refuse a component that does something the family does not implement.

    Args:
        found: a section of the document (or a part of one).
        expected: key -> the only values that will do, in a tuple; a missing key counts as None.
        where: name of the section, for the message.
        source: path of the file.
        family: name of the tokenizer class.
    Raises:
        TokenizerError: a value is another one.
    """
    for key, values in expected.items():
        value = found.get(key)
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
            raise TokenizerError(
                f"{source}: {where}.{key} is {value!r}; {family} implements only "
                f"{' or '.join(map(repr, values))}; the file belongs to another kind of tokenizer"
            )


def check_template(document: Mapping[str, Any], template: Template, *, source: Any, family: str) -> None:
    """Refuse a post-processor that puts other special tokens around a text than the family does.

    Args:
        document: `tokenizer.json`.
        template: the family's.
        source: path of the file.
        family: name of the tokenizer class.
    Raises:
        TokenizerError: it does.
    """
    processor = section(document, "post_processor")
    kind = processor.get("type")
    if kind in ("RobertaProcessing", "BertProcessing"):
        start, end = (tuple(processor.get(name) or ())[:1] for name in ("cls", "sep"))
        found = (start, end)
    elif kind == "TemplateProcessing":
        parts = [_special_of(part) for part in processor.get("single") or ()]
        middle = parts.index(None) if None in parts else len(parts)
        found = (tuple(parts[:middle]), tuple(parts[middle + 1 :]))
    else:
        found = ((), ())
    if found != (template.start, template.end):
        around = " ".join([*map(str, found[0]), "A", *map(str, found[1])])
        raise TokenizerError(
            f"{source}: the post_processor ({kind}) makes {around!r} of a text A; {family} makes "
            f"{' '.join([*template.start, 'A', *template.end])!r}; the file is another kind of tokenizer's"
        )


def _special_of(part: Mapping[str, Any]) -> str | None:
    special = part.get("SpecialToken")
    return None if special is None else str(special.get("id"))


def template_processing(template: Template, ids: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor section of a template.

    Args:
        template: the family's.
        ids: id of each of its tokens.
    """

    def special(tokens: Sequence[str], type_id: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": type_id}} for token in tokens]

    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": type_id}}]

    second = template.second_type_id
    start = [*special(template.start, 0), *sequence("A", 0)]
    tokens = dict.fromkeys((*template.start, *template.middle, *template.end))
    return {
        "type": "TemplateProcessing",
        "single": [*start, *special(template.end, 0)],
        "pair": [
            *start,
            *special(template.middle, 0),
            *sequence("B", second),
            *special(template.end, second),
        ],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in tokens},
    }


def document_path(directory: Any) -> str:
    """Path of the document in a directory, for messages."""
    return f"{directory}/{DOCUMENT_FILE}"
