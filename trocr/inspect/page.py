"""Attention maps as one HTML page that needs nothing else, no script either: point at a token to see its map.

Source: original work.
"""

from collections.abc import Sequence
from html import escape

from PIL import Image

from trocr.inspect.attention_maps import AttentionMaps
from trocr.inspect.pictures import data_url, patches_picture, strengths

PICTURE_PX = (1600, 400)
"""Largest (width, height) that an image is kept in; larger ones are scaled down."""

SHOWN_PX = 900
"""Width that images narrower than this are shown in, up to three times their own."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
.line { position: relative; margin: .6em 0 2em }
.picture { position: relative; width: 100%; background-size: 100% 100%; outline: 1px solid #ddd }
.map { position: absolute; left: 0; top: 0; width: 100%; overflow: hidden; pointer-events: none }
.map img { position: absolute; image-rendering: pixelated; max-width: none }
.text { font-family: ui-monospace, monospace; font-size: 1.2em; margin: .5em 0; overflow-wrap: anywhere }
.token { white-space: pre-wrap; cursor: crosshair; border: solid #ddd; border-width: 0 0 2px 1px }
.token > .map { visibility: hidden }
.token:hover, .token:focus { background: #ffe0d6; outline: none }
.token:hover > .map, .token:focus > .map { visibility: visible }
.special, .about { color: #666; font-size: .9em }
.row { display: grid; grid-template-columns: 7em 1fr; gap: .6em; align-items: center; margin: .3em 0 }
.row > span { font-family: ui-monospace, monospace; white-space: pre-wrap; text-align: right }
"""


def attention_page(found: AttentionMaps | Sequence[AttentionMaps]) -> str:
    """Lay maps out as a page: of each image the picture, its tokens, and the map of the token pointed at.

    One image's maps may be given as they are.

    Tokens can be reached by keyboard and touch as well. Strengths are those of `pictures.strengths`: the
    strongest patch of each token is fully red, so colours of different tokens are not to be compared.
    """
    if isinstance(found, AttentionMaps):
        found = [found]
    body = "\n".join(_section(maps, place) for place, maps in enumerate(found))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Attention</title><style>{_STYLE}</style></head><body>\n<h1>Attention</h1>\n"
        f"<p>{escape(_about(found))} Point at a token, or step through them with the tab key.</p>\n"
        f"{body}\n</body></html>\n"
    )


def _about(found: Sequence[AttentionMaps]) -> str:
    if any(maps.is_rollout for maps in found):
        return (
            "Cross-attention followed through the encoder to the patches (rollout), without the share that "
            "all tokens have in common."
        )
    return "Where the decoder looked on the image while it wrote each token: cross-attention."


def _section(maps: AttentionMaps, place: int) -> str:
    width, height = maps.picture.size
    shown = max(width, min(SHOWN_PX, 3 * width))
    small, scale = maps.picture, min(PICTURE_PX[0] / width, PICTURE_PX[1] / height)
    if scale < 1:  # of a thin one a pixel is left
        small = small.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    picture = f".p{place} {{ aspect-ratio: {width} / {height}; background-image: url({data_url(small)}) }}"
    covers = [_cover(maps, patches_picture(grid), f"{width} / {height}") for grid in strengths(maps)]
    tokens = "".join(_token(maps, token, cover) for token, cover in enumerate(covers))
    rows = "\n".join(
        f'<div class="row"><span>{escape(name)}</span><div class="picture p{place}">{cover}</div></div>'
        for name, cover in zip(maps.tokens, covers, strict=True)
    )
    return (
        f"<style>{picture}</style>\n<h2>{escape(maps.source)}</h2>\n"
        f'<div class="line" style="max-width: {shown}px"><div class="picture p{place}"></div>'
        f'<div class="text">{tokens}</div></div>\n'
        f'<details style="max-width: calc({shown}px + 8em)">'
        f"<summary>All {len(covers)} tokens</summary>\n{rows}\n</details>"
    )


def _token(maps: AttentionMaps, token: int, cover: str) -> str:
    prefix, padding = maps.prefix[token].sum(axis=-1).mean(), maps.padding[token].mean()
    about = f"{maps.tokens[token]}\nprefix tokens {prefix:.1%}, outside the image {padding:.1%}"
    name = escape(maps.parts[token]) or f'<span class="special">{escape(maps.tokens[token])}</span>'
    return f'<span class="token" tabindex="0" title="{escape(about)}">{name}{cover}</span>'


def _cover(maps: AttentionMaps, patches: Image.Image, aspect: str) -> str:
    left, top, width, height = (f"{100 * part:.4f}%" for part in maps.geometry.box)
    style = f"left: {left}; top: {top}; width: {width}; height: {height}"
    return (
        f'<span class="map" style="aspect-ratio: {aspect}">'
        f'<img alt="" style="{style}" src="{data_url(patches)}"></span>'
    )
