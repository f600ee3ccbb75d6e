"""Our own parser: what it reads, how it groups, and what it refuses."""

import time
from fractions import Fraction

import pytest

from verifier_service.mathematics.notation import canonical
from verifier_service.mathematics.syntax import Node, read
from verifier_service.mathematics.tokens import TooComplex, Unreadable
from verifier_service.mathematics.value import exact


def num(value: int) -> Node:
    return Node("num", value=Fraction(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("(1+2)*3", 9),
        (r"\frac12", Fraction(1, 2)),
        (r"\frac{1}{2}+\frac{1}{3}", Fraction(5, 6)),
        ("2(3)", 6),
        ("10^2", 100),
        ("2^{-1}", Fraction(1, 2)),
        ("1/2/2", Fraction(1, 4)),
        ("50%", Fraction(1, 2)),
        ("[2+3]*2", 10),
    ],
)
def test_arithmetic(text: str, value: Fraction | int) -> None:
    assert exact(read(text)) == value


def test_brackets_keep_their_kind() -> None:
    assert read("(1, 2]") == Node("group", (num(1), num(2)), "(]")
    assert read(r"\{1, 2\}") == Node("group", (num(1), num(2)), r"\{\}")
    assert read("1, 2") == Node("list", (num(1), num(2)), ",")
    assert read(r"1 \text{ or } 2") == Node("list", (num(1), num(2)), "or")


def test_relations_chain() -> None:
    node = read(r"1<x\le 2")
    assert (node.op, node.value, len(node.args)) == ("rel", "<,<=", 3)


def test_matrix_rows() -> None:
    node = read(canonical(r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"))
    assert node == Node("matrix", (Node("row", (num(1), num(2))), Node("row", (num(3), num(4)))))


def test_subscripts_name_one_symbol() -> None:
    assert read("v_0") == read("v0") == Node("sym", value="v_0")


@pytest.mark.parametrize(
    "text",
    ["", r"\frac", r"\frac{1}", "(1", "1)", "4 4/9", "x = ", r"\unknown{2}", "__import__('os')", "f.g", "1 2",
     r"\text{or else}", r"\begin{tikzpicture}", r"\begin{pmatrix}1\end{pmat", r"\begin{pm", "x_", "x_{", "\x00",
     r"\int_0^1 x\,dx"],
)  # fmt: skip
def test_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(canonical(text))


@pytest.mark.parametrize(
    "text",
    ["(" * 200 + "1" + ")" * 200, "1+" * 5000 + "1", "\\sqrt{" * 100 + "2" + "}" * 100, "sin" * 1300 + "x"],
)
def test_too_complex_is_refused_quickly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(TooComplex):
        read(text)
    assert time.process_time() - started < 0.5
