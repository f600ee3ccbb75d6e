"""What is under way, and how groups come together."""

from tests.trainer.builders import rollout
from tests.trainer.vllm_models import request
from trainer.engine.flight import Flight


def test_groups_come_back_whole_in_the_order_of_their_samples() -> None:
    flight = Flight([request(0, [5], 2), request(1, [5], 2)], max_rows=8)
    a, b, c, d = flight.take()
    assert [flight.land(ticket, rollout(None, num_tokens=n)) for ticket, n in ((b, 2), (c, 3))] == [None, None]
    first, second = flight.land(a, rollout(None, num_tokens=1)), flight.land(d, rollout(None, num_tokens=4))
    assert first is not None
    assert second is not None
    assert [len(r.token_ids) for group in (first, second) for r in group.rollouts] == [1, 2, 3, 4]


def test_requests_are_taken_as_there_is_room_and_asked_for_again_after_none() -> None:
    flight = Flight(iter([request(0, [5], 4), None, request(1, [5], 4), request(2, [5], 4)]), max_rows=8)
    first = list(flight.take())
    assert {ticket.request.index for ticket in first} == {0}
    assert {ticket.request.index for ticket in flight.take()} == {1}
    for ticket in first:
        assert list(flight.take()) == [], "room for a part is no room"
        flight.land(ticket, rollout(None))
    assert {ticket.request.index for ticket in flight.take()} == {2}


def test_a_group_larger_than_the_room_is_taken_alone() -> None:
    flight = Flight([request(0, [5], 4), request(1, [5], 4)], max_rows=2)
    assert {ticket.request.index for ticket in flight.take()} == {0}
