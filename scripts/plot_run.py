"""Plot the validation CER of runs against epochs or steps, from their log.jsonl.

    python scripts/plot_run.py runs/finetune-handwriting --lines-per-epoch 4109 --output cer.svg

Needs matplotlib (pip install 'trocr[plot]'). --level NAME=CER draws a line to compare with.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--lines-per-epoch", type=int, help="plot against epochs instead of steps")
    parser.add_argument(
        "--level", action="append", default=[], metavar="NAME=CER", help="line to compare with"
    )
    parser.add_argument("--output", type=Path, default=Path("cer.svg"))
    arguments = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "trocr"  # the same file for the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for run in arguments.runs:
        steps, rates = read(run)
        if arguments.lines_per_epoch:
            size = json.loads(content(run / "options.json"))["batch"]["size"]
            steps = [step * size / arguments.lines_per_epoch for step in steps]
        axes.plot(steps, rates, marker="o", markersize=3, label=run.name)
        for step, rate in zip(steps, rates, strict=True):
            print(f"{run.name}\t{step:.2f}\t{rate:.4f}")
    for level in arguments.level:
        name, _, rate = level.partition("=")
        axes.axhline(float(rate), linestyle="--", linewidth=1, color="grey")
        axes.annotate(name, (0.99, float(rate)), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xlabel("epochs" if arguments.lines_per_epoch else "steps")
    axes.set_ylabel("validation CER")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.output, bbox_inches="tight", metadata={"Date": None})


def read(run: Path) -> tuple[list[float], list[float]]:
    """Steps and rates of the validations of a run; of a step that was validated again, the last one.

    A line that was cut when the run was killed is left out.
    """
    found = {}
    for line in content(run / "log.jsonl").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "cer" in values:
            found[values["step"]] = values["cer"]
    return list(map(float, found)), list(found.values())


def content(path: Path) -> str:
    """The text of a file of a run; the script ends with a message where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        sys.exit(f"Error: {path}: {error.strerror}; name folders that scripts/train.py wrote")


if __name__ == "__main__":
    main()
