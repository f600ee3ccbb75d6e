"""Whose the names of an assert test are: the program's, or the test's own."""

import ast
import builtins
import math
import sys
from importlib import import_module
from types import BuiltinFunctionType, FunctionType
from typing import Any

from sandbox import calls

# Without `exit`, `quit` and the like, which are for the interactive prompt.
BUILT_INS = frozenset(name for name, value in vars(builtins).items() if type(value).__module__ != "_sitebuiltins")


def names_used(tree: ast.Module, entry_point: str) -> list[str]:
    """The names that may have to come from the program. Never a built-in, unless it is the entry point's name."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(name for name in used if name == entry_point or name not in BUILT_INS)


def own_names(tree: ast.Module, entry_point: str) -> dict[str, Any]:
    """Names that many tests use without importing them, and that the program must not choose: they would judge it.

    Modules of which the test uses what they really have; `isclose`; and, where the task says by its entry point what is
    tested, the standard library's classes and constants (`Counter`, `List`, `inf`).
    """
    attributes: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes.setdefault(node.value.id, set()).add(node.attr)
    own: dict[str, Any] = {}
    for name in names_used(tree, entry_point):
        if name == entry_point:
            continue
        module = import_module(name) if name in attributes and name in sys.stdlib_module_names else None
        known = calls.ambient().get(name)
        if module and all(hasattr(module, attribute) for attribute in attributes[name]):
            own[name] = module
        elif name == "isclose":
            own[name] = math.isclose
        elif entry_point and known is not None and not isinstance(known, (FunctionType, BuiltinFunctionType)):
            own[name] = known
    return own
