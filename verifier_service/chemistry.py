"""Chemical formulae and equations: order of the species, charge, state of matter, mhchem and plain notation.

read_species("SO4^2-")          -> Species(composition {S: 1, O: 4}, charge -2)
read_equation("2H2 + O2 -> 2H2O") -> (((2, H2), (1, O2)), ((2, H2O),))
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from verifier_service.mathematics.notation import TEXT_COMMAND, canonical

ELEMENTS = frozenset(
    (
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh "
        "Fl Mc Lv Ts Og D e n "
    ).split()
)
"""Symbols of the elements, with deuterium, the electron and the neutron."""

MAX_CHARS = 500


@dataclass(frozen=True, slots=True)
class Species:
    """One substance: its atoms in the order written, its charge, and its state where one is given."""

    atoms: tuple[tuple[str, int], ...]
    charge: int = 0
    state: str = ""
    isotope: str = ""


Side = tuple[tuple[Fraction, Species], ...]
"""One side of a reaction: coefficients and species."""


_MARKUP = re.compile(r"\\ce ?|\\(?:left|right)(?![a-z])|\\text ?|[${}~]|\\[,;: ]")
_ARROW = re.compile(
    r" *(?:<?-+>|<=+>|=+>?|→|⟶|⇌|⇋|↔|\\(?:long)?(?:left)?rightarrow|\\(?:left)?rightleftharpoons|\\to(?![a-z])"
    r"|\\xrightarrow ?(?:\[[^\]]*\])? ?\{[^{}]*\}) *"
)
_STATE = re.compile(r"[_ ]*\((s|l|g|aq)\)(?:\\downarrow|\\uparrow|[↑↓])?$")
_CHARGE = re.compile(r"\^ ?(?P<count>\d*)(?P<sign>[+-])(?P<late>\d*)$|(?P<bare>[+-])$")
# "Fe3+" is an ion of one atom, "SO42-" one of charge two: the digit at the sign belongs to the charge.
_LATE_CHARGE = re.compile(r"^([A-Z][a-z]?|.*[A-Za-z)\]]_?\d)(\d)([+-])$")
_COEFFICIENT = re.compile(r"(?:(?P<fraction>\d+ ?/ ?\d+|\\frac ?\d ?\d|\d+(?:\.\d+)?) *)?(?P<rest>.*)")
_ISOTOPE = re.compile(r"^(?:_ ?-?\d{1,3})? ?\^ ?(\d{1,3}) ?(?:_ ?-?\d{1,3})?")
_PART = re.compile(
    r"(?P<element>[A-Z][a-z]?|[en](?![a-z]))_? ?(?P<count>\d{0,4})|(?P<open>[(\[])|[)\]]_? ?(?P<times>\d{0,4})"
)


def _plain(text: str) -> str:
    text = TEXT_COMMAND.sub(r"\1", canonical(text))
    return _MARKUP.sub(
        lambda match: " " if match.group().startswith("\\") and match.group()[1] in ",;: " else "", text
    ).strip()


@lru_cache(maxsize=2048)
def read_species(text: str) -> Species | None:
    """The substance that a text is, None where it is none. Linear time."""
    if len(text) > MAX_CHARS:
        return None
    plain = _plain(text).replace(" ", "")
    state = _STATE.search(plain)
    if state:
        plain = plain[: state.start()]
    isotope = _ISOTOPE.match(plain)
    if isotope:
        plain = plain[isotope.end() :]
    plain = _LATE_CHARGE.sub(r"\1^\2\3", plain)
    charge = _CHARGE.search(plain)
    value = 0
    if charge:
        plain = plain[: charge.start()]
        value = int(f"{charge['sign'] or charge['bare']}{charge['count'] or charge['late'] or 1}")
    atoms: list[tuple[str, int]] = []
    for part in re.split(r"[*.]", plain):
        found = _atoms(part)
        if found is None:
            return None
        for element, count in found:  # "CO2H" is "COOH"
            same = atoms and atoms[-1][0] == element
            atoms[-1:] = [(element, atoms[-1][1] + count)] if same else [*atoms[-1:], (element, count)]
    return Species(tuple(atoms), value, state[1] if state else "", isotope[1] if isotope else "")


def _atoms(text: str) -> list[tuple[str, int]] | None:
    """The atoms of one formula unit ("5H2O" of a hydrate among them); None where a token is no element."""
    coefficient = re.match(r"\d{0,3}", text)
    assert coefficient is not None
    position = coefficient.end()
    stack: list[list[tuple[str, int]]] = [[]]
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return None
        position = match.end()
        if match["element"]:
            if match["element"] not in ELEMENTS:
                return None
            stack[-1].append((match["element"], int(match["count"] or 1)))
        elif match["open"]:
            stack.append([])
        else:
            if len(stack) < 2:
                return None
            times = int(match["times"] or 1)
            group = stack.pop()
            stack[-1] += [(element, count * times) for element, count in group]
    times = int(coefficient.group() or 1)
    return [(element, count * times) for element, count in stack[0]] if len(stack) == 1 and stack[0] else None


@lru_cache(maxsize=2048)
def read_equation(text: str) -> tuple[Side, Side] | None:
    """The two sides of the reaction that a text is, None where it is none."""
    sides = _ARROW.split(_plain(text)) if len(text) <= MAX_CHARS else []
    if len(sides) != 2:
        return None
    left, right = map(_side, sides)
    return (left, right) if left and right else None


def _side(text: str) -> Side | None:
    terms = []
    # A plus sign between species stands free or before the next one; that of a charge ends a species.
    separator = r" +\+ +" if " + " in text else r"\+(?=\d*[A-Z(\[])"
    for term in re.split(separator, text):
        match = _COEFFICIENT.fullmatch(term.strip())
        species = read_species(match["rest"]) if match else None
        if match is None or species is None:
            return None
        terms.append((_coefficient(match["fraction"]), species))
    return tuple(terms)


def _coefficient(text: str | None) -> Fraction:
    if not text:
        return Fraction(1)
    digits = re.findall(r"\d", text) if text.startswith("\\") else []
    return Fraction(int(digits[0]), int(digits[1]) or 1) if digits else Fraction(text.replace(" ", ""))


def same_species(one: Species, other: Species) -> bool:
    """The same atoms and charge. A state that only one side names is taken for granted, and so is an isotope that only
    the answer (`other`) names.

    Where an element occurs twice ("CH3OCH3", "CH3CH2OH") the order tells isomers apart, so it has to agree.
    """
    if one.charge != other.charge or (one.state and other.state and one.state != other.state):
        return False
    if one.isotope and one.isotope != other.isotope:
        return False
    if one.atoms == other.atoms:
        return True
    is_unordered = len(dict(one.atoms)) == len(one.atoms)
    return is_unordered and sorted(one.atoms) == sorted(other.atoms)


def same_equation(one: tuple[Side, Side], other: tuple[Side, Side]) -> bool:
    """The same species on each side in any order, with coefficients in the same proportion."""
    factor: Fraction | None = None
    for terms, others in zip(one, other, strict=True):
        left = list(others)
        for coefficient, species in terms:
            found = next((term for term in left if same_species(species, term[1])), None)
            if found is None:
                return False
            left.remove(found)
            ratio = found[0] / coefficient if coefficient else Fraction(0)
            if not ratio or (factor is not None and ratio != factor):
                return False
            factor = ratio
        if left:
            return False
    return True


_ORBITALS = re.compile(r"(?:\[[A-Z][a-z]\])?(?:[1-7][spdf]\d{1,2}){1,20}|sp[23]?(?:d[23]?)?")


def orbitals(text: str) -> str | None:
    """An electron configuration or a hybridisation without layout: "[Ar] 3d^{5} 4s^1" -> "[Ar]3d54s1"."""
    plain = re.sub(r"[\^_ ]", "", _plain(text)) if len(text) <= MAX_CHARS else ""
    return plain if _ORBITALS.fullmatch(plain) else None


_WORDS = frozenset("no in he as be at i is so on of os am us".split())


def _read(text: str) -> str | tuple[Side, Side] | Species | None:
    return orbitals(text) or read_equation(text) or read_species(text)


def is_chemistry(text: str) -> bool:
    """Whether a ground truth is a formula or an equation, rather than a word, a letter or a physical law."""
    found = _read(text)
    if isinstance(found, tuple):
        return _counts(species for side in found for _, species in side)
    if isinstance(found, Species):
        return _plain(text).lower() not in _WORDS and (len(found.atoms) > 1 or _counts([found]))
    return found is not None


def _counts(species: Iterable[Species]) -> bool:
    """At least one species shows a count, a charge or a mass: "F = B" is none, "2H2 + O2 = 2H2O" is a reaction."""
    return any(one.charge or one.isotope or any(count > 1 for _, count in one.atoms) for one in species)


def same_chemistry(gold: str, answer: str) -> bool | None:
    """Whether an answer names the gold's substance or reaction; None where the gold is neither."""
    wanted, said = _read(gold), _read(answer)
    if isinstance(wanted, tuple):
        return isinstance(said, tuple) and same_equation(wanted, said)
    if isinstance(wanted, Species):
        return isinstance(said, Species) and same_species(wanted, said)
    return None if wanted is None else wanted == said
