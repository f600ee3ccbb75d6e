"""Two processes that use each other's objects over one socket, and neither trusts the other.

    test process                                  program's process
    counter = Counter()      ask: call  ───────▶  Counter()
    Proxy                    ◀───── value         {"object": [1, "instance", 0]}
    counter.add(2) == 3      ask: get, call ───▶  the same object; 3 comes back by value

Plain values cross by value (`plain`), everything else by handle. While one side waits for its answer it serves what the
other asks meanwhile, so functions may be passed in and called back. Containers given as arguments are brought up to
date after the call, as if the callee had changed the caller's own.
"""

import builtins
import json
import os
import re
import sys
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, NoReturn

from sandbox import plain
from sandbox.frames import write_all
from sandbox.proxies import VERBS, Proxy, ProxyClass, is_proxy

MAX_MESSAGE_BYTES = 64 << 20
_ARRAY_KINDS = frozenset("biuf")
"""numpy's letters for booleans, integers and floats: the arrays whose items are JSON."""
_MUTABLE = (list, dict, set, bytearray)

GONE_EXIT_CODE = 70


def hang_up() -> NoReturn:
    """The other side has ended or talks nonsense. Not an exception: code under test must not be able to catch it."""
    os._exit(GONE_EXIT_CODE)


class Peer:
    """One end of the pipe. What the other side may do to our objects is for a subclass to say (`permit`)."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._reader = os.fdopen(channel, "rb", closefd=False)
        self._own: list[Any] = []
        self._handles: dict[int, int] = {}
        self._theirs: dict[int, Any] = {}
        self._replicas: dict[Any, int] = {}
        self.verbs = dict(VERBS)

    # What the two sides do differently.

    def permit(self, verb: str, target: Any, args: list[Any]) -> None:
        """Raise for what the other side may not do to `target`."""

    def knows(self, proxy: Proxy) -> bool:
        """Whether the proxy's class is one that this side has named itself."""
        return True

    def built(self, proxy: Proxy) -> bool:
        """Whether this side has made the proxy's object itself, by calling such a class."""
        return True

    def call(self, proxy: Proxy, /, *args: Any, **kwargs: Any) -> Any:
        return self.ask("call", proxy, *args, **kwargs)

    def equal(self, proxy: Proxy, other: Proxy) -> bool:
        return self.ask("eq", proxy, other) is True

    def operate(self, verb: str, proxy: Proxy, other: Any) -> Any:
        return self.ask(verb, proxy, other)

    def get(self, proxy: Proxy, name: str) -> Any:
        return self.ask("get", proxy, name)

    def kind_of(self, value: Any) -> int | None:
        """The handle of a value's class, for the other side to know its instances by."""
        return None

    def printed(self) -> str:
        """What was printed here since the last message."""
        return ""

    def show(self, text: str) -> None:
        """Take over what was printed on the other side."""

    # Asking and answering.

    def ask(self, verb: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Do `verb` to the other side's object; raises what that raised there."""
        positional = [self.encode(value) for value in (target, *args)]
        self._send({"ask": [verb, positional, {key: self.encode(value) for key, value in kwargs.items()}]})
        message = self._receive()
        while "ask" in message:
            self._send(self._answer(message))
            message = self._receive()
        try:
            for value, change in zip((*args, *kwargs.values()), message.get("changed") or (), strict=False):
                if change:
                    _update(value, self.decode(change[0]))
            raised = self.exception(message["raised"]) if "raised" in message else None
            value = None if raised else self.decode(message["value"])
        except (plain.Malformed, LookupError, TypeError, ValueError):
            hang_up()
        if raised:
            raise raised
        return value

    def serve(self) -> NoReturn:
        """Answer until the other side hangs up."""
        while True:
            self._send(self._answer(self._receive()))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            verb, positional, keywords = message["ask"]
            target, *args = [self.decode(data) for data in positional]
            kwargs = {key: self.decode(data) for key, data in keywords.items()}
            self.permit(verb, target, args)
            value = self.encode(self.verbs[verb](target, *args, **kwargs))
            return {
                "value": value,
                "changed": self._changes((*args, *kwargs.values()), (*positional[1:], *keywords.values())),
            }
        except BaseException as error:  # whatever our code does under the other side's hand is its answer
            return {"raised": self._describe(error)}

    def _changes(self, values: tuple[Any, ...], before: tuple[Any, ...]) -> list[list[Any]] | None:
        """For each argument `[its value now]` where it has changed, else nothing."""
        changes: list[list[Any]] = []
        for value, old in zip(values, before, strict=True):
            # Strings and numbers, the bulk of all arguments, cannot have changed.
            new = self.encode(value) if isinstance(old, (list, dict)) else old
            changes.append([] if new is old or json.dumps(new) == json.dumps(old) else [new])
        return changes if any(changes) else None

    # What crosses.

    def encode(self, value: Any) -> plain.Encoded:
        return plain.encode(value, self._refer)

    def decode(self, data: plain.Encoded) -> Any:
        return plain.decode(data, self._resolve)

    def _refer(self, value: Any) -> plain.Encoded:
        if is_proxy(value):
            return {"back": value._handle}
        if isinstance(value, BaseException):
            return {"exception": self._describe(value)}
        if type(value).__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "O") in _ARRAY_KINDS:
            # A number of numpy's is its plain number: it compares like one.
            return {"ndarray": [str(value.dtype), value.tolist()]} if value.shape else self.encode(value.item())
        name = getattr(value, "__name__", None)
        if getattr(value, "__module__", None) == "builtins" and vars(builtins).get(str(name)) is value:
            return {"builtin": name}
        if isinstance(value, type) and issubclass(value, BaseException):
            return self._refer_exception(value)
        described = "coroutine" if isinstance(value, Coroutine) else "class" if isinstance(value, type) else "instance"
        return {"object": [self._handle(value), described, self.kind_of(value)]}

    def _handle(self, value: Any) -> int:
        if id(value) not in self._handles:
            self._handles[id(value)] = len(self._own)
            self._own.append(value)
        return self._handles[id(value)]

    def _resolve(self, tag: str, data: plain.Encoded) -> Any:
        if tag == "back" and isinstance(data, int) and 0 <= data < len(self._own):
            return self._own[data]
        if tag == "exception":
            return self.exception(data)
        if tag == "builtin":
            return self.built_in(data)
        if tag == "ndarray" and re.fullmatch("(bool|u?int|float)[0-9]{0,2}", data[0]):
            return import_module("numpy").array(data[1], dtype=data[0])
        if tag != "object":
            raise plain.Malformed(tag)
        handle, described, *rest = data
        if handle not in self._theirs:
            self._theirs[handle] = self._stand_in(handle, described, *rest)
        return self._theirs[handle]

    def built_in(self, name: str) -> Any:
        return vars(builtins)[name]

    def _stand_in(self, handle: int, described: str, kind: Any, bases: Any = ()) -> Any:
        if described == "exception":
            replica = type(str(kind), tuple(self._exception_class(base) for base in bases), {"__str__": _text_of})
            self._replicas[replica] = handle
            return replica
        proxy = (ProxyClass if described == "class" else Proxy)(self, handle, kind)
        return self._awaitable(proxy) if described == "coroutine" else proxy

    async def _awaitable(self, proxy: Proxy) -> Any:
        return self.ask("await", proxy)

    # Exceptions cross by the name of their type where the standard library has it, else as a class made to resemble.

    def _describe(self, error: BaseException) -> list[Any]:
        try:
            state = [self.encode(list(error.args)), self.encode(dict(vars(error))), str(error)]
        except Exception:  # its attributes and its text are the program's code
            state = [[], {"dict": []}, ""]
        return [self._refer_exception(type(error)), *state]

    def _refer_exception(self, kind: type[BaseException]) -> Any:
        module, name = kind.__module__, kind.__qualname__
        if module.partition(".")[0] in sys.stdlib_module_names and vars(sys.modules[module]).get(name) is kind:
            return {"known": f"{module}:{name}"}
        if kind in self._replicas:
            return {"back": self._replicas[kind]}
        bases = [self._refer_exception(base) for base in kind.__bases__ if issubclass(base, BaseException)]
        return {"object": [self._handle(kind), "exception", kind.__name__, bases]}

    def _exception_class(self, named: Any) -> type[BaseException]:
        if "known" in named:
            module, _, name = named["known"].partition(":")
            # `unittest` reads success out of some of its exceptions, so the other side may not choose among those.
            known = module.partition(".")[0] in sys.stdlib_module_names - {"unittest"} and module in sys.modules
            found = vars(sys.modules[module]).get(name) if known else None
        else:
            found = self.decode(named)
        return found if isinstance(found, type) and issubclass(found, BaseException) else RuntimeError

    def exception(self, described: list[Any]) -> BaseException:
        named, args, attributes, text = described
        kind = self._exception_class(named)
        try:
            error = kind(*self.decode(args))
        except Exception:  # a type that cannot be made of its arguments
            error = RuntimeError(text)
        if kind in self._replicas:
            vars(error).update(self.decode(attributes), _text=str(text))
        return error

    # The pipe: one JSON object a line.

    def _send(self, message: dict[str, Any]) -> None:
        try:
            write_all(self._channel, json.dumps({**message, "printed": self.printed()}).encode() + b"\n")
        except OSError:
            hang_up()

    def _receive(self) -> dict[str, Any]:
        try:
            message = json.loads(self._reader.readline(MAX_MESSAGE_BYTES))
            self.show(str(message["printed"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            hang_up()
        return message  # type: ignore[no-any-return]


def _text_of(error: BaseException) -> str:
    return str(vars(error).get("_text") or BaseException.__str__(error))


def _update(value: Any, new: Any) -> None:
    """Make the caller's own containers look like the callee's after the call, keeping their identity."""
    if type(value) is not type(new):
        return
    if isinstance(value, (list, tuple)):
        merged = list(new)
        for i, (old_item, new_item) in enumerate(zip(value, new, strict=False)):
            if isinstance(old_item, (*_MUTABLE, tuple)) and type(old_item) is type(new_item):
                _update(old_item, new_item)
                merged[i] = old_item
        if isinstance(value, list):
            value[:] = merged
    elif isinstance(value, dict):
        for key, old_item in value.items():
            if isinstance(old_item, _MUTABLE) and type(new.get(key)) is type(old_item):
                _update(old_item, new[key])
                new[key] = old_item
        value.clear()
        value.update(new)
    elif isinstance(value, (set, bytearray)):
        value.clear()
        value.extend(new) if isinstance(value, bytearray) else value.update(new)
