"""Print the dependencies that pyproject.toml names, one a line, so that they get an image layer of their own."""

import argparse
import re
import tomllib
from pathlib import Path


def distribution(requirement: str) -> str:
    """`rq>=2.6,<3` -> `rq`."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def dependencies(pyproject: Path, extras: list[str], only: list[str]) -> list[str]:
    """The project's requirements (those named in `only`, where given) and those of `extras`.

    Raises `ValueError` where `only` names what the project does not depend on.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    own = {distribution(requirement): requirement for requirement in project["dependencies"]}
    if unknown := set(only) - set(own):
        raise ValueError(f"not a dependency: {', '.join(sorted(unknown))}")
    added = [requirement for extra in extras for requirement in project["optional-dependencies"][extra]]
    return [requirement for name, requirement in own.items() if not only or name in only] + added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("--extras", default="", help="comma-separated")
    parser.add_argument("--only", default="", help="comma-separated names of the project's own dependencies")
    arguments = parser.parse_args()
    extras, only = (option.split(",") if option else [] for option in (arguments.extras, arguments.only))
    print("\n".join(dependencies(arguments.pyproject, extras, only)))


if __name__ == "__main__":
    main()
