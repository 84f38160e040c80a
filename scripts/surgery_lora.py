"""Example (c) of docs/surgery.md: LoRA and DoRA on receipts, against training all weights.

    python scripts/surgery_lora.py --train lines/sroie-train --val lines/sroie-val

All runs are those of configs/finetune-sroie.toml with other settings. Prints a Markdown table: CER without
case, trained parameters, size of what must be kept for the task, time.
"""

import argparse
import json
from pathlib import Path

from surgery_examples import measure, run

from trocr.training.options import load_options
from trocr.training.prepare import prepare

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs" / "finetune-sroie.toml"
EVERYWHERE = ["*_attn.[qkv]_proj", "*_attn.out_proj", "*.mlp.fc[12]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-printed", help="shipped name, directory or Hub id")
    parser.add_argument("--train", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("runs/surgery-lora"))
    parser.add_argument("override", nargs="*", help="table.key=value of the training file")
    arguments = parser.parse_args()
    rank = [f"adapters.rank={arguments.rank}", f"adapters.alpha={2 * arguments.rank}", "optimizer.lr=1e-3"]
    runs = {
        "all weights": [],
        "LoRA, queries and values": ['adapters.modules=["*_attn.[qv]_proj"]', *rank],
        "LoRA, all linear layers": [f"adapters.modules={json.dumps(EVERYWHERE)}", *rank],
        "DoRA, all linear layers": [
            f"adapters.modules={json.dumps(EVERYWHERE)}",
            *rank,
            'adapters.kind="dora"',
        ],
    }
    print("| trained | CER (95 %) | lines/s | parameters that train | to keep | minutes |")
    print("|---|---|---|---|---|---|")
    start = measure(arguments.model, arguments.val, ignore_case=True, repeats=1)
    print(f"| nothing | {start.cells()} | 0 | 0 | |", flush=True)
    for number, (name, settings) in enumerate(runs.items()):
        folder = arguments.output / str(number)
        overrides = [
            f"model.checkpoint={arguments.model}",
            f"data.train={arguments.train}",
            "data.val=[]",
            "run.epochs=0",
            f"run.steps={arguments.steps}",
            "run.eval_every=0",
            f"run.output={folder}",
            *settings,
            *arguments.override,
        ]
        trained = prepare(load_options(CONFIG, overrides)).objective.model.num_parameters(only_trainable=True)
        folder, seconds = run(str(CONFIG), overrides)
        row = measure(folder / "last", arguments.val, ignore_case=True, repeats=1)
        kept = folder / "last" / "adapter" if "adapters" in str(settings) else folder / "last"
        size = sum(file.stat().st_size for file in kept.glob("*.safetensors")) / 1e6
        print(f"| {name} | {row.cells()} | {trained:,} | {size:.2f} MB | {seconds / 60:.1f} |", flush=True)


if __name__ == "__main__":
    main()
