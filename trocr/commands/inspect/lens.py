"""`trocr inspect lens`: what each decoder block would write.

Source: original work.
"""

import click

from trocr.commands.inspect import common


@click.command()
@click.argument("checkpoint", metavar="MODEL")
@click.argument("image", metavar="IMAGE")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Candidates shown.")
@common.BEAMS
@common.NATIVE_WIDTH
@common.JSON
def lens(checkpoint: str, image: str, top: int, beams: int | None, native_width: bool, as_json: bool) -> None:
    """Read IMAGE, and show for each token what each decoder block would have written, with probabilities.

    A block's output goes through the output projection as it is: this decoder has no norm behind its last
    block.
    """
    from trocr.commands.surgery.common import load
    from trocr.inspect.lens import logit_lens

    model, processor = load(checkpoint)
    options = common.reading_options(beams, native_width=native_width)
    found = logit_lens(model, processor, image, top_k=top, **options)
    common.show(found.table(), found.to_dict(), as_json=as_json)
