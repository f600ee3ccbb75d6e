"""A parser for answers in LaTeX or plain notation. Our own, so that no text is ever evaluated.

    read("x \\in (-\\infty, 2]") -> Node("rel", (sym x, group "(]" (neg inf, num 2)), "in")

Length, depth and size are capped, so reading is linear time; what is beyond the grammar is `Unreadable`, never a guess.
"""

from dataclasses import dataclass
from fractions import Fraction

from verifier_service.mathematics.tokens import CONSTANTS, FUNCTIONS, Token, TooComplex, Unreadable, tokens

MAX_CHARS = 4000
_MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an answer.

    num (value), sym (name), const (pi, e, i, inf); add, mul, div, pow, neg, pm, deg, call (name);
    group (its brackets, as "(]"), list (bare, unordered; joined by ",", "and" or "or"), union, ratio, matrix of rows,
    rel (its operators, joined by commas).
    """

    op: str
    args: tuple["Node", ...] = ()
    value: Fraction | str = ""
    decimals: int | None = None
    """Digits behind the point of a decimal literal; None for what is exact by its form."""

    def walk(self) -> list["Node"]:
        """This node and all below it."""
        found = [self]
        for node in found:
            found += node.args
        return found


_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
    " Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_RELATIONS = {mark: mark for mark in ("=", "<", ">", "<=", ">=", "!=")}
_RELATIONS |= {r"\approx": "~", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"}
_RELATIONS |= {r"\equiv": "congruent", r"\mod": "mod"}
_CLOSING: dict[str, tuple[str, ...]] = {"(": (")", "]"), "[": ("]", ")"), r"\{": (r"\}",)}
_MAX_NAME_TOKENS = 20


def read(text: str, *, thousands: bool = True) -> Node:
    """The answer that `text` (canonical) is. Raises `Unreadable`.

    thousands: "1,234" is one number, not two
    """
    if len(text) > MAX_CHARS:
        raise TooComplex("too long")
    return _Parser(tokens(text, thousands=thousands)).items(end=None)


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = [*found, Token("end", ""), Token("end", "")]
        self._at = 0
        self._depth = 0
        self._bars = 0

    @property
    def _text(self) -> str:
        token = self._tokens[self._at]
        return token.text if token.kind == "mark" else ""

    def _take_any(self) -> Token:
        token = self._tokens[self._at]
        if token.kind == "end":
            raise Unreadable("unexpected end")
        self._at += 1
        return token

    def _take(self, *texts: str) -> bool:
        if self._text in texts and self._text:
            self._at += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise Unreadable(f"expected {text!r}")

    def items(self, end: str | None) -> Node:
        """Relations joined by commas, semicolons, "and" or "or", up to `end`."""
        found, joints = [], set()
        while True:
            found.append(self._relation())
            separated = False
            while self._text in (",", ";", "and", "or"):
                joints.add(self._text)
                self._at += 1
                separated = True
            if not separated or (self._tokens[self._at].kind == "end"):
                break
        if end is None and self._tokens[self._at].kind != "end":
            raise Unreadable(f"unexpected {self._tokens[self._at].text!r}")
        joint = next((word for word in ("and", "or") if word in joints), ",")
        return found[0] if len(found) == 1 else Node("list", tuple(found), joint)

    def _relation(self) -> Node:
        parts, operators = [self._union()], []
        while self._text in _RELATIONS:
            operators.append(_RELATIONS[self._text])
            self._at += 1
            parts.append(self._union())
        if self._take(":"):
            ratio = [parts.pop(), self._union()]
            while self._take(":"):
                ratio.append(self._union())
            parts.append(Node("ratio", tuple(ratio)))
        return parts[0] if not operators else Node("rel", tuple(parts), ",".join(operators))

    def _union(self) -> Node:
        parts = [self._sum()]
        while self._take(r"\cup"):
            parts.append(self._sum())
        return parts[0] if len(parts) == 1 else Node("union", tuple(parts))

    def _sum(self) -> Node:
        self._enter()
        terms = [self._signed()]
        while self._text in ("+", "-", r"\pm"):
            operator = self._text
            self._at += 1
            right = self._signed() if self._text == "-" else self._product()
            terms.append(right if operator == "+" else Node("neg" if operator == "-" else "pm", (right,)))
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def _signed(self) -> Node:
        sign = 0
        while self._text in ("+", "-"):
            sign += self._text == "-"
            self._at += 1
        if sign % 2:
            return Node("neg", (self._product(),))
        if self._take(r"\pm"):
            return Node("pm", (self._product(),))
        return self._product()

    def _product(self) -> Node:
        factors, num_divisions = [self._power()], 0
        while True:
            if self._take("*", r"\times"):
                factors.append(self._signed_factor())
            elif self._take("/"):
                num_divisions += 1
                factors = [Node("div", (_multiplied(factors), self._signed_factor()))]
            elif self._starts_factor():
                factors.append(self._power())
            else:
                return _multiplied(factors)
            if num_divisions > _MAX_DEPTH:
                raise TooComplex("too many divisions")

    def _signed_factor(self) -> Node:
        return Node("neg", (self._power(),)) if self._take("-") else self._power()

    def _starts_factor(self) -> bool:
        token = self._tokens[self._at]
        if token.kind in ("symbol", "const", "function"):
            return True
        if token.kind == "number":
            # Two numbers side by side ("4 4/9", "1 2") are no product.
            return self._at > 0 and self._tokens[self._at - 1].kind != "number"
        if token.text == "|":
            return self._bars == 0
        return token.text in ("(", "[", "{") or (
            token.text.startswith("\\") and token.text[1:] in _PRIMARY_COMMANDS and token.kind == "mark"
        )

    def _power(self) -> Node:
        node = self._primary()
        for _ in range(_MAX_DEPTH):
            if self._take("^", "**"):
                node = self._exponent(node)
            elif self._take("!"):
                node = Node("call", (node,), "factorial")
            elif self._take("%"):
                node = Node("div", (node, Node("num", value=Fraction(100))))
            else:
                return node
        raise TooComplex("too many operators")

    def _exponent(self, base: Node) -> Node:
        if self._take(r"\circ"):
            return Node("deg", (base,))
        if self._text == "{" and self._tokens[self._at + 1].text == r"\circ":
            self._at += 2
            self._need("}")
            return Node("deg", (base,))
        return Node("pow", (base, self._script()))

    def _script(self) -> Node:
        """An exponent: a group, or the next factor with its sign."""
        self._enter()
        negative = self._take("-")
        if not negative:
            self._take("+")
        node = self._primary()
        node = Node("pow", (node, self._script())) if self._take("^", "**") else node
        self._depth -= 1
        return Node("neg", (node,)) if negative else node

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise TooComplex("too deep")

    def _primary(self) -> Node:
        token = self._take_any()
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "symbol":
            return self._symbol(token.text)
        if token.kind == "const":
            return Node("const", value=token.text)
        if token.kind == "function":
            return self._call(token.text)
        return self._marked(token.text)

    def _marked(self, mark: str) -> Node:
        if mark in _CLOSING:
            return self._group(mark)
        if mark == "{":
            node = self.items(end="}")
            self._need("}")
            return Node("group", node.args, "{}") if node.op == "list" else node
        if mark == "|":
            self._bars += 1
            node = self._sum()
            self._bars -= 1
            self._need("|")
            return Node("call", (node,), "abs")
        if not mark.startswith("\\"):
            raise Unreadable(f"unexpected {mark!r}")
        return self._command(mark[1:])

    def _command(self, name: str) -> Node:
        if name == "frac":
            return Node("div", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if name in FUNCTIONS:
            return self._call(name)
        if name in CONSTANTS:
            return Node("const", value=CONSTANTS[name])
        if name in _GREEK:
            return self._symbol("\\" + name)
        if name == "emptyset":
            return Node("group", (), r"\{\}")
        if name == "binom":
            return Node("call", (self._argument(), self._argument()), "binom")
        if name in ("lfloor", "lceil"):
            node = self._sum()
            self._need(r"\r" + name[1:])
            return Node("call", (node,), name[1:])
        if name == "begin":
            return self._matrix()
        if name == "mathbb":
            return Node("sym", value="\\mathbb" + (self._name() if self._text == "{" else self._take_any().text))
        raise Unreadable(f"command {name!r}")

    def _symbol(self, name: str) -> Node:
        token = self._tokens[self._at]
        if self._take("_"):
            name += "_" + (self._name() if self._text == "{" else self._take_any().text)
        elif token.kind == "number" and token.text.isdigit() and len(token.text) <= 2 and name.isalpha():
            # "v0" and "x3" name a symbol: a factor is written in front.
            name += "_" + self._take_any().text
        while self._take("'"):
            name += "'"
        return Node("const" if name in ("e", "i") else "sym", value=name)

    def _name(self) -> str:
        """Whatever stands in the braces of a subscript, an environment or a set's letter."""
        self._need("{")
        parts: list[str] = []
        while not self._take("}"):
            parts.append(self._take_any().text)
            if len(parts) > _MAX_NAME_TOKENS:
                raise Unreadable("name")
        return "".join(parts)

    def _argument(self) -> Node:
        """What a command takes: a group, or one character ("\\frac12" is a half)."""
        token = self._tokens[self._at]
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._tokens[self._at] = Token("number", token.text[1:])
            return _number(token.text[0])
        self._enter()
        node = Node("neg", (self._primary(),)) if self._take("-") else self._primary()
        self._depth -= 1
        return node

    def _root(self) -> Node:
        degree = Node("num", value=Fraction(2))
        if self._take("["):
            degree = self._sum()
            self._need("]")
        return Node("pow", (self._argument(), Node("div", (Node("num", value=Fraction(1)), degree))))

    def _call(self, name: str) -> Node:
        self._enter()
        node = self._applied(name)
        self._depth -= 1
        return node

    def _applied(self, name: str) -> Node:
        base: tuple[Node, ...] = ()
        power: Node | None = None
        if self._take("_"):
            base = (self._argument(),)
        if self._take("^", "**"):
            power = self._script()
        operand = self._operand()
        if name in ("max", "min"):
            if base or power or operand.op != "group":
                raise Unreadable(name)
            return Node("call", operand.args, name)
        node = Node("call", (operand, *base), name)
        if power is None:
            return node
        if power == Node("neg", (Node("num", value=Fraction(1)),)):
            return Node("call", node.args, "arc" + name)
        return Node("pow", (node, power))

    def _operand(self) -> Node:
        """A function's operand without brackets: factors up to a sign, an operator or the next function."""
        if self._text in ("(", "[", "{", "|"):
            return self._power() if self._text != "{" else self._primary()
        negative = self._take("-")
        factors = [self._power()]
        while self._starts_factor() and not self._at_function() and self._text not in ("(", "["):
            factors.append(self._power())
        node = _multiplied(factors)
        if self._take("/"):
            node = Node("div", (node, self._power()))
        return Node("neg", (node,)) if negative else node

    def _at_function(self) -> bool:
        token = self._tokens[self._at]
        return token.kind == "function" or token.text[1:] in FUNCTIONS - {"sqrt"}

    def _group(self, opening: str) -> Node:
        if self._take(r"\}" if opening == r"\{" else ")"):
            return Node("group", (), r"\{\}" if opening == r"\{" else "()")
        bars, self._bars = self._bars, 0
        node = self.items(end=opening)
        self._bars = bars
        closing = next((mark for mark in _CLOSING[opening] if self._take(mark)), None)
        if closing is None:
            raise Unreadable("unbalanced")
        if node.op == "list":
            return Node("group", node.args, opening + closing)
        if opening == r"\{":
            return Node("group", (node,), r"\{\}")
        if opening + closing not in ("()", "[]") or node.op in ("rel", "ratio"):
            raise Unreadable("brackets")
        return node

    def _matrix(self) -> Node:
        name = self._name()
        if name not in ("matrix", "pmatrix", "bmatrix", "Bmatrix"):
            raise Unreadable(name)
        rows = []
        ended = False
        while not ended:
            row = [self._sum()]
            while self._take("&"):
                row.append(self._sum())
            rows.append(Node("row", tuple(row)))
            another = self._take("\\\\")
            ended = self._take(r"\end")
            if not (another or ended):
                raise Unreadable("matrix")
        if self._name() != name:
            raise Unreadable("matrix")
        return Node("matrix", tuple(rows))


_PRIMARY_COMMANDS = (
    FUNCTIONS | _GREEK | frozenset(CONSTANTS) | {"frac", "sqrt", "binom", "lfloor", "lceil", "begin", "{"}
)


def _multiplied(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))


def _number(text: str) -> Node:
    if len(text) >= 12 and text.startswith(("2.7182818284", "3.1415926535")):
        return Node("const", value="e" if text[0] == "2" else "pi")  # written out to the machine's precision
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0) if "." in mantissa else None
    return Node("num", value=Fraction(text), decimals=decimals)
