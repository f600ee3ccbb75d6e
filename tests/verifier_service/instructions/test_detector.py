"""The fast reading of langdetect gives its n-grams and its answers, in any thread."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from langdetect.detector import Detector

from verifier_service.instructions import detector

TEXTS = [
    "It was a bright cold day in April, and the clocks were striking thirteen.",
    "Es war einmal ein König, der hatte drei Töchter und KEINEN Sohn.",
    "Longtemps, je me suis couché de bonne heure; l’été, surtout.",
    "Все счастливые семьи похожи друг на друга.",
    "यह एक सामान्य वाक्य है with some English in it।",
    "これは日本語の文章です。漢字とカナ。",
    "안녕하세요, 오늘은 날씨가 좋네요.",
    "مرحبا بك في المدينة القديمة",
    "Tiếng Việt có dấu: ố, ớ, ệ và ươ.",
    "see https://example.org/a?b=c or write to someone@example.org   now",
    "ALL CAPITALS AND Mixed CaSe",
    " leading and  double  spaces ",
]


@pytest.mark.parametrize("text", [*TEXTS, " ".join(TEXTS), "x" * 20_000])
def test_n_grams_are_the_librarys(text: str) -> None:
    factory = detector._loaded()
    theirs, ours = Detector(factory), detector._Detector(factory)
    for one in (theirs, ours):
        one.append(text)
        one.cleaning_text()
    assert ours._extract_ngrams() == theirs._extract_ngrams()


@pytest.mark.parametrize("text", TEXTS)
def test_answers_are_the_librarys(text: str) -> None:
    theirs = Detector(detector._loaded())
    theirs.append(text)
    assert detector.detected.__wrapped__(text) == theirs.detect()


def test_nothing_is_detected_where_nothing_can_be() -> None:
    assert detector.detected("12345, 678!") is None


def test_threads_agree() -> None:
    alone = [detector.detected.__wrapped__(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detected.__wrapped__, TEXTS * 5)) == alone * 5
