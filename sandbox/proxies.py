"""Stand-ins for objects of another process, and what can be done with such an object across the wall.

Every operation on a `Proxy` is a verb that its `Peer` sends to the process where the object lives.
"""

import operator
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from sandbox.peers import Peer


def _exit_context(manager: Any, kind: Any, error: Any, _trace: Any) -> Any:
    return type(manager).__exit__(manager, kind, error, None)


UNARY = ("neg", "pos", "abs", "invert", "index")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift")
ORDER = ("lt", "le", "gt", "ge")
# What one side can do with an object of the other.
VERBS: dict[str, Callable[..., Any]] = {
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "issubclass": lambda kind, other: issubclass(other, kind),
    "await": lambda coroutine: import_module("asyncio").run(coroutine),  # too dear to import for those who never do
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": _exit_context,
    **{kind.__name__: kind for kind in (str, int, float, complex, bool)},
    **{function.__name__: function for function in (len, iter, next, reversed, hash, repr, format, round)},
    **{name: getattr(operator, name) for name in [*UNARY, *BINARY, *ORDER]},
    **{name: getattr(operator, name) for name in ("eq", "contains", "getitem", "setitem", "delitem")},
    **{f"i{name.strip('_')}": getattr(operator, f"i{name.strip('_')}") for name in BINARY},
    **{f"r{name.strip('_')}": lambda a, b, name=name: getattr(operator, name)(b, a) for name in BINARY},
}


class Proxy:
    """An object of the other process."""

    __slots__ = ("_handle", "_kind", "_peer")
    _handle: int

    def __init__(self, peer: "Peer", handle: int, kind: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._peer.call(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._peer.get(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delete", self, name)

    def __eq__(self, other: object) -> bool:
        # An object's own `__eq__` must not see a plain value of the other side, much less decide about it.
        if not is_proxy(other):
            return False
        return self._handle == other._handle or self._peer.equal(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._peer.ask("hash", self)  # type: ignore[no-any-return]

    def __contains__(self, item: Any) -> bool:
        if is_proxy(item) or self._peer.built(self):
            return self._peer.ask("contains", self, item) is True
        return any(item is found or item == found for found in iter(self))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        kind = self._peer.ask("get", self, "__class__") if self._peer.knows(self) else Proxy
        return kind if is_proxy(kind) else Proxy


class ProxyClass(Proxy):
    """A class of the other process."""

    __slots__ = ()

    def __instancecheck__(self, value: Any) -> bool:
        return is_proxy(value) and self._peer.ask("isinstance", self, value) is True

    def __subclasscheck__(self, other: Any) -> bool:
        return is_proxy(other) and self._peer.ask("issubclass", self, other) is True


def is_proxy(value: Any) -> TypeGuard[Proxy]:
    """`isinstance` would ask the other side."""
    return type(value) in (Proxy, ProxyClass)


def _forward(verb: str) -> Callable[..., Any]:
    return lambda self, *args: self._peer.ask(verb, self, *args)


def _operate(verb: str) -> Callable[..., Any]:
    return lambda self, other: self._peer.operate(verb, self, other)


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    """`with` and `+=` give back the object they were given, not one that was returned."""

    def call(self: Proxy, *args: Any) -> Any:
        result = method(self, *args)
        return self if is_proxy(result) and result._handle == self._handle else result

    return call


CONVERSIONS = ("str", "int", "float", "complex", "bool", "len", "iter", "next", "reversed", "repr", "format", "round")
for _verb in (*UNARY, *CONVERSIONS, "exit", "getitem", "setitem", "delitem"):
    setattr(Proxy, f"__{_verb}__", _forward(_verb))
for _verb in [*ORDER, *(prefix + name.strip("_") for name in BINARY for prefix in ("", "r"))]:
    setattr(Proxy, f"__{_verb}__", _operate(_verb if _verb in VERBS else f"{_verb}_"))
for _verb in (f"i{name.strip('_')}" for name in BINARY):
    setattr(Proxy, f"__{_verb}__", _itself(_operate(_verb)))
Proxy.__enter__ = _itself(_forward("enter"))  # type: ignore[attr-defined]
