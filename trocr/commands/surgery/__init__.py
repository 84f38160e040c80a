"""`trocr surgery`: change a checkpoint and write the changed one.

Source: original work.
"""

import click

from trocr.commands.late_group import LateGroup

OPERATIONS = {
    "apply": ("trocr.commands.surgery.apply", "Do all operations of a recipe."),
    "extend-vocabulary": ("trocr.commands.surgery.vocabulary", "Add tokens."),
    "shrink-vocabulary": ("trocr.commands.surgery.vocabulary", "Keep the tokens that a corpus uses."),
    "replace-tokenizer": ("trocr.commands.surgery.vocabulary", "Take another tokenizer; rows go by text."),
    "train-tokenizer": ("trocr.commands.surgery.vocabulary", "Learn a vocabulary from texts."),
    "resize-images": ("trocr.commands.surgery.image_shape", "Take images of another size, patch or colour."),
    "keep-blocks": ("trocr.commands.surgery.depth", "Keep, repeat or reorder blocks."),
    "drop-blocks": ("trocr.commands.surgery.depth", "Take blocks out."),
    "prune-heads": ("trocr.commands.surgery.pruning", "Take attention heads out."),
    "prune-units": ("trocr.commands.surgery.pruning", "Take feed-forward units out."),
    "merge-adapter": ("trocr.commands.surgery.adapters", "Add an adapter's effect to the weights."),
    "replace-encoder": (
        "trocr.commands.surgery.parts",
        "Take the encoder of a checkpoint or of timm.",
    ),
    "replace-decoder": ("trocr.commands.surgery.parts", "Take the decoder of a checkpoint."),
    "average": ("trocr.commands.surgery.averaging", "Average the weights of several checkpoints."),
}


@click.group(cls=LateGroup, late=OPERATIONS)
def surgery() -> None:
    """Change a checkpoint; what was done to which parameters is reported."""
