"""One spelling for what can be spelled in many ways."""

import time

import pytest

from verifier_service.mathematics.notation import canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$\\dfrac{1}{2}$。", r"\frac {1}{2}"),
        ("–5", "-5"),
        ("x²", "x^{2}"),
        ("x⁻¹²", "x^{-12}"),
        ("½", r"\frac{1}{2}"),
        (r"1{,}000", "1,000"),
        (r"11,\! 111", "11,111"),
        (r"\left( 1,\ 2 \right)", "( 1, 2 )"),
        ("（１，２）", "(1,2)"),
        (r"\$5.00", "5.00"),
        (r"0.1\overline{6}", r"\frac{15}{90}"),
        (r"\begin{pmatrix}1 \\ 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
        (r"\left\{\begin{array}{l}x=1 \\ y=2\end{array}\right.", "x=1 , y=2"),
        (r"1+\mathrm{i}", "1+i"),
        ("Ｂ＝５", "B=5"),
        ("SO₄²⁻", "SO_{4}^{2-}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("**5**", "5"),
        (".5", ".5"),
        ("5.", "5"),
        ("", ""),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 10**6,
        "$" * 10**6,
        "\\frac" * 10**5,
        "²" * 10**5,
        "{,}" * 10**5,
        " " * 10**6,
        r"\begin{cases}" * 50_000 + r"\end",
    ],
)
def test_canonical_is_linear(text: str) -> None:
    started = time.process_time()
    canonical(text)
    assert time.process_time() - started < 2.0  # measured: 0.3 s at most
