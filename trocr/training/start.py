"""The model that training starts from: loaded or new, with images of another size where asked for.

Source: original work.
"""

import dataclasses
from typing import Literal, cast

import torch
from torch import Tensor

from trocr.config import VisionEncoderDecoderConfig
from trocr.decoder import DecoderBlock
from trocr.encoder import EncoderBlock
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel, ViTModel
from trocr.nn.embeddings import resample_positions
from trocr.processor import TrOCRProcessor
from trocr.training.option_tables import ModelOptions

Positions = Literal["resample", "extend"]


class StartError(ValueError):
    """Training cannot start from this model in this way."""


def load_start(options: ModelOptions) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    """Load or make the model that training starts from, and its processor.

    Nothing is frozen here; see `trocr.training.optimizer.freeze`.

    Args:
        options: where it is and what is changed; with `init="random"` the directory needs a configuration and
            the processor's files only.
    Returns:
        The model, in float32 on the CPU, and its processor.
    Raises:
        HubError: the files are neither here nor reachable.
        StartError: the image size does not fit.
    """
    is_new = options.init == "random"
    want = ("config.json", *PROCESSOR_FILES) if is_new else (*MODEL_FILES, *PROCESSOR_FILES)
    folder = locate(options.checkpoint, want=want)
    processor = TrOCRProcessor.from_pretrained(folder)
    config = VisionEncoderDecoderConfig.from_pretrained(folder)
    if options.dropout is not None:
        decoder = dataclasses.replace(config.decoder, dropout=options.dropout)
        config = dataclasses.replace(config, decoder=decoder)
    if is_new:
        model = VisionEncoderDecoderModel(config)
    else:
        model = VisionEncoderDecoderModel.from_pretrained(folder, config=config, dtype=torch.float32)
    if options.image_size:
        height, width = options.image_size
        set_image_size(model, processor, (height, width), positions=options.positions)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        for module in model.modules():
            if isinstance(module, EncoderBlock | DecoderBlock):
                module.compile()
    return model, processor


def set_image_size(
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    image_hw: tuple[int, int],
    *,
    positions: Positions = "resample",
) -> None:
    """Change the size of the images that a model takes, in place; its processor follows.

    Args:
        model: its position table and configuration are replaced.
        processor: its image size is set.
        image_hw: (height, width) in pixels, multiples of the patch.
        positions: "resample" interpolates the table, for images that are scaled to the new size; "extend"
            keeps it and repeats its second half, for lines that keep their scale and are padded on the
            right. Repeated columns are a start for training, not a model that reads long lines.
    Raises:
        StartError: the size is not a multiple of the patch, or "extend" is to change the rows of patches or
            to take columns away, or more than one and a half times as many are wanted.
    """
    embeddings = model.encoder.embeddings
    old, patch = embeddings.grid, embeddings.patch_hw
    if image_hw[0] % patch[0] or image_hw[1] % patch[1] or min(image_hw) < 1:
        raise StartError(
            f"image size {image_hw[0]} x {image_hw[1]} (height x width) is not a multiple of the patch, "
            f"{patch[0]} x {patch[1]}"
        )
    grid = image_hw[0] // patch[0], image_hw[1] // patch[1]
    fit = {"resample": _resample, "extend": _extend}[positions]
    with torch.no_grad():
        table = fit(embeddings.position_embeddings.detach(), grid, old, embeddings.num_prefix)
    embeddings.position_embeddings = torch.nn.Parameter(table.clone())
    embeddings.image_hw = image_hw
    encoder = cast(ViTModel, model.encoder)
    config = dataclasses.replace(encoder.config, image_size=image_hw)
    model.config = dataclasses.replace(model.config, encoder=config)
    processor.image_processor.size = {"height": image_hw[0], "width": image_hw[1]}


def _resample(table: Tensor, grid: tuple[int, int], old: tuple[int, int], num_prefix: int) -> Tensor:
    return resample_positions(table, grid=grid, old_grid=old, num_prefix=num_prefix)


def _extend(table: Tensor, grid: tuple[int, int], old: tuple[int, int], num_prefix: int) -> Tensor:
    more, half = grid[1] - old[1], old[1] // 2
    if grid[0] != old[0] or not 0 <= more <= half:
        raise StartError(
            f"positions of {old[0]} x {old[1]} patches (rows x columns) cannot be extended to {grid[0]} x "
            f'{grid[1]}: the rows must stay, and columns can grow up to {old[1] + half}; use "resample"'
        )
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    patches = patches.reshape(1, *old, -1)
    patches = torch.cat((patches, patches[:, :, half : half + more]), dim=2)
    return torch.cat((prefix, patches.flatten(1, 2)), dim=1)
