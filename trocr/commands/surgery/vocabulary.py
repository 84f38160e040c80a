"""`trocr surgery`: more tokens, fewer tokens, another tokenizer, a new vocabulary.

Source: original work.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trocr.commands.console import to_bytes
from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MEASURED = click.option(
    "--corpus", multiple=True, type=_FILE, metavar="FILE", help="Texts to count tokens on, one a line."
)
_SEED = click.option("--seed", default=0, show_default=True, help="Of rows that are drawn.")


@click.command()
@common.operation
@click.option("--token", "tokens", multiple=True, help="To add; may be given several times.")
@click.option("--tokens-file", type=_FILE, metavar="FILE", help="Tokens to add, one a line.")
@_MEASURED
@_SEED
def extend_vocabulary(
    model: "VisionEncoderDecoderModel",
    processor: "TrOCRProcessor",
    tokens: tuple[str, ...],
    tokens_file: Path | None,
    corpus: tuple[Path, ...],
    seed: int,
) -> "SurgeryReport":
    """Add tokens to the vocabulary of MODEL and write OUT.

    The row of a new token is the mean of the rows of the pieces that it was written with before.
    """
    from trocr.surgery import vocabulary
    from trocr.surgery.vocabulary_corpus import read_corpus

    found = [*tokens, *(read_corpus(tokens_file) if tokens_file else ())]
    return vocabulary.extend_vocabulary(model, found, processor=processor, corpus=corpus or None, seed=seed)


@click.command()
@common.operation
@click.option("--corpus", multiple=True, required=True, type=_FILE, metavar="FILE", help="Texts, one a line.")
@click.option("--keep", multiple=True, help="Further token, or text whose tokens are kept.")
def shrink_vocabulary(
    model: "VisionEncoderDecoderModel",
    processor: "TrOCRProcessor",
    corpus: tuple[Path, ...],
    keep: tuple[str, ...],
) -> "SurgeryReport":
    """Keep the tokens of MODEL that texts are written with and write OUT.

    Bytes or single characters are kept too, so that other texts can still be written.
    """
    from trocr.surgery import vocabulary

    return vocabulary.shrink_vocabulary(model, corpus, processor=processor, keep=keep)


@click.command()
@common.operation
@click.argument("tokenizer")
@_MEASURED
@_SEED
def replace_tokenizer(
    model: "VisionEncoderDecoderModel",
    processor: "TrOCRProcessor",
    tokenizer: str,
    corpus: tuple[Path, ...],
    seed: int,
) -> "SurgeryReport":
    """Give MODEL the tokenizer of the folder or Hub id TOKENIZER and write OUT.

    Tokens that write the same text keep their rows, whatever the family of the tokenizer.
    """
    from trocr.surgery import vocabulary

    return vocabulary.replace_tokenizer(
        model, tokenizer, processor=processor, corpus=corpus or None, seed=seed
    )


@click.command()
@click.argument("corpus", nargs=-1, required=True, type=_FILE)
@click.argument("output", metavar="OUT", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["byte-bpe", "unigram", "wordpiece"]),
    default="byte-bpe",
    show_default=True,
    help="RoBERTa's, XLM-R's or BERT's.",
)
@click.option("--vocab-size", type=int, required=True, help="Tokens, special ones included.")
@click.option("--min-frequency", default=2, show_default=True, help="Of a new token; not for unigram.")
def train_tokenizer(
    corpus: tuple[Path, ...], output: Path, kind: str, vocab_size: int, min_frequency: int
) -> None:
    """Learn a vocabulary from the text files CORPUS, one text a line, and write the tokenizer OUT.

    `replace-tokenizer` gives it to a model.
    """
    from trocr.surgery import tokenizer_training
    from trocr.surgery.vocabulary_corpus import measure, read_corpus
    from trocr.tokenizers.editing import edit

    texts = read_corpus(corpus)
    tokenizer = tokenizer_training.train_tokenizer(
        texts,
        kind=kind,  # type: ignore[arg-type]  # click has checked it
        vocab_size=vocab_size,
        min_frequency=min_frequency,
    )
    tokenizer.save_pretrained(output)
    found = measure(edit(tokenizer), texts)
    told = f"{type(tokenizer).__name__} with {len(tokenizer)} tokens"
    if len(tokenizer) < vocab_size:
        told += " (the corpus has no more)"
    numbers = [f"  {name} {value:g}" for name, value in asdict(found).items()]
    click.echo(to_bytes("\n".join([told, *numbers])))
