"""The lines that options name: real ones, generated ones, or both by shares.

Source: original work.
"""

from dataclasses import dataclass

from trocr.data.mixture import MixedSource, Part
from trocr.data.records import LineSource
from trocr.data.sources import ConcatSource, open_source
from trocr.data.synthetic import SyntheticLines, SyntheticSettings
from trocr.training.option_tables import DataOptions


@dataclass(frozen=True, kw_only=True)
class TrainingLines:
    """What is trained on.

    Attributes:
        source: the lines.
        endless: `source` gives a line for any number, in an order of its own.
        epoch: lines that are drawn in one pass over those on disk, generated ones among them; 0 where all are
            generated.
    """

    source: LineSource
    endless: bool
    epoch: int


def training_lines(options: DataOptions) -> TrainingLines:
    """Open what is trained on.

    Raises:
        DataError: a source is missing, empty, or not what its format says; or a share is too small.
        ValueError: settings of the generator are wrong.
    """
    sources = [open_source(path, kind=options.kind) for path in options.train]
    num_real = sum(map(len, sources))
    if not options.has_synthetic and not options.shares:
        return TrainingLines(source=_joined(sources), endless=False, epoch=num_real)
    parts = []
    real_share = 1 - options.synthetic_share if options.has_synthetic else 1.0
    epoch = round(num_real / real_share) if num_real else 0
    shares = options.shares or tuple(map(len, sources))
    for source, share in zip(sources, shares, strict=True):
        parts.append(Part(source=source, share=real_share * share / sum(shares)))
    if options.has_synthetic:
        settings = SyntheticSettings.from_dict(options.synthetic)
        generated = SyntheticLines(settings, seed=options.seed)
        parts.append(Part(source=generated, share=options.synthetic_share, endless=True))
    return TrainingLines(source=MixedSource(parts, seed=options.seed), endless=True, epoch=epoch)


def validation_lines(options: DataOptions) -> LineSource | None:
    """Open what is validated on; None where nothing is named.

    Raises:
        DataError: a source is missing, empty, or not what its format says.
    """
    if not options.val:
        return None
    return _joined([open_source(path, kind=options.kind) for path in options.val])


def _joined(sources: list[LineSource]) -> LineSource:
    return sources[0] if len(sources) == 1 else ConcatSource(sources)
