import copy
import dataclasses

import pytest
import torch
import torch.utils._pytree as pytree

from trocr.outputs import CausalLMOutput


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
