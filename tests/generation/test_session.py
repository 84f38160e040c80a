import torch
from toys import START, pixels, toy

from trocr.generation.session import Record, Session
from trocr.outputs import CausalLMOutput


def session(model, images=(0, 1), **options) -> Session:
    memory = model.encode(pixels(*images)).last_hidden_state
    return Session(model.decoder, memory=memory, **options)


def starts(rows: int) -> torch.Tensor:
    return torch.full((rows, 1), START)


def grow(ids: torch.Tensor, *tokens: int) -> torch.Tensor:
    return torch.cat((ids, torch.tensor(tokens)[:, None]), dim=1)


def test_with_a_cache_only_the_last_token_is_computed():
    model = toy()
    plain, cached = session(model, use_cache=False), session(model)
    ids = starts(2)
    for tokens in ((3, 4), (5, 6), (7, 7)):
        assert torch.equal(plain.next_logits(ids), cached.next_logits(ids))
        ids = grow(ids, *tokens)
    assert model.decoder.calls == [(2, 1), (2, 1), (2, 2), (2, 1), (2, 3), (2, 1)]
    assert plain.cache is None


def test_the_start_of_a_group_is_computed_once():
    model = toy()
    grouped = session(model, group=3)
    first = grouped.next_logits(starts(6))
    assert model.decoder.calls == [(2, 1)]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[3], first[5])
    assert not torch.equal(first[0], first[3])
    assert grouped.cache.selected == [[0, 0, 0, 1, 1, 1]]
    ids = grow(starts(6), 3, 4, 5, 3, 4, 5)
    expected = session(model, images=(0, 0, 0, 1, 1, 1))
    expected.next_logits(starts(6))
    assert torch.equal(grouped.next_logits(ids), expected.next_logits(ids))


def test_logits_are_float32():
    model = toy()
    model.decoder.table = model.decoder.table.bfloat16()
    assert session(model).next_logits(starts(2)).dtype == torch.float32


def test_rows_follow_their_beams():
    model = toy()
    beams = session(model, group=2)
    beams.next_logits(starts(4))
    beams.follow(torch.tensor([1, 1, 2, 3]))
    assert beams.cache.selected[-1] == [1, 1, 2, 3]
    assert beams.cache.kept_images == []


def test_dropped_rows_take_their_images_along():
    model = toy()
    rows = session(model, images=(0, 1, 2))
    rows.next_logits(starts(3))
    rows.follow(torch.tensor([0, 2]))
    assert rows.cache.kept_images == [[0, 2]]
    assert rows.memory[:, 0, 0].tolist() == [0, 2]
    expected = session(model, images=(0, 2))
    expected.next_logits(starts(2))
    ids = grow(starts(2), 3, 4)
    assert torch.equal(rows.next_logits(ids), expected.next_logits(ids))


def test_dropped_groups_take_their_images_along():
    model = toy()
    rows = session(model, images=(0, 1, 2), group=2)
    rows.next_logits(starts(6))
    rows.follow(torch.tensor([3, 2, 5, 5]))
    assert rows.cache.selected[-1] == [3, 2, 5, 5]
    assert rows.cache.kept_images == [[1, 2]]
    assert rows.memory[:, 0, 0].tolist() == [1, 2]


class MaskDecoder:
    """Remembers the masks it is called with."""

    def __init__(self) -> None:
        self.masks: list[list[list[int]]] = []

    def __call__(self, *, input_ids, attention_mask, past_key_values, output_attentions, **rest):
        self.masks.append(attention_mask.tolist())
        weights = (torch.zeros(input_ids.shape[0], 1, 1, 1),) if output_attentions else None
        logits = torch.zeros(input_ids.shape[0], 1, 5)
        return CausalLMOutput(logits=logits, attentions=weights, hidden_states=None)


def test_masks_grow_with_the_rows():
    decoder = MaskDecoder()
    masked = Session(decoder, memory=None, group=2, keep_mask=torch.tensor([[0, 1], [1, 1]]), use_cache=False)
    masked.next_logits(torch.zeros(4, 2, dtype=torch.long))
    masked.next_logits(torch.zeros(4, 3, dtype=torch.long))
    assert decoder.masks == [[[0, 1], [1, 1]], [[0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]]]


def test_a_record_has_every_row_from_the_first_step_on():
    record = Record(with_attentions=True)
    recorded = Session(
        MaskDecoder(),
        memory=None,
        group=2,
        keep_mask=torch.ones(1, 1, dtype=torch.long),
        use_cache=False,
        record=record,
    )
    recorded.next_logits(torch.zeros(2, 1, dtype=torch.long))
    recorded.next_logits(torch.zeros(2, 2, dtype=torch.long))
    assert [weights[0].shape[0] for weights in record.attentions] == [2, 2]
    assert record.cross_attentions == []
    assert not Record().wanted


def test_tokens_that_may_come_are_scored_in_one_call():
    model = toy()
    ahead = torch.tensor([[3, 4], [5, 6]])
    plain, several = session(model, use_cache=False), session(model)
    expected = [plain.next_logits(ids) for ids in (starts(2), grow(starts(2), 3, 5))]
    expected.append(plain.next_logits(torch.cat((starts(2), ahead), dim=1)))
    assert torch.equal(several.score(starts(2), ahead), torch.stack(expected, dim=1))
    several.truncate(2)
    ids = torch.cat((grow(starts(2), 3, 5), torch.tensor([[7, 6], [6, 6]])), dim=1)
    assert torch.equal(several.score(ids)[:, 0], plain.next_logits(ids))
    assert model.decoder.calls[-2] == (2, 2), "two tokens were not in the cache"
    assert several.cache.length == 4


def test_masks_follow_the_tokens_that_may_come():
    decoder = MaskDecoder()
    masked = Session(decoder, memory=None, keep_mask=torch.tensor([[0, 1], [1, 1]]))
    masked.score(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert decoder.masks == [[[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]]
