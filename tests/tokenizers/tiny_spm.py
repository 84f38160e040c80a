"""Small SentencePiece models for the tests, trained on generated text; no file of anybody else is needed."""

import io
import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece

_TEXT = """
the quick brown fox jumps over a lazy dog industry commented icily Mr. Brown said , « naïve café » straße
total 123.45 price £ 9 € ÀÉÎ ﬁne Ⅻ ½ Привет мир 東京 都 日本語 שלום עולם مرحبا नमस्ते ສະບາຍດີ 안녕 İı ǆ Å ①
ｆｕｌｌ
"""
WORDS = _TEXT.split()
RULES = ("nmt_nfkc", "nfkc", "identity", "nmt_nfkc_cf", "nfkc_cf")


def sentences(count: int = 400, seed: int = 7) -> list[str]:
    """Generated lines: known words, words put together from syllables, numbers."""
    rng = random.Random(seed)
    syllables = ["ba", "ko", "mi", "tra", "ing", "ed", "un", "re", "lo", "st", "é", "ная", "の", "x"]
    lines = []
    for _ in range(count):
        line = [rng.choice(WORDS) for _ in range(rng.randint(2, 8))]
        line += ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(rng.randint(0, 5))]
        line.append(str(rng.randint(0, 9999)))
        rng.shuffle(line)
        lines.append(" ".join(line))
    return lines


@cache
def train(
    rule: str = "nmt_nfkc", *, tsv: str | None = None, vocab_size: int = 400, **options: object
) -> bytes:
    """Bytes of a trained unigram model.

    Args:
        rule: a built-in normalisation rule set.
        tsv: rules of one's own instead: lines "hex code points <tab> hex code points".
        options: further options of the SentencePiece trainer.
    """
    settings: dict[str, object] = {
        "vocab_size": vocab_size,
        "model_type": "unigram",
        "character_coverage": 1.0,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "num_threads": 1,
        "normalization_rule_name": rule,
    }
    with TemporaryDirectory() as folder:
        if tsv is not None:
            path = Path(folder) / "rules.tsv"
            path.write_text(tsv, encoding="utf-8")
            del settings["normalization_rule_name"]
            settings["normalization_rule_tsv"] = str(path)
        out = io.BytesIO()
        settings.update(options)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences()), model_writer=out, **settings
        )
    return out.getvalue()
