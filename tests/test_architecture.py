"""The arrows of the architecture, proved from the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("sandbox", "verifier_service", "trainer")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def starts_with(module: str, *prefixes: str) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def test_sandbox_imports_nothing_of_ours() -> None:
    for path in modules("sandbox"):
        assert not [m for m in imports_of(path) if starts_with(m, "verifier_service", "trainer")], path


def test_service_knows_no_trainer_and_no_torch() -> None:
    for path in modules("verifier_service"):
        assert not [m for m in imports_of(path) if starts_with(m, "trainer", "torch", "transformers")], path


def test_trainer_reaches_the_service_only_through_client_and_schemas() -> None:
    allowed = ("verifier_service.client", "verifier_service.schemas")
    for path in modules("trainer"):
        named = {m for m in imports_of(path) if starts_with(m, "verifier_service", "sandbox")} - {"verifier_service"}
        assert not [m for m in named if not starts_with(m, *allowed)], path
        assert not [m for m in imports_of(path) if starts_with(m, "sympy", "redis", "rq")], path


@pytest.mark.parametrize("module", ["verifier_service.client", "verifier_service.schemas"])
def test_client_and_schemas_import_alone(module: str) -> None:
    heavy = ("fastapi", "redis", "rq", "sympy", "torch", "math_verify", "reasoning_gym")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_is_a_bag() -> None:
    bags = {"utils.py", "misc.py", "common.py", "helpers.py", "util.py"}
    assert not [path for package in PACKAGES for path in modules(package) if path.name in bags]
