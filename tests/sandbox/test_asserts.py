"""What assert tests may do with a program that lives in another process, as if it were their own."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from sandbox.runner import ProcessRunner
from sandbox.types import AssertRequest, Limits, Status

PROGRAM = """\
import enum
from collections import namedtuple
def add(a,b): return a+b
def sort(l): l.sort()
def boom(x):
    raise ValueError("bad %s"%x)
class MyE(Exception):
    def __init__(self, code): self.code=code
    def __str__(self): return f"code {self.code}"
def my(x): raise MyE(x)
class Vec:
    def __init__(s,x,y): s.x=x; s.y=y
    def __add__(s,o): return Vec(s.x+o.x,s.y+o.y)
    def __eq__(s,o): return isinstance(o,Vec) and (s.x,s.y)==(o.x,o.y)
    def __mul__(s,k): return Vec(s.x*k,s.y*k)
    __rmul__=__mul__
    def __repr__(s): return f"Vec({s.x}, {s.y})"
    def __len__(s): return 2
    def __hash__(s): return 7
    def __iter__(s): yield s.x; yield s.y
def gen(n):
    for i in range(n): yield i
def apply(f,x): return f(x)
def hello(): print("Hello")
def ask(): return input("name? ")
def head(node): return node.val if node else None
def quit():
    import sys; sys.exit(0)
class Ctx:
    def __enter__(s): return 5
    def __exit__(s,*a): return True
def nt():
    return namedtuple('P', 'x y')(1, 2)
def swap(m): m[0][0]=9; m.append([1])
class Color(enum.Enum):
    RED=1
def red(): return Color.RED
class Bag:
    made=[]
    def __init__(s): s.items=[]; Bag.made.append(s)
    def add(s,item): s.items.append(item); return s
    def __contains__(s,item): return item in s.items
    def startswith(s,item): return s.items[0]==item
    def __iadd__(s,item): return s.add(item)
    def __enter__(s): return s
    def __exit__(s,*a): pass
    @staticmethod
    def last(): return Bag.made[-1]
async def co(x): return x+1
"""

TESTS = {
    "plain values": """\
assert add(1,2)==3
assert add([1],[2])==[1,2]
assert add((1,),(2,))==(1,2) and add('a','b')=='ab'
""",
    "arguments changed in place": """\
l=[3,1,2]
sort(l)
assert l==[1,2,3]
m=[[0,0]];r=m[0]
swap(m)
assert m==[[9,0],[1]] and r==[9,0]
""",
    "a built-in exception": """\
try:
  boom(3)
  assert False
except ValueError as e:
  assert str(e)=='bad 3'
""",
    "the program's own exception": """\
try:
  my(3)
  assert False
except MyE as e:
  assert e.code==3 and str(e)=='code 3', (e.code,str(e))
""",
    "operators between instances": """\
v=Vec(1,2)+Vec(3,4)
assert v==Vec(4,6) and v.x==4 and repr(v)=='Vec(4, 6)' and v*2==Vec(8,12) and 2*v==Vec(8,12)
assert isinstance(v,Vec) and len(v)==2 and list(v)==[4,6]
assert v!=Vec(0,0)
v.x=10
assert v.x==10
assert v.__class__.__name__=='Vec' and v.__dict__=={'x':10,'y':6}
assert len({Vec(1,1),Vec(1,1)})==1
""",
    "the class of an instance": """\
assert type(Vec(1,2)) is Vec and type(Vec(1,2)) == Vec and type(Vec(1,2)) != Bag
assert type(Vec(1,2)).__name__ == 'Vec' and type(type(Vec(1,2))) is not Vec
assert type(add(1,2)) is int and type('Own', (), {}).__name__ == 'Own'
""",
    "map and filter": """\
assert list(map(add,[1,2],[3,4,5]))==[4,6]
assert list(filter(lambda x: add(x,-1), [1,2]))==[2] and list(filter(None,[0,1]))==[1]
assert list(map(gen,[2]))[0] is not None
""",
    "generators": """\
assert list(gen(3))==[0,1,2]
assert next(iter(gen(2)))==0
assert 2 in gen(3)
""",
    "callbacks and objects of the test": """\
assert apply(lambda x:x+1,2)==3
assert apply(str,2)=='2'
class N:
  def __init__(s,v): s.val=v
assert head(N(4))==4
assert apply(len,[1])==1
""",
    "printed text": """\
import io,contextlib
b=io.StringIO()
with contextlib.redirect_stdout(b): hello()
assert b.getvalue()=='Hello\\n'
""",
    "standard input": """\
import io,sys
sys.stdin=io.StringIO('bob\\n')
assert ask()=='bob'
""",
    "a patched input": """\
from unittest.mock import patch
with patch('builtins.input',side_effect=['al']):
  assert ask()=='al'
""",
    "context managers": """\
with Ctx() as c:
  assert c==5
  raise ValueError
""",
    "named tuples": """\
assert nt()==(1,2) and nt().x==1
""",
    "an expected exit": """\
try:
  quit()
except SystemExit: pass
""",
    "identity of enum members": """\
assert red() is Color.RED and red()==Color.RED and Color.RED.value==1 and Color['RED']==red() and Color(1)==red()
""",
    "unittest": """\
import unittest
class T(unittest.TestCase):
  def test_a(self):
    self.assertEqual(add(1,2),3)
    with self.assertRaises(ValueError): boom(1)
unittest.main()
""",
    "coroutines": """\
import asyncio
assert asyncio.run(co(1))==2
""",
    "containment in instances that the test has built": """\
bag = Bag()
bag.add(3).add(4)
assert 3 in bag and 5 not in bag and bag.startswith(3)
with Bag() as other:
  other += 7
  assert 7 in other
""",
    "the same object, built here and returned there": """\
bag = Bag()
assert bag.add(3) is bag and bag.add(3) == bag and Bag.last() is bag
assert bag.add(4) is not Bag() and None is not bag
assert bag in [bag.add(5)] and {bag: 1}[bag.add(6)] == 1
""",
    "a module without import": """\
assert math.isclose(add(0.1,0.2),0.3)
""",
}


@pytest.fixture(scope="module")
def runner() -> Iterator[ProcessRunner]:
    runner = ProcessRunner(2)
    yield runner
    runner.close()


@pytest.mark.parametrize("name", TESTS)
def test_works_as_in_one_process(runner: ProcessRunner, name: str) -> None:
    result = runner.execute(AssertRequest(PROGRAM, TESTS[name], limits=Limits(cpu_time_s=2)))
    assert result.report == {"passed": True}, result


@pytest.mark.parametrize(
    ("test", "raised"),
    [
        ("assert add(1, 2) == 4", "AssertionError"),
        ("add(1)", "TypeError"),
        ("boom(1)", "ValueError"),
        ("missing(1)", "NameError"),
        ("Vec(1, 2).z", "AttributeError"),
        ("import unittest\nunittest.TestCase().assertEqual(add(1, 2), 4)", "AssertionError"),
        ("import sys\nsys.exit(1)", "SystemExit"),
    ],
)
def test_says_how_it_failed(runner: ProcessRunner, test: str, raised: str) -> None:
    result = runner.execute(AssertRequest(PROGRAM, test, limits=Limits(cpu_time_s=2)))
    assert result.report == {"raised": raised}


def test_what_the_test_computes_itself_is_not_the_programs_time(runner: ProcessRunner) -> None:
    test = "expected = sum(n * n for n in range(10 ** 7))\nassert add(expected, 0) == expected"
    result = runner.execute(AssertRequest(PROGRAM, test, limits=Limits(cpu_time_s=0.2)))
    assert result.report == {"passed": True}, result
    assert result.cpu_time_s < 0.2


def test_output_that_floods_past_the_test_is_still_a_limit(runner: ProcessRunner) -> None:
    program = "import os\ndef f():\n    for _ in range(300): os.write(1, b'x' * 65536)\n    return 1"
    assert runner.execute(AssertRequest(program, "assert f() == 1")).status is Status.OUTPUT_LIMIT


@pytest.mark.skipif(find_spec("numpy") is None, reason="numpy is not installed")
def test_numbers_and_arrays_of_numpy_cross_by_value(runner: ProcessRunner) -> None:
    program = "import numpy as np\ndef mean(x): return np.mean(x)\ndef twice(x): return np.array(x) * 2\ndef no(): return np.bool_(0)"
    test = (
        "assert mean([1, 2]) == 1.5 and abs(mean([1, 2]) - 1.5) < 1e-9 and not no()\n"
        "assert (twice([1, 2]) == np.array([2, 4])).all() and list(twice([1, 2])) == [2, 4]\n"
        "assert np.array_equal(twice(np.array([[1.5]])), [[3.0]])"
    )
    result = runner.execute(AssertRequest(program, test))
    assert result.report == {"passed": True}, result
