"""What reaches a scorer that evaluates: values and arithmetic pass, everything that could do something does not."""

import pytest

from verifier_service.answer_guard import LITERAL, SYMBOLIC, refusal

HOSTILE = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "[x for x in open('/etc/passwd')]",
    "open('/etc/passwd').read()",
    "(lambda: 1)()",
    "exec('1')",
    "print(1)",
    "breakpoint()",
    "f'{1}'.__class__",
    " \t__import__('os')",
    "[1 for _ in (1,)]",
    "(yield)",
    "x[0]",
]
HANDED_ON = ["sum([], breakpoint)()", "Max(eval, 1)(x)", "Piecewise((globals, True))()", "(eval or 1)(x)", "[print]"]


@pytest.mark.parametrize("answer", HANDED_ON)
def test_built_in_functions_are_not_even_named(answer: str) -> None:
    assert refusal("countdown", answer) == "code_in_answer"


@pytest.mark.parametrize("answer", HOSTILE)
def test_code_does_not_reach_eval(answer: str) -> None:
    assert refusal("spiral_matrix", answer) == "code_in_answer"


PARSED = [answer for answer in HOSTILE if " for " not in answer]  # `parse_expr` cannot read those


@pytest.mark.parametrize("answer", [*PARSED, "exp('1')", "Symbol('x').name", "sympify('1')", "S('1')", "lambda x: x"])
def test_code_does_not_reach_parse_expr(answer: str) -> None:
    assert refusal("countdown", answer) == "code_in_answer"


@pytest.mark.parametrize(
    "answer", ["[[1, 2], [3, -4]]", "['a', 'b']", "1 2\n3 4", "ABC", "_ Q\nQ _", "", "not it", "(" * 500]
)
@pytest.mark.parametrize("dataset", sorted(LITERAL))
def test_values_and_plain_text_reach_eval(dataset: str, answer: str) -> None:
    assert refusal(dataset, answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "(3 + 4)*5",
        "x**3/3 + C",
        "5!",
        "exp(x)*sin(2*x)",
        "log(x) - Abs(x)",
        "f(x)",
        "3 × 4 = 12",
        "It is 7.",
        "0.1[3]",
        "(3 + 4)(5)",
        "2(3)",
        "5 and 6",
    ],
)
@pytest.mark.parametrize("dataset", sorted(SYMBOLIC))
def test_expressions_and_plain_text_reach_parse_expr(dataset: str, answer: str) -> None:
    assert refusal(dataset, answer) is None


def test_an_endless_expression_is_refused_unread() -> None:
    assert refusal("countdown", "1+" * 5000 + "1") == "answer_too_long"


def test_other_scorers_evaluate_nothing_and_see_everything() -> None:
    assert refusal("codeio", "__import__('os')") is None
