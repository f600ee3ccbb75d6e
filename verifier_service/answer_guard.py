"""What may reach a scorer that evaluates answer text: plain values and arithmetic. Code earns nothing, unrun.

Nine scorers of Reasoning Gym call `eval` or SymPy's `parse_expr` (which is `eval`) on the answer. They run in the
sandbox only; this is the door in front of them. It reads the syntax tree that would be evaluated and lets pass what
holds nothing but literals (`LITERAL`) or operators, symbols and mathematical functions (`SYMBOLIC`). Text that is no
Python at all passes too: the scorer cannot evaluate it either, and pays what it pays for nonsense.
"""

import ast
import builtins
import types
import warnings
from functools import cache
from typing import Any

import sympy
from sympy.parsing.sympy_parser import standard_transformations, stringify_expr

LITERAL = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
SYMBOLIC = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
EVALUATING = LITERAL | SYMBOLIC

LONGEST_EXPRESSION = 4000
"""Characters of an expression; the longest right answer of the five data sets is under 500."""

ELEMENTARY = frozenset(
    "sin cos tan cot sec csc asin acos atan acot asec acsc atan2 sinh cosh tanh coth sech csch asinh acosh atanh acoth "
    "exp log ln sqrt cbrt root Abs abs sign floor ceiling factorial factorial2 gamma erf erfc erfi Ei Si Ci li Shi Chi "
    "expint fresnels fresnelc sinc LambertW polylog zeta Heaviside Piecewise re im arg conjugate binomial Mod gcd lcm "
    "Add Mul Pow Max Min max min round pow".split()
)
RESTATING = frozenset(
    "Integral integrate Derivative diff Sum summation Product product Poly "
    "expand simplify factor collect together apart cancel".split()
)
"""They let an answer ask the question back; the library pays for it, `reward_mode: strict` does not."""

_WRAPPERS = frozenset({"Symbol", "Function", "Integer", "Float", "Rational"})
"""What SymPy's own transformations wrap names and numbers in; only these take a string."""

_PLAIN_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.unaryop, ast.List, ast.Tuple, ast.Set, ast.Dict
)  # fmt: skip
_ARITHMETIC_NODES = (
    *_PLAIN_NODES, ast.BinOp, ast.operator, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.IfExp
)  # fmt: skip

_UNNAMED = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Constant)


def refusal(dataset: str, answer: str) -> str | None:
    """Why `answer` must not reach the scorer of `dataset`; None where it may."""
    if dataset in LITERAL:
        return None if _is_plain(answer) else "code_in_answer"
    if dataset in SYMBOLIC:
        if len(answer) > LONGEST_EXPRESSION:
            return "answer_too_long"
        return None if _is_arithmetic(answer) else "code_in_answer"
    return None


def _is_plain(answer: str) -> bool:
    tree = _parsed(answer.lstrip())
    return tree is None or all(isinstance(node, _PLAIN_NODES) for node in ast.walk(tree))


def _is_arithmetic(answer: str) -> bool:
    try:
        code = stringify_expr(answer, {}, _namespace(), standard_transformations)
    except Exception:  # any complaint of the tokenizer is one that `parse_expr` makes too
        return True
    tree = _parsed(code.strip())
    return tree is None or _only_arithmetic(tree)


def _parsed(source: str) -> ast.Expression | None:
    """The tree that `eval` would run; None where there is none, because `eval` would refuse the text as well."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _only_arithmetic(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if not _may_be_called(node):
                return False
        elif isinstance(node, ast.Name):
            # A built-in function must not even be named: it could be handed on and called under another name.
            if node.id not in ELEMENTARY and isinstance(_namespace().get(node.id), types.BuiltinFunctionType):
                return False
        elif not isinstance(node, _ARITHMETIC_NODES):
            return False
    return True


def _may_be_called(call: ast.Call) -> bool:
    """Names by the lists above; anything that arithmetic or an undefined function gives, because no such thing can be
    called ("2(3 + 4)" raises) or it does nothing (SymPy reads f(x) as Function('f')(x))."""
    if call.keywords:
        return False
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if not (name in _WRAPPERS | ELEMENTARY | RESTATING or isinstance(call.func, _UNNAMED)):
        return False
    return name in _WRAPPERS or not any(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in call.args)


@cache
def _namespace() -> dict[str, Any]:
    """The names that `parse_expr` knows: all of SymPy and the built-in functions. Nothing here is ever called."""
    names: dict[str, Any] = {name: getattr(sympy, name) for name in sympy.__all__}
    names |= {name: value for name, value in vars(builtins).items() if isinstance(value, types.BuiltinFunctionType)}
    return names
