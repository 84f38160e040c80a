"""The model that training starts from: loaded or new, with images of another size where asked for.

Source: original work.
"""

import dataclasses

import torch

from trocr.config import VisionEncoderDecoderConfig
from trocr.decoder import DecoderBlock
from trocr.encoder import EncoderBlock
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.image_shape import resize_images
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.recipe import apply_recipe, read_recipe
from trocr.training.option_tables import ModelOptions


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
        SurgeryError: the recipe cannot be read or done.
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
        try:
            resize_images(
                model, processor=processor, image_size=options.image_size, positions=options.positions
            )
        except SurgeryError as error:
            raise StartError(str(error)) from error
    if options.recipe:
        apply_recipe(model, read_recipe(options.recipe), processor=processor)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        for module in model.modules():
            if isinstance(module, EncoderBlock | DecoderBlock):
                module.compile()
    return model, processor
