"""Decoding with a cache gives what decoding without one gives, here and in the reference, at every step."""

from collections.abc import Sequence

import pytest
import torch
from families import MAX_POSITIONS, PAD, Pair, ids, images
from torch import Tensor

from trocr import DecoderCache

CACHE_TOLERANCE = 1e-5
"""Largest absolute difference of logits in float32: the bound that the project sets. Logits reach 6 here."""

ROWS, LENGTH = 3, 17


def largest(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one.detach() - other.detach()).abs().max())


def in_chunks(model, memory: Tensor, tokens: Tensor, sizes: Sequence[int], **options) -> Tensor:
    """Logits (B, T, V) of tokens that are fed a few at a time."""
    cache = DecoderCache(len(model.decoder.blocks))
    found, start = [], 0
    for size in sizes:
        out = model.decoder(
            input_ids=tokens[:, start : start + size],
            encoder_hidden_states=memory,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        start += size
        assert cache.length == start == out.past_key_values.get_seq_length()
        assert out.past_key_values is cache
        found.append(out.logits)
    assert start == tokens.shape[1]
    return torch.cat(found, dim=1)


@torch.no_grad()
def whole(pair: Pair, tokens: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Memory (B, S, D) and uncached logits (B, T, V) of ours."""
    model = pair.ours
    memory = model.memory(model.encode(images(pair.family, len(tokens))))
    out = model.decoder(input_ids=tokens, encoder_hidden_states=memory, use_cache=False, **options)
    assert out.past_key_values is None
    return memory, out.logits


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize(
    "sizes",
    [(1,) * LENGTH, (5, 12), (1, 16), (16, 1), (4, 1, 1, 3, 8), (17,)],
    ids=lambda s: "-".join(map(str, s)),
)
def test_every_step_with_a_cache(pair: Pair, sizes: tuple[int, ...], grad: bool) -> None:
    tokens = ids(ROWS, LENGTH)
    memory, expected = whole(pair, tokens)
    with torch.set_grad_enabled(grad):
        assert largest(in_chunks(pair.ours, memory, tokens, sizes), expected) <= CACHE_TOLERANCE


@pytest.mark.parametrize("core", ["sdpa", "eager"])
def test_as_many_tokens_as_positions(pair: Pair, core: str) -> None:
    tokens = ids(2, MAX_POSITIONS)
    memory, expected = whole(pair, tokens)
    model = pair.fresh(attn_implementation=core)
    with torch.inference_mode():
        assert largest(in_chunks(model, memory, tokens, (1,) * MAX_POSITIONS), expected) <= CACHE_TOLERANCE
    with pytest.raises(ValueError, match=r"41 tokens are more than the 40 positions"):
        in_chunks(model, memory, torch.cat((tokens, tokens[:, :1]), dim=1), (MAX_POSITIONS, 1))


def test_ours_with_a_cache_against_the_reference_with_one(pair: Pair) -> None:
    tokens, pixels = ids(ROWS, LENGTH), images(pair.family, ROWS)
    tokens[1, 9:] = PAD
    tokens[2, 4:6] = PAD
    with torch.no_grad():
        encoded = pair.hf.encoder(pixels)
        theirs, ours = None, None
        for step in range(LENGTH):
            piece = tokens[:, step : step + 1]
            left = pair.hf(
                encoder_outputs=encoded, decoder_input_ids=piece, past_key_values=theirs, use_cache=True
            )
            right = pair.ours(
                encoder_outputs=encoded, decoder_input_ids=piece, past_key_values=ours, use_cache=True
            )
            theirs, ours = left.past_key_values, right.past_key_values
            assert largest(left.logits, right.logits) <= CACHE_TOLERANCE, f"step {step}"
            assert theirs.get_seq_length() == ours.get_seq_length() == step + 1
    for layer, (mine, cross, own) in enumerate(
        zip(ours.layers, theirs.cross_attention_cache.layers, theirs.self_attention_cache.layers, strict=True)
    ):
        assert largest(own.keys, mine.keys) <= CACHE_TOLERANCE, layer
        assert largest(own.values, mine.values) <= CACHE_TOLERANCE, layer
        assert largest(cross.keys, mine.cross[0]) <= CACHE_TOLERANCE, layer
        assert largest(cross.values, mine.cross[1]) <= CACHE_TOLERANCE, layer


def test_finished_rows_that_go_on_with_padding(pair: Pair) -> None:
    """Padding after the end, as generation feeds it: it takes no sinusoidal position."""
    tokens = ids(ROWS, LENGTH)
    tokens[1, 6:] = PAD
    tokens[2, 1:] = PAD
    memory, expected = whole(pair, tokens)
    with torch.no_grad():
        stepwise = in_chunks(pair.ours, memory, tokens, (1,) * LENGTH)
    assert largest(stepwise[0], expected[0]) <= CACHE_TOLERANCE
    assert largest(stepwise[1, :6], expected[1, :6]) <= CACHE_TOLERANCE
    assert largest(stepwise[1:, 6:], expected[1:, 6:]) <= CACHE_TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_that_covers_cached_tokens(pair: Pair, side: str) -> None:
    tokens = ids(ROWS, LENGTH)
    mask = torch.ones_like(tokens)
    mask[1, (slice(0, 3) if side == "left" else slice(12, None))] = 0
    memory, expected = whole(pair, tokens, attention_mask=mask)
    cache = DecoderCache(len(pair.ours.decoder.blocks))
    found = []
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 11), (11, LENGTH)):
            out = pair.ours.decoder(
                input_ids=tokens[:, start:end],
                attention_mask=mask[:, :end],
                encoder_hidden_states=memory,
                past_key_values=cache,
                use_cache=True,
            )
            found.append(out.logits)
    step = torch.cat(found, dim=1)
    # a query that may see nothing looks at everything there is evenly, which a cache shortens
    sees = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    sees[1, :3] = side == "right"
    assert largest(step[sees], expected[sees]) <= CACHE_TOLERANCE


def test_rows_that_share_an_image(pair: Pair) -> None:
    """Three rows an image, as beams are: as with each image repeated, also after reordering."""
    model, images_count, n = pair.ours, 2, 3
    tokens = ids(images_count * n, LENGTH)
    pixels = images(pair.family, images_count)
    order = torch.tensor([2, 0, 0, 4, 3, 3])
    with torch.no_grad():
        memory = model.memory(model.encode(pixels))
        repeated = memory.repeat_interleave(n, dim=0)
        plain = model.decoder(input_ids=tokens, encoder_hidden_states=repeated).logits
        shared = model.decoder(input_ids=tokens, encoder_hidden_states=memory).logits
        assert largest(plain, shared) <= CACHE_TOLERANCE
        cache = DecoderCache(len(model.decoder.blocks))
        model.decoder(
            input_ids=tokens[:, :5], encoder_hidden_states=memory, past_key_values=cache, use_cache=True
        )
        cache.select(order)
        moved = torch.cat((tokens[order, :5], tokens[:, 5:]), dim=1)
        expected = model.decoder(input_ids=moved, encoder_hidden_states=repeated).logits
        for step in range(5, LENGTH):
            out = model.decoder(
                input_ids=moved[:, step : step + 1],
                encoder_hidden_states=memory,
                past_key_values=cache,
                use_cache=True,
            )
            assert largest(out.logits[:, 0], expected[:, step]) <= CACHE_TOLERANCE
        eager = pair.fresh(attn_implementation="eager")
        attentions = eager.decoder(input_ids=tokens, encoder_hidden_states=memory, output_attentions=True)
        separate = eager.decoder(input_ids=tokens, encoder_hidden_states=repeated, output_attentions=True)
    for one, other in zip(attentions.cross_attentions, separate.cross_attentions, strict=True):
        assert largest(one, other) <= CACHE_TOLERANCE


def test_dropping_finished_images(pair: Pair) -> None:
    model, tokens = pair.ours, ids(4, LENGTH)
    memory, expected = whole(pair, tokens)
    cache = DecoderCache(len(model.decoder.blocks))
    keep = torch.tensor([3, 1])
    with torch.no_grad():
        model.decoder(
            input_ids=tokens[:, :6], encoder_hidden_states=memory, past_key_values=cache, use_cache=True
        )
        cache.select(keep)
        cache.keep_images(keep)
        out = model.decoder(
            input_ids=tokens[keep, 6:], encoder_hidden_states=memory, past_key_values=cache, use_cache=True
        )
    assert largest(out.logits, expected[keep, 6:]) <= CACHE_TOLERANCE


def test_the_last_logits_alone(pair: Pair) -> None:
    tokens = ids(ROWS, LENGTH)
    memory, expected = whole(pair, tokens)
    for count in (1, 3, LENGTH, 0):
        with torch.no_grad():
            some = pair.ours.decoder(
                input_ids=tokens, encoder_hidden_states=memory, logits_to_keep=count
            ).logits
        assert largest(some, expected[:, -count:]) <= CACHE_TOLERANCE
