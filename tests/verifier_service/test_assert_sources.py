"""Assert tests that cannot judge anybody are refused before anything runs."""

import pytest

from verifier_service.assert_sources import refusal


@pytest.mark.parametrize(
    "source",
    [
        "assert add(1, 2) == 3",
        "def check(candidate):\n    assert candidate(1) == 2\ncheck(add)",
        "def check(add):\n    assert add(1) == 2\ncheck(add)",
        "import math\nassert math.isclose(half(1), 0.5)",
        "import numpy as np\nassert np.allclose(half(1), 0.5)",
        "for n in range(3):\n    assert square(n) == n * n",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        add(1, 2)\nunittest.main()",
        "class Mine(Exception): ...\nclass Other(Mine): ...\nassert add(1, 2) == 3",
    ],
)
def test_fit(source: str) -> None:
    assert refusal(source, None) is None


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("assert add(1, 2 == 3", "not Python"),
        ("(" * 5000, "not Python"),
        ("assert 1 + 1 == 2", "nothing of the program"),
        ("assert sum([1, 2]) == 3", "nothing of the program"),
        ("x = 1\nassert x == 1", "nothing of the program"),
        ("def check(candidate):\n    assert candidate(1) == add(2)", "runs no check"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(add(1), 3)",
            "runs no check",
        ),
        ("class Sub(Base):\n    pass\nassert Sub().f() == 1", "derives"),
        ("from solution import add\nassert add(1, 2) == 3 and f()", "imports"),
        ("import pytest\nassert add(1, 2) == 3", "imports"),
    ],
)
def test_unfit(source: str, word: str) -> None:
    assert word in (refusal(source, None) or "")


def test_a_built_in_name_is_the_programs_where_it_is_the_entry_point() -> None:
    assert refusal("assert sum([1, 2]) == 3", "sum") is None
