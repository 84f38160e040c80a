"""The engine: matching, both directions, and one error for everything that is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weights_conversion.rename import KeyMapError, Move, Plan, Table

RULES = {
    "net.layer.{i}.query": "blocks.{i}.q_proj",
    "net.layer.{i}.key": "blocks.{i}.k_proj",
    "net.token": "token",
    "net.norm": "norm",
}
SOURCE = {
    "net.token": (1, 4),
    "net.norm.weight": (4,),
    "net.norm.bias": (4,),
    "net.layer.0.query.weight": (4, 4),
    "net.layer.0.key.weight": (4, 4),
    "net.layer.11.query.weight": (4, 4),
    "net.layer.11.key.weight": (4, 4),
}
EXPECTED = {
    "token": (1, 4),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "blocks.0.q_proj.weight": (4, 4),
    "blocks.0.k_proj.weight": (4, 4),
    "blocks.11.q_proj.weight": (4, 4),
    "blocks.11.k_proj.weight": (4, 4),
}


def table(**options) -> Table:
    return Table(RULES, name="toy", **options)


def problems_of(call) -> dict[str, list[tuple[str, str]]]:
    with pytest.raises(KeyMapError) as caught:
        call()
    return caught.value.problems


def test_every_key_goes_to_one_place_and_back() -> None:
    plan = table().plan(SOURCE, EXPECTED, origin="toy.safetensors")
    assert [move.source for move in plan.items] == list(SOURCE)
    assert {move.target for move in plan.items} == set(EXPECTED)
    assert table().invert(EXPECTED) == {move.target: move.source for move in plan.items}


def test_block_number_is_one_component_and_never_padded() -> None:
    for name in ("net.layer.x.query.weight", "net.layer.01.query.weight", "net.layer.1.2.query.weight"):
        assert table().matches(name) == []
    assert table().matches("net.layer.120.query.weight") == ["net.layer.{i}.query"]


def test_leaves_other_than_weight_and_bias_are_unknown() -> None:
    assert table().matches("net.norm.running_mean") == []
    assert table().matches("net.norm.weight.bias") == []


def test_all_problems_come_in_one_error() -> None:
    source = dict(SOURCE)
    del source["net.norm.bias"]
    source["net.norm.weight"] = (5,)
    source["net.layer.0.querry.weight"] = (4, 4)
    source["net.layer.12.key.weight"] = (4, 4)
    with pytest.raises(KeyMapError) as caught:
        table().plan(source, EXPECTED, origin="bad.safetensors")
    found = caught.value.problems
    assert found["unknown"][0][0] == "net.layer.0.querry.weight"
    assert found["missing"] == [("net.norm.bias", "(4,), our norm.bias")]
    assert found["not in this model"][0][0] == "net.layer.12.key.weight"
    assert found["wrong shape"] == [
        ("net.norm.weight", "the file has (5,), the configured model expects (4,)")
    ]
    message = str(caught.value)
    assert message.startswith("bad.safetensors: 4 problems")
    assert "the nearest known name is net.layer.0.query.weight" in message
    assert "the configured model has no blocks.12.k_proj.weight" in message
    assert "Read as the toy dialect" in message
    assert "config.json belongs to this file" in message


def test_same_problem_in_many_blocks_is_one_line() -> None:
    source = {name: shape for name, shape in SOURCE.items() if ".key." not in name}
    with pytest.raises(KeyMapError) as caught:
        table().plan(source, EXPECTED, origin="bad")
    assert "net.layer.{0,11}.key.weight: (4, 4), our blocks.{i}.k_proj.weight" in str(caught.value)
    assert len(caught.value.problems["missing"]) == 2


def test_name_like_nothing_known_says_so() -> None:
    found = problems_of(lambda: table().plan({**SOURCE, "zzzz": (1,)}, EXPECTED, origin="bad"))
    assert found == {"unknown": [("zzzz", "(1,); no known name is like it")]}


def test_two_keys_for_one_tensor_are_reported() -> None:
    doubled = Table({"a": "t", "b.weight": "t.weight"})
    found = problems_of(
        lambda: doubled.plan({"a.weight": (1,), "b.weight": (1,)}, {"t.weight": (1,)}, origin="bad")
    )
    assert found["given twice"] == [("b.weight", "gives t.weight, which a.weight gives too")]


def test_key_matched_by_two_rules_is_reported() -> None:
    loose = Table({"a.{i}": "x.{i}", "a.0": "y"})
    found = problems_of(lambda: loose.plan({"a.0.weight": (1,)}, {"y.weight": (1,)}, origin="bad"))
    assert found["matched by several rules"][0][0] == "a.0.weight"
    assert "a.{i}" in found["matched by several rules"][0][1]
    assert "a.0" in found["matched by several rules"][0][1]


def test_ignored_keys_carry_their_reason() -> None:
    plan = table(ignored={"head.{i}": "of another task"}).plan(
        {**SOURCE, "head.3.weight": (9,)}, EXPECTED, origin="toy"
    )
    assert plan.ignored == (("head.3.weight", "of another task"),)


def test_tied_key_may_be_absent_and_must_be_compared_when_present() -> None:
    rules = Table({"emb": "embed", "out": "head"})
    tied = {"head.weight": "embed.weight"}
    alone = rules.plan({"emb.weight": (5, 2)}, {"embed.weight": (5, 2)}, tied=tied, origin="x")
    assert alone == Plan(items=(Move(target="embed.weight", source="emb.weight"),))
    for expected in ({"embed.weight": (5, 2)}, {"embed.weight": (5, 2), "head.weight": (5, 2)}):
        both = rules.plan({"emb.weight": (5, 2), "out.weight": (5, 2)}, expected, tied=tied, origin="x")
        assert both.tied == (("out.weight", "emb.weight"),)
        assert [move.target for move in both.items] == ["embed.weight"]
    found = problems_of(
        lambda: rules.plan(
            {"emb.weight": (5, 2), "out.weight": (6, 2)}, {"embed.weight": (5, 2)}, tied=tied, origin="x"
        )
    )
    assert found["wrong shape"][0][0] == "out.weight"


FUSED = Table({"qkv": ("q", "k", "v"), "l.{i}.kv": ("b.{i}.k", "b.{i}.v")}, name="fused")


def test_fused_tensor_serves_its_parts_in_order() -> None:
    expected = {"q.weight": (2, 3), "k.weight": (2, 3), "v.weight": (2, 3)}
    plan = FUSED.plan({"qkv.weight": (6, 3)}, expected, origin="x")
    stacked = np.arange(18).reshape(6, 3)
    parts = {move.target: move.take(stacked) for move in plan.items}
    assert np.array_equal(np.concatenate([parts[name] for name in expected]), stacked)
    assert np.shares_memory(parts["k.weight"], stacked)
    (pack,) = FUSED.pack(expected)
    assert (pack.source, pack.targets) == ("qkv.weight", ("q.weight", "k.weight", "v.weight"))


def test_fused_tensor_of_wrong_size_is_one_problem() -> None:
    expected = {"q.weight": (2, 3), "k.weight": (2, 3), "v.weight": (2, 3)}
    found = problems_of(lambda: FUSED.plan({"qkv.weight": (7, 3)}, expected, origin="x"))
    assert found == {
        "wrong shape": [("qkv.weight", "the file has (7, 3), the configured model expects (6, 3)")]
    }


def test_packing_with_a_part_missing_names_it() -> None:
    found = problems_of(lambda: FUSED.pack(["b.1.k.bias"]))
    assert found == {"missing parts": [("b.1.v.bias", "l.1.kv.bias needs it beside b.1.k.bias")]}


def test_inverting_a_name_without_rule_is_an_error() -> None:
    with pytest.raises(KeyMapError, match=r"no rule for our tensors(.|\n)*nomr.weight.*norm.weight"):
        table().invert(["norm.weight", "nomr.weight"])


@pytest.mark.parametrize(
    ("rules", "ignored", "message"),
    [
        ({"a": "x", "b": "x"}, {}, "'a' and 'b' both lead to 'x'"),
        ({"a.{i}": "x"}, {}, r"must have \{i\} once on both sides"),
        ({"a.{i}.{i}": "x.{i}.{i}"}, {}, r"must have \{i\} once on both sides"),
        ({"a": "x"}, {"a": "reason"}, "both renamed and ignored"),
    ],
)
def test_faulty_tables_are_refused(rules, ignored, message) -> None:
    with pytest.raises(ValueError, match=message):
        Table(rules, ignored=ignored)


word = st.text("abcxyz_", min_size=1, max_size=4)
stem = st.lists(word, min_size=1, max_size=3).map(".".join)


@st.composite
def tables_and_names(draw):
    """A random valid table, and names of ours that it covers."""
    sources = draw(st.lists(stem, min_size=1, max_size=6, unique=True))
    targets = draw(st.lists(stem, min_size=len(sources), max_size=len(sources), unique=True))
    numbered = draw(st.lists(st.booleans(), min_size=len(sources), max_size=len(sources)))
    fused = draw(st.lists(st.integers(1, 3), min_size=len(sources), max_size=len(sources)))
    rules, names = {}, []
    for source, target, number, parts in zip(sources, targets, numbered, fused, strict=True):
        ending = ".{i}.end" if number else ".all"
        ours = tuple(f"{target}{ending}.part{part}" for part in range(parts))
        rules[source + ending] = ours
        leaf = draw(st.sampled_from(["", ".weight", ".bias"]))
        block = str(draw(st.integers(0, 30)))
        names.extend(one.replace("{i}", block) + leaf for one in ours)
    return Table(rules), names


@given(tables_and_names())
@settings(max_examples=150, deadline=None)
def test_ours_to_source_to_ours_is_the_identity(case) -> None:
    rules, names = case
    shapes = dict.fromkeys(names, (2, 3))
    packs = rules.pack(names)
    source = {pack.source: (2 * len(pack.targets), 3) for pack in packs}
    plan = rules.plan(source, shapes, origin="x")
    assert sorted(move.target for move in plan.items) == sorted(names)
    back = rules.invert(names)
    assert all(back[move.target] == move.source for move in plan.items)
    forward = rules.forward(source)
    assert [forward[pack.source] for pack in packs] == [pack.targets for pack in packs]


@given(tables_and_names(), st.data())
@settings(max_examples=100, deadline=None)
def test_every_dropped_and_every_added_name_is_reported(case, data) -> None:
    rules, names = case
    source = {pack.source: (2 * len(pack.targets), 3) for pack in rules.pack(names)}
    dropped = data.draw(st.sets(st.sampled_from(sorted(source)), max_size=3))
    added = {name + ".UNKNOWN" for name in data.draw(st.sets(st.sampled_from(sorted(source)), max_size=3))}
    given_keys = {name: shape for name, shape in source.items() if name not in dropped}
    given_keys.update(dict.fromkeys(added, (1,)))
    if not dropped and not added:
        return
    found = problems_of(lambda: rules.plan(given_keys, dict.fromkeys(names, (2, 3)), origin="x"))
    assert {name for name, _ in found.get("missing", [])} == dropped
    assert {name for name, _ in found.get("unknown", [])} == added
