"""Example (b) of docs/surgery.md: blocks of the decoder dropped, and the reading brought back by a teacher.

    python scripts/surgery_distil.py --data lines/uw3 --data lines/fondue

Measures the model, the shortened one, the shortened one trained on the labels alone, and the distilled one,
on each set of lines. Prints a Markdown table.
"""

import argparse
from pathlib import Path

from surgery_examples import measure, run

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.surgery.recipe import apply_recipe, read_recipe

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs" / "distil-short-decoder.toml"
RECIPE = REPO / "configs" / "surgery" / "short-decoder.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-printed", help="shipped name, directory or Hub id")
    parser.add_argument("--data", action="append", required=True, help="lines with their texts; repeatable")
    parser.add_argument(
        "--ignore-case", action="append", default=[], help="a data set whose labels have no case"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="surgery that makes the student")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("runs/surgery-distil"))
    parser.add_argument("override", nargs="*", help="table.key=value of the training file")
    arguments = parser.parse_args()
    common = [
        f"model.checkpoint={arguments.model}",
        f"model.recipe={arguments.recipe}",
        f"run.steps={arguments.steps}",
        *arguments.override,
    ]
    labels = [*common, f"run.output={arguments.output}/labels", 'distillation.teacher=""']
    taught = [*common, f"run.output={arguments.output}/distilled", f"distillation.teacher={arguments.model}"]
    models = {
        "whole": arguments.model,
        "shortened": shorten(arguments.model, arguments.recipe, arguments.output / "start"),
        f"{arguments.steps} steps on the labels": run(str(CONFIG), labels)[0] / "last",
        f"{arguments.steps} steps with the teacher": run(str(CONFIG), taught)[0] / "last",
    }
    print("| model | parameters | lines | CER (95 %) | lines/s |")
    print("|---|---|---|---|---|")
    for data in arguments.data:
        for name, model in models.items():
            size = VisionEncoderDecoderModel.from_pretrained(model).num_parameters() / 1e6
            row = measure(model, data, ignore_case=data in arguments.ignore_case)
            print(f"| {name} | {size:.2f} M | {Path(data).name} | {row.cells()} |", flush=True)


def shorten(model: str, recipe: Path, folder: Path) -> Path:
    """The model with the blocks that the recipe keeps."""
    found, processor = VisionEncoderDecoderModel.from_pretrained(model), TrOCRProcessor.from_pretrained(model)
    for report in apply_recipe(found, read_recipe(recipe), processor=processor):
        print(report.text(), "\n")
    found.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
