import copy
import dataclasses

import pytest
import torch
import torch.utils._pytree as pytree

from trocr.outputs import BaseModelOutput, CausalLMOutput


def test_reads_as_object_mapping_and_tuple_of_what_is_there() -> None:
    logits, loss = torch.zeros(1, 2, 3), torch.ones(())
    out = CausalLMOutput(logits=logits, loss=loss)
    assert out.logits is out["logits"] is out[1] is out.to_tuple()[-1]
    assert list(out) == out.keys() == ["loss", "logits"]
    assert len(out) == 2
    assert "attentions" not in out
    assert out.get("attentions", 5) == 5
    assert dict(out.items())["loss"] is loss
    with pytest.raises(KeyError, match="CausalLMOutput has no 'attentions'; present: loss, logits"):
        out["attentions"]


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CausalLMOutput(logits=torch.zeros(1)).logits = None


def test_copies_and_trees() -> None:
    out = CausalLMOutput(logits=torch.zeros(1, 2, 3))
    assert copy.deepcopy(out).keys() == ["logits"]
    leaves, spec = pytree.tree_flatten(out)
    again = pytree.tree_unflatten([leaf + 1 for leaf in leaves], spec)
    assert isinstance(again, CausalLMOutput)
    assert again.loss is None
    assert torch.equal(again.logits, out.logits + 1)


class Other:
    """The output of another library."""

    last_hidden_state, attentions = torch.ones(1, 2, 3), (torch.zeros(1),)


def test_what_callers_give_as_encoder_outputs() -> None:
    own = BaseModelOutput(last_hidden_state=torch.zeros(1, 2, 3))
    assert BaseModelOutput.of(own) is own
    assert BaseModelOutput.of((own[0],))[0] is own[0]
    assert BaseModelOutput.of((own[0], (own[0],))).hidden_states == (own[0],)
    assert BaseModelOutput.of(Other()).keys() == ["last_hidden_state", "attentions"]
    for wrong in (own[0], (), 3):
        message = rf"encoder_outputs is {type(wrong).__name__}, expected what model\.encode"
        with pytest.raises(ValueError, match=message):
            BaseModelOutput.of(wrong)
