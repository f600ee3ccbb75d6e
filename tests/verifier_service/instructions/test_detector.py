"""The fast reading of langdetect gives its n-grams and its answers, in any thread."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from langdetect.detector import Detector
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

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
    "ớ ệ ố Tag यह",
    "Guten Tag und hello et bonjour y hola",
    "mail@a.b, nobody@, @nobody, " + "x" * 70 + "@long.example.org.",
]


@pytest.fixture(scope="module")
def library() -> DetectorFactory:
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(detector.SEED)
    return factory


@pytest.mark.parametrize("text", [*TEXTS, " ".join(TEXTS), "x" * 20_000])
def test_n_grams_are_the_librarys(text: str, library: DetectorFactory) -> None:
    theirs = Detector(library)
    theirs.append(text)
    theirs.cleaning_text()
    gram_of = {row: gram for gram, row in detector._profiles().rows.items()}
    assert [gram_of[row] for row in detector.n_grams(detector.prepared(text))] == theirs._extract_ngrams()


@pytest.mark.parametrize("text", [*TEXTS, *(" ".join(TEXTS[i:] + TEXTS[:i])[: 90 + i] for i in range(len(TEXTS)))])
def test_answers_are_the_librarys(text: str, library: DetectorFactory) -> None:
    theirs = Detector(library)
    theirs.append(text)
    assert detector.detected.__wrapped__(text) == theirs.detect()


def test_nothing_is_detected_where_nothing_can_be() -> None:
    assert detector.detected("12345, 678!") is None


def test_threads_agree() -> None:
    alone = [detector.detected.__wrapped__(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detected.__wrapped__, TEXTS * 5)) == alone * 5
