"""Example (a) of docs/surgery.md: French accents in the vocabulary, against the untouched one.

    python scripts/surgery_alphabet.py

Both models start from the shipped reader and train as configs/finetune-french.toml says, on the same
generated lines: one has a token for each accented letter, the other writes them as two bytes each. Prints a
Markdown table by steps. Needs the texts and fonts that the training file names.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from surgery_examples import measure, run

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.data.packing import write_shards
from trocr.data.sources import open_source
from trocr.data.synthetic import SyntheticLines, SyntheticSettings
from trocr.surgery.vocabulary import extend_vocabulary
from trocr.training.options import load_options

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs" / "finetune-french.toml"
ACCENTS = "àâæçéèêëîïôœùûüÿÀÂÆÇÉÈÊËÎÏÔŒÙÛÜŸ«»"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-printed", help="shipped name, directory or Hub id")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300], help="lengths of the runs")
    parser.add_argument("--num-val", type=int, default=400, help="generated lines to measure on")
    parser.add_argument("--output", type=Path, default=Path("runs/surgery-alphabet"))
    parser.add_argument("override", nargs="*", help="table.key=value of the training file")
    arguments = parser.parse_args()
    val = generate(arguments.output / "val", arguments.num_val)
    starts = {
        "untouched": arguments.model,
        "34 tokens more": extend(arguments.model, arguments.output / "start"),
    }
    print("| vocabulary | steps | CER (95 %) | lines/s | accented letters wrong | tokens a line |")
    print("|---|---|---|---|---|---|")
    for name, start in starts.items():
        for steps in (0, *arguments.steps):
            model = start
            if steps:
                folder = arguments.output / f"{'untouched' if name == 'untouched' else 'extended'}-{steps}"
                more = [f"model.checkpoint={start}", f"run.steps={steps}", f"run.output={folder}"]
                model = run(str(CONFIG), [*more, *arguments.override])[0] / "last"
            row = measure(model, str(val))
            wrong, tokens = accents(model, str(val))
            print(f"| {name} | {steps} | {row.cells()} | {wrong:.3f} | {tokens:.1f} |", flush=True)


def generate(folder: Path, count: int) -> Path:
    """Lines of another seed than those trained on."""
    if not folder.is_dir():
        options = load_options(CONFIG).data
        settings = dataclasses.replace(SyntheticSettings.from_dict(options.synthetic), num_lines=count)
        write_shards(SyntheticLines(settings, seed=options.seed + 1000), folder)
    return folder


def extend(model: str, folder: Path) -> str:
    """The model with a token for each accented letter."""
    found, processor = VisionEncoderDecoderModel.from_pretrained(model), TrOCRProcessor.from_pretrained(model)
    report = extend_vocabulary(found, list(ACCENTS), processor=processor)
    found.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return str(folder)


def accents(model: str | Path, data: str) -> tuple[float, float]:
    """Share of accented letters that are not in the reading of their line, and tokens of a label."""
    from collections import Counter

    from trocr import Reader

    reader, source = Reader(str(model)), open_source(data)
    lines = reader.read((record.open() for record in source), batch_size=32, native_width=True)
    missed = total = 0
    for record, line in zip(source, lines, strict=True):
        wanted = Counter(c for c in record.text if c in ACCENTS)
        total += wanted.total()
        missed += (wanted - Counter(line.text)).total()
    tokenizer = reader.processor.tokenizer
    lengths = [len(tokenizer(record.text, add_special_tokens=False)["input_ids"]) for record in source]
    return missed / max(total, 1), sum(lengths) / len(lengths)


if __name__ == "__main__":
    main()
