"""Compare with `transformers` stage by stage at full size: forward, loss, greedy tokens.

Random weights of the official shapes, saved by the reference and loaded here by `from_pretrained`, one model
after the other. Prints a Markdown table; `--output` also writes it to a file. Fails where a bound is passed.
"""

import gc
import sys
import tempfile
from pathlib import Path

import click
import torch
import transformers as hf
from torch import Tensor, nn

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel

MODELS = ("small-printed", "base-handwritten", "base-stage1", "large-handwritten", "large-printed")
HEAD = """# Parity with transformers

Largest differences of random models of the official sizes, relative to each tensor's largest value; the bound
is 2e-5. Made by `make parity`. Tiny models of every family are compared by the tests in `tests/parity`: every
stage, every gradient, caches, other precisions, odd options, and over 40 settings of generation.
"""
IMAGES, LENGTH, TOKENS, BOUND, BRANCH = 2, 12, 10, 2e-5, 0.4
STAGES = ("embedding", "encoder blocks", "encoder", "decoder embedding", "decoder blocks", "logits", "loss")
COLUMNS = ("model", "parameters", *STAGES, f"{TOKENS} tokens alike", "within bound")


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Fill every parameter so that it matters: matrices keep the size of what they multiply.

    Branches are smaller than what they are added to: else all tokens of a deep random decoder end alike.
    """
    torch.manual_seed(0)
    scale = model.decoder.model.decoder.embed_tokens.embed_scale
    for path, module in model.named_modules():
        branch = BRANCH if path.endswith(("out_proj", "o_proj", "fc2")) else 1.0
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm):
                p.normal_(1.0 if name == "weight" else 0.0, 0.2)
            elif isinstance(module, nn.Embedding):
                p.normal_(0.0, p.shape[1] ** -0.5 * (1.0 if hasattr(module, "embed_scale") else scale))
            else:
                p.normal_(0.0, branch * (p[0].numel() ** -0.5 if p.dim() in (2, 4) else 0.2))
    model.tie_weights()


@torch.no_grad()
def run(model: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[list[list[Tensor]], Tensor]:
    """Every stage of a pass with labels, and the tokens read greedily."""
    ids = model.eval().generate(pixels, use_cache=True, max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    out = model(pixel_values=pixels, labels=labels, output_hidden_states=True)
    encoder, decoder = out.encoder_hidden_states, out.decoder_hidden_states
    stages = (encoder[:1], encoder[1:], [out.encoder_last_hidden_state], decoder[:1], decoder[1:])
    return [*map(list, stages), [out.logits], [out.loss]], ids


def worst(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference of several pairs, each relative to its largest value."""
    pairs = zip(expected, found, strict=True)
    return max(float((a - b).abs().max()) / float(a.abs().max()) for a, b in pairs)


def compare(label: str, folder: Path) -> str:
    """One row of the table."""
    config = OFFICIAL_MODELS[f"microsoft/trocr-{label}"].config
    torch.manual_seed(1)
    pixels = torch.randn(IMAGES, config.encoder.num_channels, *config.encoder.image_hw)
    labels = torch.randint(3, config.vocab_size, (IMAGES, LENGTH))
    labels[1, 7:] = -100
    reference = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_dict(config.to_dict()))
    draw_weights(reference)
    reference.save_pretrained(folder)
    reference.generation_config.decoder_start_token_id = config.decoder_start_token_id
    expected, expected_ids = run(reference, pixels, labels)
    del reference
    gc.collect()
    model = VisionEncoderDecoderModel.from_pretrained(folder)
    found, ids = run(model, pixels, labels)
    cells = list(map(worst, expected, found))
    marks = ["yes" if good else "NO" for good in (torch.equal(ids, expected_ids), max(cells) <= BOUND)]
    count = sum(p.numel() for name, p in model.named_parameters() if "pooler" not in name)
    return f"| {' | '.join([label, f'{count:,}', *(f'{cell:.1e}' for cell in cells), *marks])} |"


@click.command()
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS)
@click.option("--output", type=click.Path(path_type=Path), help="Also write the table to this file.")
def main(models: list[str], output: Path | None) -> None:
    """Tell the largest differences from `transformers` of random models of the official sizes."""
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    lines = [
        f"{IMAGES} images, float32; torch {torch.__version__}, transformers {hf.__version__}.\n",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    click.echo("\n".join(lines))
    for label in models:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(compare(label, Path(folder)))
        gc.collect()
        click.echo(lines[-1])
    if output:
        output.write_text("\n".join([HEAD, *lines, ""]), encoding="utf-8")
    sys.exit(any(" NO |" in line for line in lines))


if __name__ == "__main__":
    main()
