"""Where a sentence ends: marks, abbreviations, initials, numbers, closing quotes; and linear time."""

import time

import pytest

from verifier_service.instructions.sentences import split


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("No end mark", 1),
        ("Dr. Smith met Mr. Jones in the U.S. Army.", 1),
        ("He works for Acme Inc. The shares fell.", 2),
        ("It costs 3.50 euros. Cheap!", 2),
        ("1. First\n2. Second", 3),
        ("on the 3. of May", 1),
        ("Wait... what?", 1),
        ("Wait... But why?", 2),
        ('He said "No." Then he left.', 2),
        ("(It rained.) We left.", 2),
        ("Really?! Yes.", 2),
        ("", 0),
        ("...", 1),
    ],
)
def test_number_of_sentences(text: str, count: int) -> None:
    assert len(split(text)) == count


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert split('He said "No." Then he left.') == ('He said "No."', "Then he left.")


@pytest.mark.parametrize("piece", ["a. ", "...", "?!", '"', "\n", "a", "e.g.", "- ", "[.] "])
def test_time_grows_with_length_and_no_faster(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        split.__wrapped__(text)
        return time.process_time() - started

    seconds(10_000)
    assert seconds(200_000) < 0.02 + 20 * max(seconds(40_000), 0.002)
