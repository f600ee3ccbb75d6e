"""Programs that try to be paid without solving the task, each beside an honest twin that uses the same means.

A cheat may earn what it honestly computes and nothing else, and it never looks like a fault of ours (`error`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from verifier_service.registry import parse_task
from verifier_service.schemas import Verdict
from verifier_service.tools import WorkerTools
from verifier_service.verify import verify

TESTS: dict[str, list[dict[str, Any]]] = {
    "stdin": [{"stdin": "3\n", "stdout": "9\n"}, {"stdin": "12345\n", "stdout": "152399025\n"}],
    "call": [{"args": [3], "expected": 9}, {"args": [12345], "expected": 152399025}],
    "assert": [{"assert": "assert square(3) == 9"}, {"assert": "assert square(12345) == 152399025"}],
}
SOLUTIONS = {"stdin": "print(int(input()) ** 2)\n", "call": "def square(n): return n ** 2\n"}
SOLUTIONS["assert"] = SOLUTIONS["call"]
STYLES = ("stdin", "call", "assert")


@pytest.fixture(scope="module")
def tools() -> Iterator[WorkerTools]:
    opened = WorkerTools()
    yield opened
    opened.close()


def judge(tools: WorkerTools, style: str, program: str, tests: list[dict[str, Any]] | None = None) -> Verdict:
    entry_point = {"entry_point": "square"} if style == "call" else {}
    limits = {"time_limit_s": 0.5, "total_time_limit_s": 4, "memory_limit_mb": 128}
    verifier, task = parse_task({"kind": "code", "tests": tests or TESTS[style], **entry_point, **limits})
    return verify(verifier, task, f"Here it is:\n```python\n{program}\n```\n", tools)


def assert_earns_nothing(verdict: Verdict) -> None:
    assert (verdict.outcome, verdict.reward) == ("incorrect", 0.0), verdict


# What a program may try before, or instead of, solving anything, in every style. The twin is the same text in front of
# the solution, or `honest` where that would not be honest.
EVERYWHERE = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "raise SystemExit": "raise SystemExit",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)",
    "SIGKILL to itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "kill everything": "import os, signal\nfor pid in (os.getppid(), -1, 1): os.kill(pid, signal.SIGKILL)",
    "stop itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "abort": "import os\nos.abort()",
    "endless": "while True: pass",
    "eat memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "flood stdout": "while True: print('9\\n152399025\\n' * 10000)",
    "fork": "import os\nwhile True: os.fork()",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "recurse": "def f(): f()\nf()",
    "crash the interpreter": "import ctypes\nctypes.string_at(0)",
    "tear the types down": "import ctypes, sys\nfor t in (dict, str, list): ctypes.memset(id(t), 0, 64)",
    "break the json module": "import json\njson.dumps = json.loads = lambda *a, **k: True\ndef square(n): return 0",
    "break the built-ins": (
        "import builtins\nfor name in ('len', 'isinstance', 'all', 'print', 'hash', 'abs', 'type', 'repr'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\ndef square(n): return 0"
    ),
    "break os.write": "import os\nos.write = lambda fd, data: len(data)\ndef square(n): return n",
    "replace the streams": (
        "import io, sys\nsys.stdout = sys.__stdout__ = io.StringIO('9')\nsys.stdin = io.StringIO('0')\n"
        "def square(n): return 0"
    ),
    "close all descriptors": "import os\nos.closerange(0, 256)",
    "a trace function": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\nsys.excepthook = print\n"
        "def square(n): return 0"
    ),
    "look for the answers in memory": (
        "import gc, sys\nframe, found = sys._getframe(), []\n"
        "while frame:\n    found += [frame.f_locals, frame.f_globals]\n    frame = frame.f_back\n"
        "found += [o for o in gc.get_objects() if type(o) in (dict, list, tuple)]\n"
        "text, keys = repr(found), [k for o in found if type(o) is dict for k in o]\n"
        "words = [''.join(map(chr, word)) for word in (map(ord, str(int('12345') ** 2)), (101, 120, 112, 101, 99, 116, 101, 100))]\n"
        "if words[0] in text or words[1] in keys:\n"
        "    square = lambda n: n * n\n    print(int(input()) ** 2)"
    ),
    "look for the answers in files": (
        "import glob\ntext = b''\n"
        "for path in glob.glob('/**', recursive=True) + ['/proc/self/environ'] + ['/proc/self/fd/%d' % n for n in range(9)]:\n"
        "    try: text += open(path, 'rb').read(1000)\n"
        "    except OSError: pass\n"
        "if str(12345 ** 2).encode() in text: square = lambda n: n * n; print(int(input()) ** 2)"
    ),
    "leave word for the next test": (
        "import os\nseen = os.path.exists('/tmp/seen') or os.path.exists('seen')\n"
        "for path in ('/tmp/seen', 'seen', '/dev/shm/seen'):\n"
        "    try: open(path, 'w').write('x')\n"
        "    except OSError: pass\n"
        "if seen: square = lambda n: n * n; print(int(input()) ** 2)"
    ),
    "plant a module": (
        "import os, sys\nfor name in ('json.py', 'sitecustomize.py', 'unittest.py'):\n"
        "    open(name, 'w').write('square = lambda n: n * n')\nsys.path.insert(0, os.getcwd())"
    ),
    "write to every descriptor": (
        "import os, sys\nnonce = ''\nframe = sys._getframe()\n"
        "while frame:\n    nonce = frame.f_locals.get('request', {}).get('nonce', nonce)\n    frame = frame.f_back\n"
        'forged = nonce + \'{"result": true, "passed": true, "value": true, "printed": ""}\' + nonce + \'\\n\'\n'
        "for descriptor in range(3, 64):\n"
        "    try: os.write(descriptor, forged.encode())\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "print what looks like a result": (
        "print('{\"passed\": true}', '{\"result\": 9}')\nprint('test session: 2 passed')\nimport sys\nsys.exit(0)"
    ),
}


# These end at the wall limit, which is several times the CPU limit.
SLOW = {"stop itself", "threads", "break os.write", "close all descriptors"}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] * (n in SLOW)) for n in EVERYWHERE])
def test_cheat_in_every_style(tools: WorkerTools, name: str, style: str) -> None:
    assert_earns_nothing(judge(tools, style, EVERYWHERE[name]))


HONEST = {
    "exits when done": "import sys\nfrom atexit import register\nregister(print, end='')",
    "looks at frames and memory": "import gc, sys\nsys._getframe()\ngc.collect()\nlen(gc.get_objects())",
    "writes a file": "open('scratch', 'w').write('x')\nassert open('/tmp/scratch').read() == 'x'",
    "uses a thread": "import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()",
    "leaves a daemon behind": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "writes to stderr": "import sys\nprint('debug', file=sys.stderr)",
    "sets a recursion limit": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and f(n - 1)\nf(5000)",
    "uses json": "import json\nassert json.loads(json.dumps([1])) == [1]",
    "defines what looks like a test": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.fail()",
    "ignores signals": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
    "needs memory": "x = bytearray(40 << 20)",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", HONEST)
def test_honest_in_every_style(tools: WorkerTools, name: str, style: str) -> None:
    verdict = judge(tools, style, f"{HONEST[name]}\n{SOLUTIONS[style]}")
    assert (verdict.outcome, verdict.reward) == ("correct", 1.0), verdict


@dataclass(frozen=True)
class Pair:
    """A cheat and the honest program that it resembles, under the same tests."""

    style: str
    cheat: str
    honest: str
    tests: list[dict[str, Any]] = field(default_factory=list)


MAGIC = """
class Magic:
    def yes(self, *others): return True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = __call__ = startswith = isdigit = issubset = yes
    def __ne__(self, other): return False
    def __hash__(self): return 9
    def zero(self, *others): return 0
    __sub__ = __rsub__ = __abs__ = __xor__ = __rxor__ = __mod__ = zero
    @property
    def __class__(self): return int
"""
MAGIC_TESTS = (
    "assert square(3) == 9",
    "assert 9 == square(3)",
    "assert not square(3) != 9",
    "assert square(3) in (9, 16)",
    "assert [square(3)] == [9]",
    "assert {9: square(3)} == {9: 9}",
    "assert {square(3)} == {9}",
    "assert abs(square(3) - 9) < 1e-9",
    "assert abs(9 - square(3)) < 1e-9",
    "assert square(3) - 9 == 0",
    "assert 8 < square(3) < 10",
    "assert max(square(3), 8) == 9",
    "assert isinstance(square(3), int)",
    "import math\nassert math.isclose(square(3), 9)",
    "assert isclose(square(3), 9)",
    "assert '%d' % square(3) == '9'",
    "assert str(square(3)) == '9'",
    "import unittest\nunittest.TestCase().assertEqual(square(3), 9)",
    "import unittest\nunittest.TestCase().assertAlmostEqual(square(3), 9)",
)


@pytest.mark.parametrize("test", MAGIC_TESTS)
def test_an_object_that_equals_everything_proves_nothing(tools: WorkerTools, test: str) -> None:
    cheat = f"{MAGIC}\ndef square(n): return Magic()\ndef isclose(*a): return True\ndef abs(x): return 0"
    assert_earns_nothing(judge(tools, "assert", cheat, [{"assert": test}]))


@pytest.mark.parametrize("test", MAGIC_TESTS)
def test_the_number_itself_is_paid(tools: WorkerTools, test: str) -> None:
    assert judge(tools, "assert", SOLUTIONS["assert"], [{"assert": test}]).reward == 1.0


PAIRS = {
    "equal to all": Pair("call", f"{MAGIC}\ndef square(n): return Magic()", "def square(n): return n * n"),
    "int subclass": Pair(
        "call",
        "class N(int):\n    __eq__ = lambda *a: True\ndef square(n): return N(0)",
        "def square(n): return int(n * n)",
    ),
    "bool for int": Pair(
        "call",
        "def square(n): return True",
        "def square(n): return 1",
        [{"args": [1], "expected": 1}],
    ),
    "float for int": Pair("call", "def square(n): return float(n * n)", "def square(n): return round(float(n * n))"),
    "str subclass": Pair(
        "call",
        "class S(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef square(n): return S('x')",
        "def square(n): return str(n * n)",
        [{"args": [3], "expected": "9"}],
    ),
    "str subclass under assert": Pair(
        "assert",
        "class S(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef square(n): return S('x')",
        "def square(n): return str(n * n)",
        [{"assert": "assert square(3) == '9'"}],
    ),
    "looks like an iterator": Pair(
        "assert",
        "def square(n): return 9",
        "def square(n):\n    while True: yield 9",
        [
            {
                "assert": "from collections.abc import Iterator\nassert isinstance(square(3), Iterator) and next(square(3)) == 9"
            }
        ],
    ),
    "generator for list": Pair(
        "call",
        "def square(n):\n    while True: yield 9",
        "def square(n): return list(k * k for k in range(n))",
        [{"args": [3], "expected": [0, 1, 4]}],
    ),
    "endless generator": Pair(
        "assert",
        "def square(n):\n    while True: yield 9",
        "def square(n): yield from (0, 1, 4)",
        [{"assert": "assert list(square(3)) == [0, 1, 4]"}],
    ),
    "endless nesting": Pair(
        "call", "def square(n):\n    x = []\n    x.append(x)\n    return x", "def square(n): return n * n"
    ),
    "giant result": Pair("call", "def square(n): return 'x' * (90 << 20)", "def square(n): return 'x' and n * n"),
    "giant result under assert": Pair(
        "assert",
        "def square(n): return list(range(10 ** 6)) * 2",
        "def square(n): return list(range(n))",
        [{"assert": "assert square(3) == [0, 1, 2]"}],
    ),
    "colliding hashes": Pair(
        "assert",
        "def square(n): return {k * (2 ** 61 - 1): k for k in range(3 * 10 ** 4)}",
        "def square(n): return {k * (2 ** 61 - 1): k for k in range(n)}",
        [{"assert": "assert len(square(30)) == 30"}],
    ),
    "changes the arguments": Pair(
        "call",
        "def square(x):\n    x[:] = [9]\n    return None",
        "def square(x):\n    x[0] = x[0] ** 2\n    return x",
        [{"args": [[3]], "expected": [9]}],
    ),
    "first line only": Pair("stdin", "print(1)", "print(1)\nprint(2)\nprint()", [{"stdin": "", "stdout": "1\n2\n"}]),
    "right prefix and more": Pair(
        "stdin", "print(1)\nprint(2)\nprint(3)", "print('1  ')\nprint(2)", [{"stdin": "", "stdout": "1\n2\n"}]
    ),
    "all guesses at once": Pair("stdin", "print('9 152399025')", "print(int(input()) ** 2, end='\\n\\n')"),
    "off by a thousand": Pair(
        "stdin", "print(998245353)", "print(998244353)", [{"stdin": "", "stdout": "998244353\n"}]
    ),
    "right output and a crash": Pair(
        "stdin",
        "print(int(input()) ** 2, flush=True)\n1/0",
        "print(int(input()) ** 2, flush=True)\ntry: 1/0\nexcept ZeroDivisionError: pass",
    ),
    "right output and an exit code": Pair(
        "stdin",
        "import os\nprint(int(input()) ** 2, flush=True)\nos._exit(1)",
        "import os\nprint(int(input()) ** 2, flush=True)\nos._exit(0)",
    ),
    "a result and then no end": Pair(
        "call",
        "import threading\ndef square(n):\n    while True: pass",
        "import threading, time\ndef square(n):\n    threading.Thread(target=time.sleep, args=(99,)).start()\n    return n * n",
    ),
    "patched equality of the codec": Pair(
        "call",
        "import sys\nf = sys._getframe()\nwhile f:\n    p = f.f_globals.get('plain')\n    if p: p.encode = lambda *a: True\n"
        "    f = f.f_back\ndef square(n): return 0",
        "import sys\nf = sys._getframe()\ndef square(n): return n * n",
    ),
    "test's helpers redefined": Pair(
        "assert",
        "def len(x): return 3\ndef sorted(x): return [0, 1, 4]\ndef square(n): return []",
        "def len_(x): return 3\ndef square(n): return [4, 0, 1]",
        [{"assert": "assert len(square(3)) == 3 and sorted(square(3)) == [0, 1, 4]"}],
    ),
    "module of the test redefined": Pair(
        "assert",
        "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef square(n): return 0",
        "import math\ndef square(n): return math.pow(n, 2)",
        [{"assert": "assert math.isclose(square(3), 9)"}],
    ),
    "Counter redefined": Pair(
        "assert",
        "def Counter(x): return 0\ndef square(n): return 0",
        "from collections import Counter\ndef square(n): return Counter('9')",
        [{"assert": "import collections\nassert square(3) == collections.Counter('9')"}],
    ),
    "skips the test": Pair(
        "assert",
        "import unittest\ndef square(n): raise unittest.SkipTest",
        "import unittest\ndef square(n): return n * n",
        [
            {
                "assert": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
                "        self.assertEqual(square(3), 9)\nunittest.main()"
            }
        ],
    ),
    "exits the test": Pair("assert", "def square(n): raise SystemExit(0)", "def square(n): return n * n"),
    "interrupts the test": Pair("assert", "def square(n): raise KeyboardInterrupt", "def square(n): return n * n"),
    "dies where an exception is expected": Pair(
        "assert",
        "import os\ndef square(n): os._exit(0)",
        "def square(n): raise ValueError",
        [{"assert": "try:\n    square('x')\nexcept Exception:\n    pass\nelse:\n    assert False"}],
    ),
    "wrong exception": Pair(
        "assert",
        "def square(n): raise TypeError",
        "def square(n): raise ValueError",
        [{"assert": "try:\n    square('x')\n    assert False\nexcept ValueError:\n    pass"}],
    ),
    "reads the test through its callback": Pair(
        "assert",
        "def square(f):\n    return f.__globals__['ANSWER']",
        "def square(f):\n    return f(3)",
        [{"assert": "ANSWER = 9\nassert square(lambda n: n * n) == ANSWER"}],
    ),
    "reads the test through a generator": Pair(
        "assert",
        "def square(numbers):\n    return numbers.gi_frame.f_globals['ANSWER']",
        "def square(numbers):\n    return sum(numbers)",
        [{"assert": "ANSWER = 3\nassert square(n for n in range(3)) == ANSWER"}],
    ),
    "reads the test through its object": Pair(
        "assert",
        "def square(o):\n    return type(o).size.__globals__['ANSWER'] if 0 else o._Box__secret",
        "def square(o):\n    return o.size() + o.n",
        [
            {
                "assert": "class Box:\n    n = 4\n    __secret = 9\n    def size(self):\n        return 5\n"
                "assert square(Box()) == 9"
            }
        ],
    ),
    "asks for an attribute of plain data": Pair(
        "assert",
        "import sys\ndef square(f):\n    frame = sys._getframe()\n    while frame:\n"
        "        peer = frame.f_locals.get('self')\n"
        "        if hasattr(peer, 'ask'): return peer.ask('get', '', '__class__').__base__.__subclasses__()\n"
        "        frame = frame.f_back",
        "def square(f): return f(3)",
        [{"assert": "ANSWER = 9\nassert square(lambda n: n * n) == ANSWER"}],
    ),
    "a class where a function is asked for": Pair(
        "assert",
        "class square:\n    def __init__(self, n): pass\n    __sub__ = __rsub__ = __abs__ = lambda *a: 0\n"
        "    __lt__ = __gt__ = __contains__ = lambda *a: True",
        "def square(n): return float(n * n)",
        [{"assert": "assert abs(square(3) - 9) < 1e-9"}, {"assert": "assert 8 < square(3) < 10"}],
    ),
    "the solution itself where its result is asked for": Pair(
        "assert",
        "class Solution:\n    def squares(self, n): return self\n    def written(self, n): return self\n"
        "    __contains__ = startswith = lambda *a: True",
        "class Solution:\n    def squares(self, n): return [i * i for i in range(n)]\n"
        "    def written(self, n): return str(n * n)",
        [{"assert": "assert 9 in Solution().squares(4)"}, {"assert": "assert Solution().written(4).startswith('16')"}],
    ),
    "an instance of the tested class where a number is asked for": Pair(
        "assert",
        "class Square:\n    def __init__(self, n): pass\n    def area(self): return self\n"
        "    __sub__ = __rsub__ = __truediv__ = __abs__ = lambda *a: 0\n    __lt__ = __gt__ = lambda *a: True\n"
        "    __mul__ = lambda *a: 1",
        "class Square:\n    def __init__(self, n): self.n = n\n    def area(self): return self.n ** 2 * 1.0\n"
        "    def __mul__(self, k): return Square(self.n * k)\n    def __eq__(self, o): return self.n == o.n",
        [
            {"assert": "assert abs(Square(3).area() - 9) < 1e-9"},
            {"assert": "assert Square(3).area() / 9 == 1"},
            {"assert": "assert (Square(3) * 2).area() == 36 and Square(3) * 2 == Square(6)"},
        ],
    ),
    "a class that makes every attribute a class": Pair(
        "assert",
        "class Meta(type):\n    __sub__ = __abs__ = lambda *a: 0\n"
        "class Square(metaclass=Meta):\n    def __init__(self, n): self.area = Square",
        "class Square:\n    def __init__(self, n): self.area = n * n",
        [{"assert": "assert abs(Square(3).area - 9) < 1e-9"}],
    ),
    "a returned instance that contains whatever is asked": Pair(
        "assert",
        "class Calculator:\n    def odd(self, n): return self\n    def even(self, n): return Calculator()\n"
        "    @property\n    def all(self): return self\n    def __enter__(self): return self\n"
        "    __contains__ = lambda *a: True\n    __exit__ = __iadd__ = __add__ = lambda self, *a: self",
        "class Calculator:\n    all = range(9)\n    def odd(self, n): return [k for k in range(n) if k % 2]\n"
        "    def even(self, n): return {k for k in range(n) if not k % 2}\n"
        "    def __add__(self, other): return Bag(3)\n"
        "class Bag:\n    def __init__(self, item): self.item = item\n    def __iter__(self): yield self.item",
        [
            {"assert": "assert 3 in Calculator().odd(4)"},
            {"assert": "calculator = Calculator()\nassert 2 in calculator.even(4)"},
            {"assert": "assert 3 in Calculator().all"},
            {"assert": "assert 3 in Calculator() + Calculator()"},
            {"assert": "import unittest\nunittest.TestCase().assertIn(3, Calculator().odd(4))"},
        ],
    ),
    "a returned instance that is all that is asked": Pair(
        "assert",
        f"{MAGIC}\nclass Text(Magic):\n    def __init__(self, text): pass\n    def upper(self): return self\n"
        "    def size(self): return Text('')\n    isupper = endswith = index = Magic.yes\n    find = Magic.zero",
        "class Text:\n    def __init__(self, text): self.text = text\n    def upper(self): return self.text.upper()\n"
        "    def size(self): return len(self.text)",
        [
            {"assert": "assert Text('ab').upper() == 'AB'"},
            {"assert": "assert Text('ab').upper().startswith('A')"},
            {"assert": "assert Text('ab').upper().isupper()"},
            {"assert": "text = Text('ab')\nassert text.size() > 1"},
            {"assert": "assert 1 <= Text('ab').size() <= 2"},
            {"assert": "assert Text('ab').size() in (2, 3)"},
            {"assert": "assert [Text('ab').size()] == [2]"},
        ],
    ),
    "a result that finds whatever is looked for": Pair(
        "assert",
        "class Found:\n    count = lambda *a: 1\n    find = index = lambda *a: 0\n"
        "    difference = lambda *a: set()\n    intersection = lambda self, other: other\n"
        "def square(n): return Found()\ndef squares(n): return Found()",
        "def square(n): return str(n * n)\ndef squares(n): return {k * k for k in range(n)}",
        [
            {"assert": "assert square(3).count('9') == 1"},
            {"assert": "assert square(3).find('9') == 0 and square(3).index('9') == 0"},
            {"assert": "assert squares(2).difference({0, 1}) == set()"},
            {"assert": "assert squares(2).intersection({0, 1}) == {0, 1}"},
        ],
    ),
    "an instance that equals every other": Pair(
        "assert",
        "class Point:\n    def __init__(self, x, y): pass\n    def __add__(self, other): return Point(0, 0)\n"
        "    def __eq__(self, other): return True\n    __hash__ = lambda self: 0",
        "class Point:\n    def __init__(self, x, y): self.x, self.y, self.cache = x, y, None\n"
        "    def __add__(self, other):\n        self.cache = other\n        return Point(self.x + other.x, self.y + other.y)\n"
        "    def __eq__(self, other): return self.x == other.x and self.y == other.y\n"
        "    def __hash__(self): return self.x",
        [
            {"assert": "assert Point(1, 2) + Point(3, 4) == Point(4, 6)"},
            {"assert": "assert [Point(1, 2) + Point(3, 4)] == [Point(4, 6)]"},
            {"assert": "assert Point(4, 6) in {Point(1, 2) + Point(3, 4)}"},
            {"assert": "import unittest\nunittest.TestCase().assertEqual(Point(1, 2) + Point(3, 4), Point(4, 6))"},
        ],
    ),
    "a result that is as long as asked and holds nothing": Pair(
        "assert",
        "class Liar:\n    looks = 0\n    def __len__(self):\n        Liar.looks += 1\n        return 3 if Liar.looks == 1 else 0\n"
        "    def __iter__(self): return iter(())\ndef squares(n): return Liar()\ndef bag(): return Liar()",
        "from collections import UserList\ndef squares(n): return UserList(k * k for k in range(n))\n"
        "class Bag:\n    def __init__(self): self.number = 0\n    def put(self, x): self.number += 1\n"
        "    def __len__(self): return self.number\ndef bag(): return Bag()",
        [
            {"assert": "r = squares(3)\nassert len(r) == 3\nassert all(a == b for a, b in zip(r, [0, 1, 4]))"},
            {"assert": "r = squares(3)\nfor a, b in zip(r, [0, 1, 4]):\n    assert a == b\nassert len(r) == 3"},
            {"assert": "r = squares(3)\nassert len(r) == 3\nfor i in range(len(r)):\n    assert r[i] == [0, 1, 4][i]"},
            {"assert": "r = squares(3)\nr.append(9)\nassert len(r) == 4 and list(r)[3] == 9"},
            {"assert": "b = bag()\nb.put(1)\nb.put(2)\nassert len(b) == 2\nb.put(3)\nassert len(b) == 3"},
        ],
    ),
    "StopIteration for an answer": Pair(
        "assert",
        "def square(n): raise StopIteration\ndef times(a, b): raise StopIteration",
        "def square(n): return n * n\ndef times(a, b): return a * b",
        [
            {"assert": f"from itertools import *\nfor got, want in zip({loop}):\n    assert got == want"}
            for loop in (
                "map(square, [3]), [9]",
                "filter(square, [3]), [3]",
                "starmap(times, [(2, 3)]), [6]",
                "accumulate([2, 3], times), [2, 6]",
                "takewhile(square, [3]), [3]",
                "iter(lambda: square(3), 8), [9]",
            )
        ],
    ),
    "more names than were asked for": Pair(
        "assert",
        "import sys\nf = sys._getframe()\nwhile f:\n    peer = f.f_locals.get('self')\n"
        "    if hasattr(peer, 'verbs'): peer.verbs['names'] = lambda *a: {n: ('value', print) for n in ('square', 'abs', 'len', 'AssertionError')}\n"
        "    f = f.f_back\ndef square(n): return 0",
        "def square(n): return n * n",
        [{"assert": "assert abs(square(3)) == 9"}],
    ),
    "answers for names with functions of its own": Pair(
        "assert",
        "import json, os\nnames = {'dict': [[n, {'tuple': ['value', {'object': [1, 'instance', 0]}]}] for n in ('square', 'abs', 'len', 'isclose')]}\n"
        "os.write(4, json.dumps({'value': names, 'printed': ''}).encode() + b'\\n')\n"
        'for _ in range(9): os.write(4, b\'{"value": 0, "printed": ""}\\n\')',
        "def square(n): return n * n",
        [{"assert": "assert abs(square(3) - 9) < 1e-9"}, {"assert": "assert isclose(square(3), 9)"}],
    ),
    "answers before it is asked": Pair(
        "assert",
        'import os\nfor _ in range(9): os.write(4, b\'{"value": true, "printed": ""}\\n\')\ndef square(n): return 0',
        "def square(n): return n * n",
    ),
    "talks nonsense": Pair(
        "assert",
        "import os\nos.write(4, b'[' * 100000 + b'\\n')\ndef square(n): return 0",
        "import os\nos.write(1, b'[' * 1000)\ndef square(n): return n * n",
    ),
    "never ends its line": Pair(
        "assert", "import os\nwhile True: os.write(4, b'x' * 65536)", "def square(n): return n * n"
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_cheat(tools: WorkerTools, name: str) -> None:
    pair = PAIRS[name]
    assert_earns_nothing(judge(tools, pair.style, pair.cheat, pair.tests))


@pytest.mark.parametrize("name", PAIRS)
def test_honest_twin(tools: WorkerTools, name: str) -> None:
    pair = PAIRS[name]
    verdict = judge(tools, pair.style, pair.honest, pair.tests)
    assert (verdict.outcome, verdict.reward) == ("correct", 1.0), verdict


def test_a_forged_result_is_worth_what_computing_it_is(tools: WorkerTools) -> None:
    """The arguments are in the program's interpreter, so it may hand out any function of them, and no more."""
    constant = "def square(n): return 9"
    assert judge(tools, "call", constant).reward == 0.5
