"""`trocr inspect attention`: where the model looked, as pictures or as a page.

Source: original work.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trocr.commands.console import Console, OutputError, open_output
from trocr.commands.inspect import common

if TYPE_CHECKING:
    from trocr.inspect.attention_maps import AttentionMaps


@click.command()
@click.argument("checkpoint", metavar="MODEL")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--output", required=True, metavar="DIR|FILE.html", help="Pictures of each token, or a page.")
@click.option("--rollout", is_flag=True, help="Follow the attention through the encoder to the patches.")
@click.option("--layer", "layers", default="all", show_default=True, help="Decoder blocks: 2, 0-1, last:1.")
@click.option("--head", "heads", type=click.IntRange(min=0), multiple=True, help="Only these; repeatable.")
@common.BEAMS
@common.NATIVE_WIDTH
def attention(
    checkpoint: str,
    images: tuple[str, ...],
    output: str,
    rollout: bool,
    layers: str,
    heads: tuple[int, ...],
    beams: int | None,
    native_width: bool,
) -> None:
    """Read each IMAGE, and draw where the decoder looked on it for each token.

    IMAGE is an image, a folder or a pattern. A page shows the map of the token that is pointed at. A folder
    gets NAME-000.png and so on for the tokens of each image, and NAME.json with the numbers. An image that
    cannot be read costs a line on standard error and exit status 1 at the end.
    """
    from trocr.commands.surgery.common import load
    from trocr.image import ImageError
    from trocr.inspect.attention_maps import attention_maps

    if output in ("", "-"):
        raise OutputError(f"--output {output!r} is no place for pictures; give a folder or FILE.html")
    console = Console()
    paths = common.image_paths(images, console)
    found: list[AttentionMaps] = []
    if paths:
        model, processor = load(checkpoint)
        with console.progress(len(paths)):
            for path in paths:
                try:
                    found.append(
                        attention_maps(
                            model,
                            processor,
                            path,
                            layers=layers,
                            heads=heads or None,
                            rollout=rollout,
                            **common.reading_options(beams, native_width=native_width),
                        )
                    )
                except ImageError as error:
                    console.fail(str(error))
                console.advance()
    if found:
        (_write_page if output.lower().endswith((".html", ".htm")) else _write_pictures)(output, found)
    if console.failed:
        click.get_current_context().exit(1)


def _write_page(output: str, found: list["AttentionMaps"]) -> None:
    from trocr.inspect.page import attention_page

    with open_output(output) as file:
        assert file is not None  # a path was given
        file.write(attention_page(found).encode("utf-8", "backslashreplace"))


def _write_pictures(output: str, found: list["AttentionMaps"]) -> None:
    from trocr.atomic_write import write_files
    from trocr.inspect.pictures import overlay, png

    taken: set[str] = set()
    for place, maps in enumerate(found):
        stem, number = Path(maps.source).stem, place
        while stem.casefold() in taken:
            stem, number = f"{Path(maps.source).stem}-image{number}", number + len(found)
        taken.add(stem.casefold())
        values = json.dumps(maps.to_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace")
        files = {f"{stem}.json": values}
        files |= {f"{stem}-{token:03}.png": png(overlay(maps, token)) for token in range(len(maps.tokens))}
        try:
            write_files(output, files)
        except OSError as error:
            raise OutputError(
                f"{output}: cannot be written ({error.strerror}); give another folder"
            ) from error
