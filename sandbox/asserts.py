"""The inside of an assert test: the program in one isolated process, the test's source in another.

The program never holds the test's source or its values beyond the arguments it is called with; the test compares plain
values in its own process, so nothing that the program patches, prints or exits with can claim a pass.
"""

import ast
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from sandbox import calls, child
from sandbox.assert_names import names_used, own_names
from sandbox.peers import Peer
from sandbox.proxies import Proxy, ProxyClass, is_proxy

PROGRAM_CHANNEL = 4
TEST_PAYLOAD, TEST_RESULT, TEST_CHANNEL = 4, 5, 6

# Methods of plain types that only say yes or no. On an object that merely behaves like one they prove nothing.
_PREDICATES = frozenset(
    name
    for kind in (str, set, float, bytes)
    for name in dir(kind)
    if name.startswith("is") or name in ("startswith", "endswith")
)
# And those that tell how a value which the test knows is to be found there.
_SEARCHES = frozenset(("count", "index", "find", "rindex", "rfind"))
_SEARCHES |= {"union", "intersection", "difference", "symmetric_difference", "equals"}

_IDENTITY, _KIND = "is", "class"
"""Names that no test can use."""

_SCALING = frozenset(
    prefix + name for prefix in ("", "r", "i") for name in ("add", "mul", "truediv", "floordiv", "pow", "matmul")
)
# What a test does to change something. Until then an answer holds what it was found to hold.
_ACTS = frozenset(("call", "set", "delete", "setitem", "delitem", "enter", "exit", "await"))
IMPORTABLE = sys.stdlib_module_names | {"numpy"}


class ProgramSide(Peer):
    """In the program's process: its names on offer, what it prints handed over, what it reads asked for."""

    def __init__(self, channel: int) -> None:
        super().__init__(channel)
        self._output = io.StringIO()
        sys.stdout = self._output
        sys.stdin = _AskedFor(self)

    def kind_of(self, value: Any) -> int | None:
        return self._handle(type(value))

    def printed(self) -> str:
        text = self._output.getvalue()
        self._output.seek(0)
        self._output.truncate()
        return text


class _AskedFor(io.StringIO):
    """Standard input, read from wherever the test reads its own."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer

    def readline(self, _size: int | None = -1, /) -> str:  # type: ignore[override]
        return str(self._peer.ask("read_line", None))

    def read(self, _size: int | None = -1, /) -> str:
        return "".join(iter(self.readline, ""))

    def __next__(self) -> str:  # type: ignore[override]
        if line := self.readline():
            return line
        raise StopIteration


def run_program() -> None:
    """Driver of the program's process: define it, then offer its names until the test hangs up."""
    peer = ProgramSide(PROGRAM_CHANNEL)
    peer.verbs["names"] = _names
    peer.serve()


def _names(_nothing: None, wanted: list[str]) -> dict[str, tuple[str, Any]]:
    namespace = calls.define(child.read_all(3), with_ambient=False)
    return {name: _offer(namespace[name]) for name in wanted if name in namespace}


def _offer(value: Any) -> tuple[str, Any]:
    return ("module", value.__name__) if isinstance(value, ModuleType) else ("value", value)


class TestSide(Peer):
    """In the test's process: lets the program do nothing to the test's objects but what a parameter is for."""

    def __init__(self, channel: int, *, expects_stop: bool) -> None:
        """`expects_stop`: the test knows `StopIteration` by name."""
        super().__init__(channel)
        self._named: set[int] = set()
        self._built: dict[int, Proxy] = {}
        self._held: dict[int, tuple[int | None, list[Any] | None]] = {}
        self._expects_stop = expects_stop
        self.exits: list[BaseException] = []
        self.verbs["read_line"] = _read_line

    def names(self, wanted: list[str]) -> dict[str, Any]:
        """What the program defines of the names that the test uses, and nothing else; modules are the test's own."""
        provided, found = self.ask("names", None, wanted), {}
        for name in wanted:
            what, value = provided.get(name, ("nothing", None))
            if what == "value":
                found[name] = value
                # A class, by its name and by what it is: a function's name gives no leave to return an object. Nor does
                # `Solution`, which holds functions: its instance in place of a result would contain whatever is asked.
                if type(value) is ProxyClass and name[:1].isupper() and name != "Solution":
                    self._named.add(value._handle)
            elif what == "module" and value in IMPORTABLE:
                found[name] = import_module(value)
        return found

    def get(self, proxy: Proxy, name: str) -> Any:
        if (name in _PREDICATES and not self.built(proxy)) or (name in _SEARCHES and not self.knows(proxy)):
            raise AttributeError(name)
        value = super().get(proxy, name)
        if type(value) is ProxyClass and type(proxy) is ProxyClass and proxy._handle in self._named:
            self._named.add(value._handle)
        return value

    def ask(self, verb: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        if verb in _ACTS:
            self._held.clear()
        if verb in ("len", "iter") and not self.built(target):
            return self._find_out(verb, target)
        try:
            return super().ask(verb, target, *args, **kwargs)
        except StopIteration as stop:
            if verb == "next" or self._expects_stop:
                raise
            # It would end whatever loop of the test it comes up in, before the first comparison (as PEP 479).
            raise RuntimeError("the program raised StopIteration") from stop

    def _find_out(self, verb: str, proxy: Proxy) -> Any:
        """The length of an answer, or what it holds, both from one look: else it could have the length that is asked
        for and be empty when its items are compared."""
        if proxy._handle not in self._held:
            size = items = None
            with contextlib.suppress(TypeError):  # without length, or with one but no items
                size = super().ask("len", proxy)
                items = list(islice(super().ask("iter", proxy), size + 1))
            true = items is None or len(items) == size
            self._held[proxy._handle] = (size, items) if true else (None, None)
        size, items = self._held[proxy._handle]
        if verb == "len" and size is not None:
            return size
        if verb == "iter" and items is not None:
            return iter(items)
        if verb == "iter" and size is None:
            return super().ask(verb, proxy)
        raise TypeError(f"has no {verb}")

    def knows(self, proxy: Proxy) -> bool:
        return proxy._kind in self._named

    def built(self, proxy: Proxy) -> bool:
        return self._built.get(proxy._handle) is proxy

    def call(self, proxy: Proxy, /, *args: Any, **kwargs: Any) -> Any:
        """An instance that the test builds has a stand-in apart from the one it has as somebody's answer, because a
        method may return its own instance where a plain value is asked for."""
        value = super().call(proxy, *args, **kwargs)
        if type(value) is not Proxy or proxy._handle not in self._named:
            return value
        return self._built.setdefault(value._handle, Proxy(self, value._handle, value._kind))

    def identity(self, value: Any) -> Any:
        """The one stand-in of an object, for `is`."""
        return self._theirs[value._handle] if type(value) is Proxy else value

    def class_of(self, value: Any) -> Any:
        """For `type(x)`, which does not ask an object's `__class__`."""
        return value.__class__ if type(value) is Proxy else type(value)

    def equal(self, proxy: Proxy, other: Proxy) -> bool:
        # What equals a text that was made up just now equals everything, and proves nothing.
        return super().equal(proxy, other) and not any(self._equals_all(side) for side in (proxy, other))

    def _equals_all(self, proxy: Proxy) -> bool:
        try:
            return self.ask("eq", proxy, os.urandom(16).hex()) is True
        except Exception:  # an honest one may well look for attributes that a text has not
            return False

    def operate(self, verb: str, proxy: Proxy, other: Any) -> Any:
        if is_proxy(other):
            return super().operate(verb, proxy, other)
        # A plain value of the test is what an answer is compared with, as in `abs(f(3) - 9) < 1e-9`, and an operator of
        # the program's own would be asked to judge. So it sees plain values only on instances of classes that the test
        # names itself, not where one subtracts to compare, and may only answer with another of its objects.
        result = super().operate(verb, proxy, other) if self.knows(proxy) and verb in _SCALING else None
        return result if is_proxy(result) else NotImplemented

    def permit(self, verb: str, target: Any, args: list[Any]) -> None:
        if verb == "read_line" and target is None:
            return
        ours = type(target).__module__ == "__main__" or (
            isinstance(target, type) and getattr(target, "__module__", "") == "__main__"
        )
        callback = isinstance(target, (FunctionType, MethodType, BuiltinFunctionType))
        if verb == "call" and (ours or callback):
            return
        if verb in ("iter", "next") and isinstance(target, Iterator):
            return
        if ours and verb != "await" and not (verb in ("get", "set", "delete") and str(args[0]).startswith("_")):
            return
        raise PermissionError(verb)

    def exception(self, described: list[Any]) -> BaseException:
        error = super().exception(described)
        if isinstance(error, SystemExit):
            self.exits.append(error)
        return error

    def show(self, text: str) -> None:
        sys.stdout.write(text)

    def built_in(self, name: str) -> Any:
        found = super().built_in(name)
        return found if isinstance(found, type) else None


def _read_line(_nothing: None) -> str:
    try:
        return f"{input()}\n"
    except EOFError:
        return ""


def run_test() -> None:
    """Driver of the test's process: run its source against the program; write how it ended as JSON and be gone.

    `{"passed": true}` or `{"raised": name, "loading": whether the program did not even load}`.
    """
    source, payload = child.read_all(3).decode(), json.loads(child.read_all(TEST_PAYLOAD))
    tree = ast.parse(source)
    peer = TestSide(TEST_CHANNEL, expects_stop="StopIteration" in source)
    entry_point = (payload["entry_point"] or "").partition(".")[0].removesuffix("()")
    try:
        names = {**peer.names(names_used(tree, entry_point)), **own_names(tree, entry_point)}
    except BaseException as error:  # whatever the program raises, an exit included, is how it loads
        outcome = {"raised": type(error).__name__, "loading": True}
    else:
        outcome = _run(tree, names, peer)
    os.write(TEST_RESULT, json.dumps(outcome).encode())
    os._exit(0)


def _run(tree: ast.Module, names: dict[str, Any], peer: TestSide) -> dict[str, Any]:
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    main.__dict__.update({**names, _IDENTITY: peer.identity, _KIND: peer.class_of})
    _look_behind_stand_ins(tree)
    try:
        exec(compile(tree, "<test>", "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - that is the purpose
    except SystemExit as stop:
        # `unittest.main()` ends so; an exit that came from the program ends nothing but the program's hopes.
        return {"raised": "SystemExit"} if stop.code or any(stop is exit for exit in peer.exits) else {"passed": True}
    except BaseException as error:  # whatever the test or the program raises is the answer
        return {"raised": type(error).__name__}
    return {"passed": True}


def _look_behind_stand_ins(tree: ast.Module) -> None:
    """`a is b` becomes a comparison of the one stand-in that each object has, `type(a)` the class of the object."""

    def one(operand: ast.expr) -> ast.expr:
        function = ast.copy_location(ast.Name(_IDENTITY, ast.Load()), operand)
        return ast.copy_location(ast.Call(function, [operand], []), operand)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
            node.func.id = _KIND if len(node.args) == 1 and not node.keywords else node.func.id
        if isinstance(node, ast.Compare) and all(isinstance(operator, (ast.Is, ast.IsNot)) for operator in node.ops):
            node.left, node.comparators = one(node.left), [one(operand) for operand in node.comparators]
