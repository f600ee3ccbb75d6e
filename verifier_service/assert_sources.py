"""What can be told of an assert test by reading it: whether it can judge a program that lives in another process.

Nothing is executed. `refusal` is one line for the task's author, None where the test is fit.
"""

import ast
import builtins
import sys

from sandbox.profiles import CONTEST_PACKAGES

_IMPORTABLE = sys.stdlib_module_names | frozenset(CONTEST_PACKAGES)
_DEFINES_ONLY = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)


def refusal(source: str, entry_point: str | None) -> str | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is not Python: {error}"
    bound = _bound(tree)
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    wanted = loaded - bound
    if not any(name == entry_point or not hasattr(builtins, name) for name in wanted):
        return "uses nothing of the program"
    if not any(_acts(statement) for statement in tree.body):
        return "only defines things and runs no check"
    return _unreachable(tree, wanted)


def _bound(tree: ast.Module) -> set[str]:
    """Names the test binds itself, anywhere."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return bound


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement of the module can fail; a docstring or an assignment of a constant cannot."""
    if isinstance(statement, _DEFINES_ONLY):
        return False
    return any(isinstance(node, (ast.Assert, ast.Call, ast.Raise)) for node in ast.walk(statement))


def _unreachable(tree: ast.Module, wanted: set[str]) -> str | None:
    """What a test needs that a proxy cannot be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id in wanted and not hasattr(builtins, base.id):
                    return f"derives a class from the program's {base.id!r}, which lives in another process"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            for module in modules:
                if module.partition(".")[0] not in _IMPORTABLE:
                    return f"imports {module!r}, which the sandbox does not have"
    return None
