"""A seeded corpus of strings that break tokenizers: scripts, marks, emoji, controls, special tokens."""

import random
from collections.abc import Callable

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "It's what they'd've said: I'm sure we'll see, don't you?",
    "Total $1,234.56 incl. 7% VAT (no. 42/2019-A)",
    "https://example.org/a_b?c=d&e=%20#f user@example.com",
    "def f(x): return {'a': [x**2 for _ in range(10)]}\n\t# done",
    "L'été dernier, à Noël, où naïve façade cœur Œuvre",
    "Größe, Straße, Übermut, ẞ, ſ, ŉ, ﬁnden, ǆ, Ⅷ",
    "Zażółć gęślą jaźń; Příliš žluťoučký kůň; Árvíztűrő tükörfúrógép",
    "İstanbul ılık ığdır IĞDIR; Việt Nam tiếng Việt được; Þórður ðæ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ѣ ѳ",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ΟΔΥΣΣΕΥΣ Σσς ᾧ",
    "עִבְרִית שלום עולם, מה שלומך? ״כן״ 123",
    "اللغة العربية، مَرْحَبًا بالعالم ١٢٣ ؟ ﷺ ﻻ پارسی می‌خواهم",
    "हिन्दी में नमस्ते दुनिया क्षत्रिय ॐ १२३ श्री",
    "বাংলা ভাষা ক্ষ ড় ৎ; தமிழ் மொழி நிலை; తెలుగు క్షమించు; ಕನ್ನಡ; മലയാളം ന്‍",
    "ภาษาไทย สวัสดีชาวโลก น้ำ ๑๒๓; ພາສາລາວ; မြန်မာဘာသာ; ភាសាខ្មែរ",
    "日本語のテキスト、カタカナ・ひらがな。がぎぐ ｶﾞｷﾞ ㍿ ㌔ ①②③ 々〆",
    "中文文本，简体和繁體。「引号」３．１４ 𠀀𠮷 ㄅㄆㄇ",
    "한국어 텍스트 안녕하세요 ㄱㄴㄷ 각 각 힣",
    "ქართული ენა; Հայերեն լեզու և; አማርኛ ቋንቋ፡ ሰላም። ትግርኛ",
    "བོད་སྐད་ ༠༡༢; ᠮᠣᠩᠭᠣᠯ; ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ; ᐃᓄᒃᑎᑐᑦ; ꦧꦱꦗꦮ; ߒߞߏ; 𞤀𞤣𞤤𞤢𞤥",
    "ﬀ ﬃ ﬆ ½ ¾ ² ³ ª º № ℃ Å Ω K ™ ℡ ㎏ ｆｕｌｌ ｗｉｄｔｈ １２３",
    "e\u0301 a\u0308\u0323 o\u031b\u0301 n\u0303 \u1e69 s\u0323\u0307 q\u0307\u0323",
    "Z\u0351\u036b\u0343a\u0321\u0353lgo",
    "– — ‘ ’ “ ” „ ‟ ‹ › « » … ‰ ′ ″ ※ ‽ ⁇ ⁈ · • ¡ ¿ § ¶ † ‡",
    "∑ ∫ √ ∞ ≠ ≤ ≥ ± × ÷ ∂ ∆ π α→β ⇒ ∀x∈ℝ ∃y 𝒜𝔅𝕮 𝟘𝟙 x² + y₂ = z⁻¹",
    "☃ ★ ☎ ♠ ♥ ♪ ✓ ✗ ❤ ➔ ░▒▓ ─│┌┐ ■□▲ ⌘ ⏎ ⠓⠑⠇⠇⠕ 🀄 🂡",
)
EMOJI = (
    "😀",
    "👍🏽",
    "👨\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈",
    "🇫🇷",
    "🇺🇳🇩",
    "1\ufe0f\u20e3",
    "❤\ufe0f",
    "❤\ufe0e",
    "👩🏿\u200d🚀",
    "🧑\u200d🤝\u200d🧑",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "🫠",
    "🤷🏻\u200d♀\ufe0f",
    "©\ufe0f",
    "🀄\ufe0f",
    "#\ufe0f\u20e3",
)
SPACES = (
    " ", "  ", "   ", "\x09", "\x0a", "\x0d\x0a", "\x0d", "\x0b", "\x0c", "\x1c", "\x1f", "\x85",
    "\xa0", "\u1680", "\u2002", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
    "\u180e", "\u200b", "\ufeff", " \x0a \x09 ",
)  # fmt: skip
CONTROLS = (
    "\x00", "\x01", "\x07", "\x08", "\x1b[0m", "\x7f", "\x80", "\x9f", "\xad", "\u061c", "\u200c",
    "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2060", "\u2066", "\u2069", "\ufe0f", "\ufff9",
    "\ufffc", "\ufffd", "\ue000", "\uf8ff", "\U000e0001", "\U000f0000", "\U0010fffd", "\ufdd0",
    "\uffff", "\U0010ffff", "\u0378", "\U0001fbff",
)  # fmt: skip
SPECIALS = (
    "<s>", "</s>", "<pad>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]",
    "<|endoftext|>", "madeupword0000",
)  # fmt: skip
NEARLY_SPECIAL = (
    "<s", "s>", "< s >", "<S>", "<<s>>", "<s></s>", "</ s>", "<mask><mask>", "<mask", "[cls]",
    "[ MASK ]", "[MASK", "##", "##ing", "Ġ", "Ġthe", "▁", "▁▁the", "Ċ", "</w>", "<0x0A>", "<mask>s",
    "a<mask>b", "<unk><pad>", "&lt;s&gt;", "\\<s\\>",
)  # fmt: skip
_BLOCK_SPANS = """
    20-7e a0-ff 100-24f 250-2ff 300-36f 370-3ff 400-52f 531-58f 591-5f4 600-6ff 700-7bf 900-97f 980-9fe
    a01-a76 b82-bfa c00-c7f d00-d7f d81-df4 e01-e5b e81-edf f00-fda 1000-109f 10a0-10ff 1100-11ff
    1200-139f 13a0-13fd 1400-167f 1780-17f9 1800-18aa 1ab0-1aff 1c80-1cbf 1d00-1dbf 1dc0-1dff 1e00-1eff
    1f00-1fff 2000-206f 2070-218b 2190-23ff 2460-25ff 2600-27bf 2c00-2dff 2e00-2e7f 3000-30ff 3105-33ff
    3400-4dbf 4e00-9fff a000-a4cf a640-a7ff a8e0-abff ac00-d7a3 f900-faff fb00-fdff fe00-fe6f fe70-feff
    ff00-ffef 10000-100ff 10330-1034f 10400-1044f 10900-109ff 11000-111ff 12000-123ff 13000-1342f
    1b000-1b2ff 1d100-1d1ff 1d400-1d7ff 1e900-1e95f 1ee00-1eeff 1f000-1f2ff 1f300-1f64f 1f680-1faff
    20000-2a6df 2f800-2fa1f e0100-e01ef
"""
BLOCKS = [tuple(int(end, 16) for end in span.split("-")) for span in _BLOCK_SPANS.split()]
MARKS = [
    *map(chr, range(0x300, 0x370)),
    *"\u0483\u05b4\u064b\u0670\u093c\u094d\u0e34\u1dc4\u20d0\u20e3\u3099",
]


def _scalar(rng: random.Random) -> str:
    """Any code point but a surrogate, assigned or not."""
    code = rng.randrange(0x110000 - 0x800)
    return chr(code if code < 0xD800 else code + 0x800)


def _slice(rng: random.Random) -> str:
    text = rng.choice(SENTENCES)
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 30)]


def _block(rng: random.Random) -> str:
    low, high = rng.choice(BLOCKS)
    letters = [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12))]
    return "".join(letter + (" " if rng.random() < 0.12 else "") for letter in letters)


def _marked(rng: random.Random) -> str:
    letters = "aeiouAEIOUnсйαאبकก1 "
    return "".join(
        rng.choice(letters) + "".join(rng.choices(MARKS, k=rng.randint(0, 4)))
        for _ in range(rng.randint(1, 6))
    )


def _ascii(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0x20, 0x7E)) for _ in range(rng.randint(1, 16)))


def _digits(rng: random.Random) -> str:
    return "".join(rng.choices("0123456789.,:/-+ %€$£¥½٣५", k=rng.randint(1, 12)))


def _special(rng: random.Random) -> str:
    core = rng.choice(SPECIALS if rng.random() < 0.7 else NEARLY_SPECIAL)
    return (
        rng.choice(("", " ", "  ", "\n", "\u3000", "a", "."))
        + core
        + rng.choice(("", " ", "  ", "\t", "s", ",", "é"))
    )


def _run(rng: random.Random) -> str:
    return rng.choice("aA1!. -_=~é的\u0301😀\u00a0") * rng.randint(2, 40)


def _case(rng: random.Random) -> str:
    text = _slice(rng)
    return rng.choice((text.upper(), text.title(), text.swapcase(), text[::-1]))


PARTS: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (_slice, 24),
    (_block, 16),
    (_special, 10),
    (_marked, 6),
    (_ascii, 6),
    (_digits, 4),
    (_case, 4),
    (_run, 2),
    (_scalar, 3),
    (lambda rng: rng.choice(EMOJI), 5),
    (lambda rng: rng.choice(SPACES), 12),
    (lambda rng: rng.choice(CONTROLS), 4),
)


def corpus(count: int = 20_000, seed: int = 0) -> list[str]:
    """`count` different strings, the same for a seed: fixed ones first, then random mixtures."""
    rng = random.Random(seed)
    singles = map(chr, range(256))
    found = dict.fromkeys(["", *SENTENCES, *EMOJI, *SPACES, *CONTROLS, *SPECIALS, *NEARLY_SPECIAL, *singles])
    makers, weights = zip(*PARTS, strict=True)
    while len(found) < count:
        parts = rng.choices(makers, weights, k=rng.choice((1, 1, 2, 2, 3, 4, 6)))
        found["".join(make(rng) for make in parts)] = None
    return list(found)[:count]


def long_strings(length: int = 100_000, seed: int = 1) -> list[str]:
    """Strings of `length` characters: prose, one word without a break, spaces, and everything at once."""
    rng = random.Random(seed)
    prose = " ".join(SENTENCES)
    mixed = "".join(rng.choice(PARTS)[0](rng) for _ in range(length // 5))
    unbroken = "".join(rng.choices("abcdefghij", k=length))
    return [
        (prose * (length // len(prose) + 1))[:length],
        unbroken,
        " " * length,
        "é" * length,
        mixed[:length],
    ]


# Strings that are no Unicode text: a lone surrogate cannot be encoded, so every tokenizer refuses it.
LONE_SURROGATES = ("\ud800", "a\udc00b", "ok \udfff")
