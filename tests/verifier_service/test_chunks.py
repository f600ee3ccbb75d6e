"""How a batch is cut and how its parts travel: pure functions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier_service.batch import Batch, Layout, Slot
from verifier_service.chunks import (
    Costs,
    Header,
    Piece,
    ResultHeader,
    cut,
    decode_body,
    decode_result,
    encode_body,
    encode_result,
    flatten,
    join_chunk,
    regroup,
    split_chunk,
    take,
)
from verifier_service.schemas import Item

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def items(*counts: int, kind: str = "x") -> list[Item]:
    return [Item(task={"kind": kind}, completions=["c"] * count) for count in counts]


def sizes(counts: list[int], lanes: list[str], target_s: float = 0.04, most: int = 256) -> list[tuple[str, int]]:
    chunks = cut("job", items(*counts), lanes, Costs(), target_s, most)
    return [(chunk.lane, len(chunk.positions)) for chunk in chunks]


def test_chunks_hold_about_the_target() -> None:
    # 5 ms is the first guess of a light kind, so 40 ms are 8 completions.
    assert sizes([20], ["light"]) == [("light", 8), ("light", 8), ("light", 4)]


def test_small_items_share_a_chunk() -> None:
    assert sizes([2, 2, 2], ["light"] * 3) == [("light", 6)]


def test_lanes_are_never_mixed() -> None:
    # 100 ms is the first guess of code, more than the target: one completion a chunk.
    assert sizes([2, 2, 2], ["light", "code", "light"]) == [("code", 1), ("code", 1), ("light", 4)]


def test_cheap_kinds_are_bounded_by_count() -> None:
    assert sizes([25], ["light"], target_s=100.0, most=10) == [("light", 10), ("light", 10), ("light", 5)]


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["light", "code"])), min_size=1, max_size=20))
def test_every_position_is_in_exactly_one_chunk(shape: list[tuple[int, str]]) -> None:
    counts, lanes = [count for count, _lane in shape], [lane for _count, lane in shape]
    chunks = cut("job", items(*counts), lanes, Costs(), 0.04, 16)
    positions = [position for chunk in chunks for position in chunk.positions]
    assert sorted(positions) == list(range(sum(counts)))
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks)
    lane_at = [lane for count, lane in shape for _ in range(count)]
    assert all(lane_at[position] == chunk.lane for chunk in chunks for position in chunk.positions)


def test_costs_follow_what_is_reported() -> None:
    costs = Costs()
    assert costs.of("x", "light") == 0.005
    costs.learn("x", 10, 1.0)
    assert math.isclose(costs.of("x", "light"), 0.1)
    costs.learn("x", 1, 1.1)
    assert math.isclose(costs.of("x", "light"), 0.95 * 0.1 + 0.05 * 1.1)
    costs.learn("x", 0, 0.0)
    assert math.isclose(costs.of("x", "light"), 0.15)


def test_a_task_arrives_as_it_was_sent() -> None:
    """Integers beyond 64 bits, floats beyond the largest, null characters: the code kind compares with them."""
    task = {"kind": "x", "big": 10**30, "inf": math.inf, "nul": "\0", "float": 0.1, "deep": [[[{}]]]}
    header = Header("job", "api", [3], 600, 2.5, alone=True, share=False, request_id="r\n1")
    found, body = split_chunk(join_chunk(header, encode_body([Piece(task, ["a\nb", "\u2028"])])))
    assert found == header
    assert decode_body(body) == [Piece(task, ["a\nb", "\u2028"])]


@given(st.lists(TEXT, min_size=1), TEXT)
def test_results_arrive_line_by_line(reasons: list[str], kind: str) -> None:
    header = ResultHeader("c", "j", list(range(len(reasons))), {kind: 1}, {kind: (1, 0.5)}, 0.1, 0.2, 3)
    verdicts = [Piece({"r": reason}, []) for reason in reasons]
    encoded = [encode_body([piece]) for piece in verdicts]
    assert decode_result(encode_result(header, encoded)) == (header, encoded)


@pytest.mark.parametrize(
    "message",
    [b"", b"{}\nx", b"no JSON", encode_result(ResultHeader("c", "j", [0, 1]), [b"{}"]), b'{"positions":1}'],
)
def test_a_result_that_cannot_be_read_is_none(message: bytes) -> None:
    assert decode_result(message) is None


def test_verdicts_for_completions_that_a_batch_has_not_are_passed_over() -> None:
    batch = Batch("j", Layout("", [Slot(None, 0, 1, "echo", "1")], [], 0.0), None)
    batch.fill([7, -1], [b"{}", b"{}"])
    assert (batch.verdicts, batch.missing) == ([None], 1)


def test_single_completions_come_back_together() -> None:
    first, second = {"kind": "a"}, {"kind": "b"}
    pieces = [Piece(first, ["1", "2"]), Piece(second, ["3"])]
    assert regroup(flatten(pieces)) == pieces
    assert take(flatten(pieces), [0, 2]) == [Piece(first, ["1"]), Piece(second, ["3"])]
