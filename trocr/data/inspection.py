"""A look at lines before they are trained on: counts, characters, shapes, and what will make trouble.

Source: original work.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trocr.data.records import LineSource
from trocr.data.split import pixel_hash
from trocr.image_array import ImageError

LENGTHS = (0, 5, 10, 20, 30, 40, 60, 80, 100)
ASPECTS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48)
HEIGHTS = (0, 16, 24, 32, 48, 64, 96, 128, 256)
NAMED = 5
BAR = 30


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is in a source.

    Attributes:
        num_lines: all of them.
        num_empty: lines without text that the source left out.
        num_groups: writers, receipts or documents; 0 where the source does not say.
        num_characters: of all texts.
        characters: character -> count.
        lengths: histogram of the texts' lengths in characters.
        heights: histogram of the images' heights in pixels.
        aspects: histogram of width by height.
        unreadable: images that cannot be opened, with the reason.
        same_image: names of lines with the same pixels, in groups.
        odd_spaces: lines with spaces at an end, double ones, or tabs.
        odd_characters: lines with control characters or not in Unicode's form NFC.
        unrepresentable: lines that the tokenizer does not give back, with what it gives; None without one.
        too_long: lines whose tokens are more than the decoder's positions, with their number; None where that
            is not known.
        tokens_per_character: of all texts; None without a tokenizer.
    """

    num_lines: int
    num_empty: int
    num_groups: int
    num_characters: int
    characters: dict[str, int]
    lengths: dict[str, int]
    heights: dict[str, int]
    aspects: dict[str, int]
    unreadable: tuple[str, ...]
    same_image: tuple[tuple[str, ...], ...]
    odd_spaces: tuple[str, ...]
    odd_characters: tuple[str, ...]
    unrepresentable: tuple[str, ...] | None
    too_long: tuple[str, ...] | None
    tokens_per_character: float | None

    @property
    def problems(self) -> dict[str, Sequence[Any] | None]:
        """Lines that make trouble, by what is wrong; None for what was not looked for."""
        return {
            "images that cannot be read": self.unreadable,
            "images that come more than once": self.same_image,
            "texts with outer or double spaces, or tabs": self.odd_spaces,
            "texts with control characters, or not in form NFC": self.odd_characters,
            "texts that the tokenizer does not give back": self.unrepresentable,
            "texts longer than the decoder's positions": self.too_long,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def inspect_source(
    source: LineSource,
    *,
    tokenizer: Any = None,
    max_tokens: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Inspection:
    """Look at every line of a source.

    Args:
        source: the lines.
        tokenizer: of the model that is to be trained, or None.
        max_tokens: positions of its decoder, the end token included.
        progress: called after each line.
    """
    characters: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    found: dict[str, list[str]] = defaultdict(list)
    pixels: dict[str, list[str]] = defaultdict(list)
    groups = set()
    num_tokens = 0
    for number in range(len(source)):
        record = source[number]
        text = record.text
        groups.add(record.group)
        characters.update(text)
        counts["lengths"][_bin(len(text), LENGTHS)] += 1
        for kind in _oddities(text):
            found[kind].append(f"{record.name}: {text!r}")
        try:
            image = record.open()
            pixels[pixel_hash(image)].append(record.name)
            counts["heights"][_bin(image.height, HEIGHTS)] += 1
            counts["aspects"][_bin(image.width / image.height, ASPECTS)] += 1
        except ImageError as error:
            found["unreadable"].append(f"{record.name}: {error}")
        if tokenizer is not None:
            num_tokens += _tokens(record.name, text, tokenizer, max_tokens, found)
        if progress is not None:
            progress()
    return Inspection(
        num_lines=len(source),
        num_empty=getattr(source, "num_empty", 0),
        num_groups=len(groups - {None}),
        num_characters=characters.total(),
        characters=dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        lengths=_ordered(counts["lengths"], LENGTHS),
        heights=_ordered(counts["heights"], HEIGHTS),
        aspects=_ordered(counts["aspects"], ASPECTS),
        same_image=tuple(tuple(names) for names in pixels.values() if len(names) > 1),
        tokens_per_character=num_tokens / max(1, characters.total()) if tokenizer is not None else None,
        unrepresentable=tuple(found["unrepresentable"]) if tokenizer is not None else None,
        too_long=tuple(found["too_long"]) if tokenizer is not None and max_tokens is not None else None,
        **{kind: tuple(found[kind]) for kind in ("unreadable", "odd_spaces", "odd_characters")},
    )


def _tokens(name: str, text: str, tokenizer: Any, max_tokens: int | None, found: dict[str, list[str]]) -> int:
    """Tokens of a text, end token included; what is wrong with them is added to `found`."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True)
    if back.strip() != text.strip() or tokenizer.unk_token_id in ids:
        found["unrepresentable"].append(f"{name}: {text!r} comes back as {back!r}")
    if max_tokens is not None and len(ids) + 1 > max_tokens:
        found["too_long"].append(f"{name}: {len(ids) + 1} tokens, the decoder takes {max_tokens}")
    return len(ids) + 1


def _oddities(text: str) -> list[str]:
    kinds = []
    if text != " ".join(text.split(" ")).strip() or "  " in text or "\t" in text:
        kinds.append("odd_spaces")
    is_control = any(unicodedata.category(character) in ("Cc", "Co", "Cn") for character in text)
    if (is_control and "\t" not in text) or unicodedata.normalize("NFC", text) != text:
        kinds.append("odd_characters")
    return kinds


def _bin(value: float, bounds: Sequence[int]) -> str:
    place = max(place for place, bound in enumerate(bounds) if value >= bound)
    return _label(place, bounds)


def _label(place: int, bounds: Sequence[int]) -> str:
    return f"{bounds[place]}+" if place == len(bounds) - 1 else f"{bounds[place]}-{bounds[place + 1] - 1}"


def _ordered(counts: Counter[str], bounds: Sequence[int]) -> dict[str, int]:
    labels = [_label(place, bounds) for place in range(len(bounds))]
    return {label: counts[label] for label in labels if counts[label]}


def inspection_text(found: Inspection, *, title: str) -> str:
    """Lay a report out for a terminal."""
    rare = [character for character, count in found.characters.items() if count < 3]
    rows = [
        title,
        f"  lines       {found.num_lines}" + (f" in {found.num_groups} groups" if found.num_groups else ""),
        f"  characters  {found.num_characters}, {len(found.characters)} different: "
        + "".join(sorted(character for character in found.characters if character.isprintable())),
    ]
    if found.num_empty:
        rows.insert(2, f"  no text     {found.num_empty}, left out")
    if rare:
        rows.append(f"  fewer than 3 times: {' '.join(map(_visible, rare[:40]))}")
    if found.tokens_per_character is not None:
        rows.append(f"  tokens      {found.tokens_per_character:.2f} for each character")
    histograms = (
        ("length in characters", found.lengths),
        ("height in pixels", found.heights),
        ("width by height", found.aspects),
    )
    for name, histogram in histograms:
        rows.append(f"  {name}")
        most = max(histogram.values(), default=1)
        rows += [f"    {k:>8} {v:>8} {'#' * round(BAR * v / most)}" for k, v in histogram.items()]
    for name, lines in found.problems.items():
        if lines is None:
            rows.append(f"  {name}: not checked, give --model")
            continue
        rows.append(f"  {name}: {len(lines)}")
        shown = [line if isinstance(line, str) else " = ".join(line) for line in lines[:NAMED]]
        rows += [f"    {line}" for line in shown]
        if len(lines) > NAMED:
            rows.append(f"    and {len(lines) - NAMED} more")
    return "\n".join(rows)


def _visible(character: str) -> str:
    return character if character.isprintable() else f"U+{ord(character):04X}"
