"""Proof that a checkpoint is read right: loaded, written back bit for bit, compared with transformers.

Source: `transformers` 5.23 is the reference, through files that this library wrote.
"""

import contextlib
import importlib.metadata
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trocr.config_base import BaseConfig
from trocr.image import load_image_processor
from trocr.models import TrOCRForCausalLM, VisionEncoderDecoderModel, ViTModel
from trocr.pretrained_model import PretrainedModel
from weights_conversion.commands.convert import convert
from weights_conversion.commands.source import Hints, Source, find_config, find_source, load_model
from weights_conversion.files import open_weights

TOLERANCE = 2e-5
"""Largest difference of a stage relative to its largest value, in float32: some hundred roundings of 6e-8."""

REFERENCE_MAJOR = 5
BATCH, LENGTH = 2, 8


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the result; `passed` is None for what could not be looked at."""

    name: str
    value: str
    passed: bool | None = True

    def line(self) -> str:
        """The row as text."""
        state = {True: "ok", False: "FAILED", None: "left out"}[self.passed]
        return f"{state:<8}  {self.name:<24}  {self.value}"


def verify(source: Source, hints: Hints, *, images: Sequence[Path] = (), tokens: int = 12) -> Iterator[Check]:
    """Check a checkpoint, row by row.

    Args:
        source: what to check.
        hints: what its files do not say.
        images: line images to compare on; random pixels where there are none.
        tokens: how many tokens to read greedily in the comparison.
    Raises:
        ValueError: it cannot even be loaded; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        with open_weights(source.path) as weights:
            config, origin = find_config(source, weights, hints)
        model = load_model(source, config, dtype=torch.float32)
        yield Check(name="load", value=f"{model.num_parameters():,} parameters, {source.dialect.title}")
        yield Check(name="configuration", value=origin)
        convert(source, target, hints=hints)  # raises where the configuration does not rebuild the model
        yield Check(name="rebuild", value="the configuration gives the same names and shapes")
        yield from _round_trip(source, target, model)
        version = _reference_version()
        if version is None or int(version.split(".")[0]) != REFERENCE_MAJOR:
            found = f"transformers {version} is" if version else "transformers is not"
            value = (
                f"{found} installed, the comparison needs {REFERENCE_MAJOR}.x: pip install 'trocr[parity]'"
            )
            yield Check(name="comparison", value=value, passed=None)
        elif source.dialect.part == "stack":
            yield Check(name="comparison", value="a decoder without output projection", passed=None)
        else:
            pixels = _pixels(config, source.directory, images)
            yield from _compare(model, target, pixels, tokens, version)


def _round_trip(source: Source, target: Path, model: PretrainedModel) -> Iterator[Check]:
    table = source.dialect.table
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    written = find_source(str(target))
    with open_weights(source.path) as old, open_weights(written.path) as new:
        plan = table.plan(old.shapes, expected, tied=model.tied, origin=str(source.path))
        names = written.dialect.table.invert(move.target for move in plan.items)
        differing = [
            move.source
            for move in plan.items
            if not _same_bits(move.take(old.tensor(move.source)), new.tensor(names[move.target]))
        ]
        value = f"{len(plan.items) - len(differing)} of {len(plan.items)} tensors are the same bits"
        value += f"; differing: {', '.join(differing[:4])}" if differing else ""
        yield Check(name="round trip, bits", value=value, passed=not differing)
        if table is written.dialect.table:
            dropped = {key for key, _ in (*plan.ignored, *plan.tied)}
            strays = (old.shapes.keys() - dropped) ^ new.shapes.keys()
            value = f"{len(new.shapes)} keys, {len(dropped)} ignored or tied keys left out"
            value = f"{', '.join(sorted(strays)[:4])} differ" if strays else value
            yield Check(name="round trip, keys", value=value, passed=not strays)
    again = type(model).from_pretrained(target, dtype=torch.float32)
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    yield Check(
        name="load again", value="every parameter is equal" if same else "parameters differ", passed=same
    )


def _same_bits(old: Tensor, new: Tensor) -> bool:
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    return torch.equal(old.contiguous().view(torch.uint8), new.contiguous().view(torch.uint8))


def _reference_version() -> str | None:
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return None


def _pixels(config: BaseConfig, directory: Path | None, images: Sequence[Path]) -> Tensor | None:
    """Pixels (B, C, height, width) of the images, or of noise; None for a decoder alone."""
    encoder: Any = getattr(config, "encoder", config)
    if encoder.model_type == "trocr":
        return None
    if images:
        if directory is None:
            raise ValueError("--image needs a source directory with a preprocessor_config.json")
        processor = load_image_processor(directory)
        return cast(Tensor, processor(list(images), return_tensors="pt")["pixel_values"])
    height, width = encoder.image_hw
    noise = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, encoder.num_channels, height, width, generator=noise) * 2 - 1


@torch.inference_mode()
def _compare(
    model: PretrainedModel, target: Path, pixels: Tensor | None, tokens: int, version: str
) -> Iterator[Check]:
    """Rows of largest differences stage by stage, then the tokens read greedily."""
    reference = load_reference(target, type(model).__name__)
    yield Check(name="reference", value=f"transformers {version} loads what was written")
    ours, theirs = _stages(model, pixels), _stages(reference, pixels)
    for name, found in ours.items():
        expected = theirs[name]
        scale = float(expected.abs().max())
        difference = float((found - expected).abs().max())
        good = difference <= TOLERANCE * scale
        value = (
            f"largest difference {difference:.1e} of {scale:.3g}, {difference / (scale or 1.0):.1e} relative"
        )
        yield Check(name=name, value=value, passed=good)
    if isinstance(model, VisionEncoderDecoderModel):
        room = model.config.decoder.max_position_embeddings - 1
        limits: dict[str, Any] = {"max_new_tokens": min(tokens, room), "num_beams": 1, "do_sample": False}
        ids, expected = model.generate(pixels, **limits), reference.generate(pixels, **limits)
        assert isinstance(ids, Tensor)  # no scores were asked for
        same = torch.equal(ids, expected)
        value = f"{expected.shape[1]} tokens of {expected.shape[0]} images are the same"
        value = value if same else f"{ids.tolist()} instead of {expected.tolist()}"
        yield Check(name="greedy tokens", value=value, passed=same)


def load_reference(directory: Path, class_name: str) -> Any:
    """Load a directory with `transformers`, in float32 and evaluation mode.

    5.23 leaves the table of sinusoidal positions without memory when it loads; it is computed again here.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        model = getattr(transformers, class_name).from_pretrained(directory, dtype=torch.float32)
    for module in model.modules():
        table = getattr(module, "weights", None)
        if isinstance(table, Tensor) and table.is_meta:
            module.weights = module.get_embedding(len(table), module.embedding_dim, module.padding_idx)
    return model.eval()


def _stages(model: Any, pixels: Tensor | None) -> dict[str, Tensor]:
    """Run a model, ours or the reference, and keep what every stage gives."""
    encoder, decoder = _parts(model)
    stages: dict[str, Tensor] = {}
    with contextlib.ExitStack() as hooks:
        for name, part in (("encoder", encoder), ("decoder", decoder)):
            if part is not None:
                _watch(part, name, stages, hooks)
        noise = torch.Generator().manual_seed(1)
        ids: dict[str, Tensor] = {}
        if decoder is not None:
            config = getattr(model.config, "decoder", model.config)
            length = min(LENGTH, config.max_position_embeddings)
            drawn = torch.randint(config.vocab_size, (BATCH, length), generator=noise)
            drawn[:, 0] = config.decoder_start_token_id
            ids["decoder_input_ids" if encoder is not None else "input_ids"] = drawn
            if encoder is None:
                width = config.cross_attention_hidden_size or config.d_model
                ids["encoder_hidden_states"] = torch.randn(BATCH, 5, width, generator=noise)
            elif pixels is not None:
                ids["decoder_input_ids"] = drawn[:1].expand(len(pixels), -1)
        output = model(**ids) if pixels is None else model(pixel_values=pixels, **ids)
    if decoder is not None:
        stages["logits"] = output.logits
    return stages


def _parts(model: Any) -> tuple[nn.Module | None, nn.Module | None]:
    if isinstance(model, VisionEncoderDecoderModel):
        return model.encoder, model.decoder
    if isinstance(model, ViTModel):
        return model, None
    if isinstance(model, TrOCRForCausalLM):
        return None, model
    kind = model.config.model_type  # of the reference
    if kind == "vision-encoder-decoder":
        return model.encoder, model.decoder.model.decoder
    return (None, model.model.decoder) if kind == "trocr" else (model, None)


def _watch(part: Any, name: str, stages: dict[str, Tensor], hooks: contextlib.ExitStack) -> None:
    """Keep the input of the first block, the output of every block and of the norm after the last one."""
    blocks = part.blocks if hasattr(part, "blocks") else part.layers

    def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stages[f"{name} embedding"] = args[0] if args else kwargs["hidden_states"]

    hooks.enter_context(_handle(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)))
    for index, block in enumerate(blocks):

        def keep_output(
            module: nn.Module, args: Any, output: Any, label: str = f"{name} block {index}"
        ) -> None:
            stages[label] = output[0] if isinstance(output, tuple) else output

        hooks.enter_context(_handle(block.register_forward_hook(keep_output)))
    last = getattr(part, "norm", None) or getattr(part, "layernorm", None)  # the decoder has none
    if last is not None:

        def keep_last(module: nn.Module, args: Any, output: Tensor) -> None:
            stages[f"{name} output"] = output

        hooks.enter_context(_handle(last.register_forward_hook(keep_last)))


@contextlib.contextmanager
def _handle(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
