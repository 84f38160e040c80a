"""How long a row may become: the caller's choice, the model's files', or a default that fits a line of text.

Source: `transformers` 5.23 (`_prepare_generated_length`) for which option goes before which.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass

from trocr.generation.options import GenerationConfig, GenerationError

DEFAULT_NEW_TOKENS = 256
"""New tokens where nobody sets a length. A line of text has 10 to 100, and the default must not cut it."""


@dataclass(frozen=True)
class Length:
    """The longest a row may become.

    Attributes:
        most: tokens of a row, start token and prefix included.
        chosen: whether the caller of `generate` set it.
        reason: where it comes from, for the warning about rows that reach it.
    """

    most: int
    chosen: bool
    reason: str


def resolve_length(
    options: GenerationConfig, chosen: Collection[str], *, prefix: int, positions: int
) -> Length:
    """Find the longest a row may become.

    `max_new_tokens` goes before `max_length` whoever set them, as in `transformers`. Where neither is set a
    row may have `DEFAULT_NEW_TOKENS` new tokens. A limit that the caller did not set is lowered to what the
    model's positions allow: the last token of a row is never read, so a row may have one token more than
    positions.

    Args:
        options: all options.
        chosen: names of the options that the caller of `generate` set.
        prefix: tokens of a row before the first new one.
        positions: tokens the decoder can read.
    Raises:
        GenerationError: the prefix fills the row, or the caller asks for more tokens than there are
            positions.
    Differs: `transformers` 5.23 stops after 20 new tokens where nobody sets a length, and runs into the end
        of the position table.
    """
    if options.max_new_tokens is not None:
        name, most = "max_new_tokens", prefix + options.max_new_tokens
        if "max_length" in chosen and "max_new_tokens" not in chosen:
            warnings.warn(
                f"max_length={options.max_length} has no effect: the model's generation_config sets "
                f"max_new_tokens={options.max_new_tokens}, which goes before it; pass max_new_tokens",
                stacklevel=6,
            )
    elif options.max_length is not None:
        name, most = "max_length", options.max_length
    else:
        name, most = "", prefix + DEFAULT_NEW_TOKENS
    if prefix > positions:
        raise GenerationError(
            f"the prefix of {prefix} tokens does not fit: the model's max_position_embeddings is {positions}"
        )
    if most <= prefix:
        raise GenerationError(
            f"{name}={most} leaves no room after a start of {prefix} tokens; raise it, or set max_new_tokens"
        )
    reason = name
    if name in chosen:
        value = getattr(options, name)
        if most > positions + 1:
            raise GenerationError(
                f"{name}={value} asks for rows of {most} tokens, but the model reads at most {positions} "
                f"(max_position_embeddings); set it to {positions + 1 - (most - value)} or less"
            )
    else:
        reason = "the default length"
        if name:
            reason = f"{name}={getattr(options, name)} of the model's generation_config"
        if most > positions + 1:
            most, reason = positions + 1, f"the model's {positions} positions"
    _check_least(options, prefix, most)
    return Length(most, name in chosen, reason)


def _check_least(options: GenerationConfig, prefix: int, most: int) -> None:
    least = max(options.min_length or 0, prefix + (options.min_new_tokens or 0))
    if least > most:
        raise GenerationError(
            f"the minimum of {least} tokens is above the limit of {most}; raise max_new_tokens"
        )


def warn_cut(length: Length, num_cut: int, num_rows: int) -> None:
    """Say once that rows were cut at a limit that the caller did not set."""
    if num_cut and not length.chosen:
        warnings.warn(
            f"{num_cut} of {num_rows} rows were cut at {length.most} tokens ({length.reason}) before they "
            "ended; max_new_tokens=... sets the limit, GenerateOutput.finished says which rows ended",
            stacklevel=5,
        )
