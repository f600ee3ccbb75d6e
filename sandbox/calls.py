"""The inside of a call test: define the program, call its entry point once, hand the result out as plain typed JSON.

The program shares this interpreter, so it can read the arguments and the nonce and can forge any result. That is no
more than it may do by computing: the expected value is never here, and each test has an interpreter of its own.
"""

import builtins
import gc
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from sandbox import child, plain
from sandbox.frames import write_all

# What LeetCode's own judge has imported before a solution runs; solutions copied from there rely on it.
AMBIENT_MODULES = ("typing", "collections", "itertools", "functools", "heapq", "bisect", "math", "string", "operator")
PROGRAM_MODULE = "program"
PAYLOAD, RESULT = 4, 5


class NoEntryPoint(LookupError):
    """The program defines no such function."""


def define(source: bytes, *, with_ambient: bool) -> dict[str, Any]:
    """Run `source` as a module and return its namespace. Not as `__main__`: demonstrations are not wanted."""
    module = ModuleType(PROGRAM_MODULE)
    sys.modules[PROGRAM_MODULE] = module  # dataclasses and pickle look a class's module up
    if with_ambient:
        # As built-ins, so that a name counts as defined by the program only where the program did define it.
        module.__dict__["__builtins__"] = {**ambient(), **vars(builtins)}
    exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - that is the purpose
    return module.__dict__


@cache
def ambient() -> dict[str, Any]:
    modules = [import_module(name) for name in AMBIENT_MODULES]
    names = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return {**names, **{module.__name__: module for module in modules}}


def entry_point(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    """The function `name`, or the method of that name of a new `Solution`. Raises `NoEntryPoint`."""
    name = name.rpartition(".")[2]
    if callable(namespace.get(name)):
        return namespace[name]  # type: ignore[no-any-return]
    if isinstance(namespace.get("Solution"), type) and hasattr(namespace["Solution"], name):
        return getattr(namespace["Solution"](), name)  # type: ignore[no-any-return]
    raise NoEntryPoint(name)


def run() -> None:
    """Driver: call `entry_point` with `args`, both from the payload; write `nonce + JSON + nonce` and be gone.

    The JSON is `{"result": ...}`, `{"not_plain": type name}` or `{"raised": exception's name}`. Without the closing
    nonce there is no result. Never returns: what the program left running ends here.
    """
    source, request = child.read_all(3), json.loads(child.read_all(PAYLOAD))
    try:
        function = entry_point(define(source, with_ambient=True), request["entry_point"])
        result = function(*request["args"])
        gc.disable()  # what is made from here on is kept until the end, so looking for rubbish in it is half the price
        outcome = {"result": plain.encode(result)}
    except plain.NotPlain as error:
        outcome = {"not_plain": str(error)}
    except BaseException as error:  # whatever the program raises, an exit included, is its answer
        outcome = {"raised": type(error).__name__}
    write_all(RESULT, f"{request['nonce']}{json.dumps(outcome)}{request['nonce']}".encode())
    os._exit(0)
