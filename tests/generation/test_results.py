import pytest
import torch
from toys import pixels, toy

from trocr.generation import GenerateOutput, generate, transition_scores

OPTIONS = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}


def test_reads_as_mapping_and_tuple():
    out = GenerateOutput(sequences=torch.tensor([[2, 5]]), finished=torch.tensor([True]))
    assert out[0] is out.sequences is out["sequences"]
    assert list(out) == ["sequences", "finished"]
    assert "scores" not in out


def test_what_is_held_is_what_was_asked_for():
    model = toy()
    out = generate(model, pixels(0, 1), max_new_tokens=3, return_dict_in_generate=True)
    assert set(out) == {"sequences", "finished", "token_log_probs", "past_key_values"}
    out = generate(model, pixels(0, 1), output_logits=True, use_cache=False, num_beams=2, **OPTIONS)
    assert set(out) == {
        *("sequences", "sequences_scores", "scores", "logits", "beam_indices", "finished", "token_log_probs")
    }
    assert [tuple(step.shape) for step in out.logits] == [(4, 8)] * len(out.scores)


@pytest.mark.parametrize("normalize", [False, True])
def test_transition_scores_of_greedy_search(normalize):
    out = generate(toy(), pixels(0, 1, 2), **OPTIONS)
    found = transition_scores(out.sequences, out.scores, normalize_logits=normalize)
    new = out.sequences[:, 1:]
    assert found.shape == new.shape
    for step, scores in enumerate(out.scores):
        scores = scores.log_softmax(-1) if normalize else scores
        assert torch.equal(found[:, step], scores[torch.arange(3), new[:, step]])
    if normalize:
        ended = (new == 2).cumsum(1) - (new == 2).long() > 0
        torch.testing.assert_close(found.masked_fill(ended, 0.0), out.token_log_probs)


def test_transition_scores_of_beams_are_the_token_log_probabilities():
    out = generate(toy(seed=3), pixels(0, 1, 2), num_beams=4, num_return_sequences=3, **OPTIONS)
    found = transition_scores(out.sequences, out.scores, out.beam_indices)
    torch.testing.assert_close(found, out.token_log_probs, rtol=1e-5, atol=1e-5)
    assert (found[out.beam_indices < 0] == 0).all()
