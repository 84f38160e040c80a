import itertools
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from trocr.training.ctc import PRINTABLE_ASCII, CTCHead, CTCHeadError


def head(**changes) -> CTCHead:
    torch.manual_seed(0)
    return CTCHead(**{"width": 8, "alphabet": "abc", "grid": (1, 4), "num_prefix": 1} | changes)


def collapse(path):
    return [c for c, before in zip(path, (0, *path), strict=False) if c and c != before]


def test_the_loss_sums_all_alignments():
    """Against a sum over every path of four columns."""
    module = head()
    states = torch.randn(2, 5, 8)
    targets = [[1, 2], [3, 3]]
    log_probs = module(states).detach().log_softmax(2).double()
    expected = 0.0
    for row, target in zip(log_probs, targets, strict=True):
        paths = (path for path in itertools.product(range(4), repeat=4) if collapse(path) == target)
        expected -= math.log(
            sum(math.exp(sum(float(row[t, c]) for t, c in enumerate(path))) for path in paths)
        )
    assert float(module.loss(states, targets)) == pytest.approx(expected, rel=1e-5)


def test_a_line_without_an_alignment_adds_nothing():
    module = head()
    states = torch.randn(2, 5, 8, requires_grad=True)
    fits = module.loss(states, [[1, 2], [1, 1, 1]])  # three equal characters need five columns
    fits.backward()
    assert float(fits.detach()) == pytest.approx(float(module.loss(states[:1], [[1, 2]]).detach()))
    assert torch.isfinite(states.grad).all()
    assert not states.grad[1].any()


def test_rows_of_patches_are_averaged():
    module = head(grid=(2, 3), num_prefix=2)
    states = torch.randn(1, 2 + 6, 8)
    columns = (states[:, 2:5] + states[:, 5:8]) / 2
    torch.testing.assert_close(module(states), module.proj(columns))


def test_reading_merges_repeats_and_drops_blanks():
    module = head(width=4, grid=(1, 6), num_prefix=0)
    with torch.no_grad():
        module.proj.weight.copy_(torch.eye(4))
        module.proj.bias.zero_()
    path = [1, 1, 0, 1, 3, 0]
    assert module.read(torch.eye(4)[path][None]) == ["aac"]


def test_targets_leave_out_what_the_alphabet_lacks():
    assert head().targets(["cab", "xa!"]) == [[3, 1, 2], [1]]
    assert CTCHead(width=2, alphabet=PRINTABLE_ASCII, grid=(1, 1), num_prefix=0).targets(["~ "]) == [[95, 1]]


def test_saved_and_loaded(tmp_path):
    one = head()
    one.save(tmp_path)
    other = head()
    torch.nn.init.zeros_(other.proj.weight)
    other.load(tmp_path)
    assert torch.equal(one.proj.weight, other.proj.weight)
    assert torch.equal(one.proj.bias, other.proj.bias)


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_a_wrong_alphabet(alphabet):
    with pytest.raises(CTCHeadError, match="is empty or names a character twice"):
        head(alphabet=alphabet)


def test_a_head_that_is_missing_or_of_another_alphabet(tmp_path):
    with pytest.raises(CTCHeadError, match="there is no CTC head"):
        head().load(tmp_path / "nothing.safetensors")
    head().save(tmp_path)
    with pytest.raises(CTCHeadError, match=r"holds .*\(4, 8\).* need .*\(5, 8\)"):
        head(alphabet="abcd", width=8).load(unnamed(tmp_path))
    with pytest.raises(
        CTCHeadError, match=r"reads the alphabet 'abc', wanted is 'abd'; set loss\.ctc_alphabet"
    ):
        head(alphabet="abd").load(tmp_path)
    (tmp_path / "ctc_head.safetensors").write_bytes(b"no head")
    with pytest.raises(CTCHeadError, match=r"is no CTC head, or damaged"):
        head().load(tmp_path)


def test_a_head_that_does_not_say_its_alphabet_is_taken(tmp_path):
    head().save(tmp_path)
    other = head()
    torch.nn.init.zeros_(other.proj.weight)
    other.load(unnamed(tmp_path))
    assert other.proj.weight.any()


def unnamed(folder):
    path = folder / "unnamed.safetensors"
    save_file(load_file(folder / "ctc_head.safetensors"), path)
    return path
