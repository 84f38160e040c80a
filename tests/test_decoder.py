import pytest
import torch

from trocr import DecoderCache, TrOCRConfig, TrOCRForCausalLM

# Another order of the same float32 operations.
TOLERANCE = 1e-5


@pytest.fixture(params=[True, False], ids=["learned", "sinusoidal"])
def decoder(request: pytest.FixtureRequest) -> TrOCRForCausalLM:
    torch.manual_seed(0)
    config = TrOCRConfig(
        vocab_size=30,
        d_model=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        max_position_embeddings=8,
        cross_attention_hidden_size=12,
        init_std=0.3,
        use_learned_position_embeddings=request.param,
    )
    return TrOCRForCausalLM(config).eval()


IDS = torch.tensor([[2, 5, 7, 9], [2, 8, 3, 1], [2, 2, 6, 6], [2, 9, 9, 4]])


@torch.no_grad()
def test_a_filled_cache_needs_no_encoder_states(decoder: TrOCRForCausalLM) -> None:
    memory = torch.randn(2, 5, 12)
    whole = decoder(IDS, encoder_hidden_states=memory).logits
    cache = DecoderCache(2)
    first = decoder(IDS[:, :2], encoder_hidden_states=memory, past_key_values=cache).logits
    second = decoder(IDS[:, 2:], past_key_values=cache).logits
    torch.testing.assert_close(torch.cat((first, second), 1), whole, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_encoder_mask_with_several_rows_an_image(decoder: TrOCRForCausalLM) -> None:
    memory = torch.randn(2, 5, 12)
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]])
    shared = decoder(IDS, encoder_hidden_states=memory, encoder_attention_mask=keep).logits
    copied = decoder(
        IDS,
        encoder_hidden_states=memory.repeat_interleave(2, 0),
        encoder_attention_mask=keep.repeat_interleave(2, 0),
    ).logits
    torch.testing.assert_close(shared, copied, atol=TOLERANCE, rtol=0)


def test_hidden_tokens_change_nothing(decoder: TrOCRForCausalLM) -> None:
    memory = torch.randn(4, 5, 12)
    keep = torch.tensor([[1, 1, 0, 1]]).expand(4, -1)
    other = IDS.clone()
    other[:, 2] = 20
    first = decoder(IDS, attention_mask=keep, encoder_hidden_states=memory).logits
    second = decoder(other, attention_mask=keep, encoder_hidden_states=memory).logits
    if not decoder.config.use_learned_position_embeddings:
        first, second = first[[0, 2, 3]], second[[0, 2, 3]]  # a token that is no padding takes a position
    assert torch.equal(first[:, [0, 1, 3]], second[:, [0, 1, 3]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "either token ids or their embeddings, neither were given"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(4, 4, 16)}, ValueError, "both were given"),
        ({"input_ids": IDS.float()}, ValueError, r"shape \(4, 4\) and type torch.float32, expected .* whole"),
        (
            {"input_ids": IDS[:, :0]},
            ValueError,
            r"shape \(4, 0\) and type torch.int64, expected at least one",
        ),
        ({"input_ids": IDS + 30}, IndexError, "token ids from 31 to 39 .*ids 0 to 29"),
        ({"input_ids": IDS.repeat(1, 3)}, ValueError, "12 tokens are more than the 8 positions"),
        (
            {"input_ids": IDS, "attention_mask": IDS[:, :2]},
            ValueError,
            "covers 2 tokens, expected 4: 0 cached",
        ),
        (
            {"input_ids": IDS, "past_key_values": DecoderCache(3)},
            ValueError,
            "cache is for 3 blocks, .* has 2",
        ),
        ({"input_ids": IDS, "labels": IDS[:, 1:]}, ValueError, r"labels have shape \(4, 3\), logits are for"),
        (
            {"input_ids": IDS, "labels": IDS + 30},
            ValueError,
            "labels range from 31 to 39, expected ids 0 to 29",
        ),
    ],
)
def test_bad_input(decoder: TrOCRForCausalLM, arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        decoder(**arguments)
