"""Numbers as people and models write them, read exactly: no floats, no evaluation."""

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number as it was written: "1{,}234.50 cm" -> Number(Fraction(2469, 2), unit="cm", decimals=2)."""

    value: Fraction
    unit: str = ""
    """What follows the number, in canonical notation; "" where there is nothing."""
    percent: bool = False
    """The value is what stands before the sign: 50% has the value 50."""
    base: str = ""
    """The subscript of a number in a positional system: 123_4 has the base "4" and the value 123."""
    decimals: int | None = None
    """Digits behind the point; None for what is exact by its form (integers, fractions)."""


MAX_DIGITS = 1000
"""Longer numbers are compared as text: arithmetic on them is slow, and Python refuses to read them."""
_MAX_EXPONENT = 400

_PLAIN = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)"
# The exponent of a power of ten: ^{-19}, ^(3), ^4, **4.
_POWER = (
    r"(?:\^|\*\*) ?(?:\{ ?(?P<in_braces>[+-]? ?\d{1,5}) ?\}|\((?P<in_parens>[+-]?\d{1,5})\)|(?P<bare>[+-]?\d{1,5}))"
)
_NUMBER = re.compile(
    r"(?P<sign>[+-] ?)?(?P<currency>[€£¥₹] ?|(?:USD|US|Rs\.?) )?(?:"
    r"(?P<whole>\d{1,9}) ?(?: |and |\+ )(?P<mixed_top>\d{1,9})/(?P<mixed_bottom>\d{1,9})"
    rf"|\{{?(?P<top>{_PLAIN})\}}? ?/ ?(?P<bottom>{_PLAIN})"
    rf"|(?P<mantissa>{_PLAIN})(?:[eE](?P<e>[+-]?\d{{1,5}})(?![\w.])| ?(?:\\times|[xX*]) ?10 ?{_POWER})?"
    rf")(?: ?_ ?\{{? ?(?:\\text ?\{{)?(?P<base>\d{{1,2}})\}}{{0,2}})?(?P<tail>.*)"
)
_FRACTION = re.compile(rf" ?\\frac ?(?:\{{ ?(-? ?{_PLAIN}) ?\}}|(\d)) ?(?:\{{ ?({_PLAIN}) ?\}}|(\d))(?! ?[\d.,])")
_PURE_POWER = re.compile(rf"(?P<sign>[+-] ?)?10 ?{_POWER}(?P<tail>.*)")

_BASED = re.compile(r"\(?(\d{1,50})\)? ?_ ?\{? ?\(?(\d{1,2})\)? ?\}?$")
"""(101)_2 and 101_{(2)}"""

_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALES |= {"万": 10**4, "亿": 10**8}
_SCALE = re.compile(rf" ?(?P<text>\\text ?\{{ ?)?({'|'.join(_SCALES)})(?![a-z]) ?(?P<end>\}})?")
_PERCENT = re.compile(
    r" ?(?:%|\\text ?\{ ?(?:%|percent|per cent) ?\}|percent(?:age)?|per cent|pct)(?![A-Za-z])", re.IGNORECASE
)


_DIGITS = re.compile(r"(-?\d{1,18})(?:\.(\d{1,18}))?")


def _from_digits(whole: str, decimals: str) -> Number:
    """The most frequent form, read without the grammar: digits, maybe with a point."""
    if not decimals:
        return Number(Fraction(int(whole)))
    places = len(decimals)
    return Number(Fraction(int(whole + decimals), 10**places), decimals=places)


def parse_number(text: str) -> Number | None:
    """The number that `text` (canonical) is as a whole, with its unit; None where it is anything else."""
    plain = _DIGITS.fullmatch(text)
    if plain is not None:
        return _from_digits(plain[1], plain[2] or "")
    if "_" in text:
        text = _BASED.sub(r"\1_\2", text)
    if text[:1].isalpha():
        word = _WORD.match(text)
        text = f"{_WORDS[word[1].lower()]}{text[word.end() :]}" if word else text
    if r"\frac" in text:
        text = _FRACTION.sub(_in_line, text)
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_DIGITS + 200 else None
    if match is None:
        return None
    if match["mantissa"] == "10" and match["tail"].startswith(("^", "**")):
        match = _PURE_POWER.fullmatch(text)
        return None if match is None else _finish(match, Fraction(1), "")
    if match["mantissa"] is None:
        return _fraction(match)
    mantissa = match["mantissa"].replace(",", "").replace(" ", "")
    return _finish(match, Fraction(mantissa + "0" if mantissa.endswith(".") else mantissa), mantissa)


_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
}
_WORD = re.compile(rf"({'|'.join(_WORDS)})(?![a-z-]| (?:{'|'.join(_WORDS)})\b)", re.IGNORECASE)


def is_number_word(text: str) -> bool:
    return text.lower() in _WORDS


def _in_line(found: re.Match[str]) -> str:
    """ "\\frac{1}{3}" -> "1/3", and behind a number " and 1/3", so that the digits of the two stay apart."""
    joint = " and " if re.search(r"[\d.,]$", found.string[: found.start()]) else ""
    return f"{joint}{found[1] or found[2]}/{found[3] or found[4]}"


def _fraction(match: re.Match[str]) -> Number | None:
    top, bottom = match.group("mixed_top", "mixed_bottom") if match["whole"] else match.group("top", "bottom")
    numerator, denominator = (Fraction(part.replace(",", "").replace(" ", "").rstrip(".")) for part in (top, bottom))
    if denominator == 0:
        return None
    value = numerator / denominator
    if match["whole"] is not None:
        if not 0 < value < 1:
            return None  # "11 6/6" is no mixed number
        value += int(match["whole"])
    return _finish(match, value, "")


def _finish(match: re.Match[str], value: Fraction, mantissa: str) -> Number | None:
    groups = match.groupdict()
    exponent_text = next((groups[name] for name in ("e", "in_braces", "in_parens", "bare") if groups.get(name)), None)
    exponent = int(exponent_text.replace(" ", "")) if exponent_text else 0
    if abs(exponent) > _MAX_EXPONENT or len(mantissa) > MAX_DIGITS:
        return None
    if exponent:
        value *= Fraction(10) ** exponent
    tail = groups["tail"]
    scale = _SCALE.match(tail)
    if scale:
        value *= _SCALES[scale[2]]
        tail = (r"\text{ " if scale["text"] and not scale["end"] else "") + tail[scale.end() :]
    percent = _PERCENT.match(tail)
    unit = (tail[percent.end() :] if percent else tail).strip()
    if unit and not is_unit(unit, spaced=tail.startswith(" ")):
        return None
    if (match["sign"] or "").startswith("-"):
        value = -value
    base = groups.get("base") or ""
    decimals = len(mantissa.partition(".")[2]) - exponent if "." in mantissa or exponent_text else None
    return Number(value, unit, bool(percent), base, decimals)


# Words behind a number that change it, or that make the whole no number at all.
_NOT_UNITS = re.compile(
    r"\b(?:or|and|mod|choose|to|by|over|minus|plus|times(?! ?\}?$)|not|factorial|squared|cubed|if|base"
    r"|hal(?:f|ves)|thirds?|quarters?|fifths?|pi|sqrt|sin|cos|tan|log|ln|exp|but|maybe|could|might|perhaps|possibly|probably|divided"
    r"|multiplied|modulo|hundred|thousand|million|billion|dozens?|hundreds|thousands|millions|(?:thousand|million|hundred|billion)ths?|tenths?|sixths?|sevenths?|eighths?"
    r"|ninths?|lakhs?|crores?|doubled|tripled|halved|incorrect|wrong|false|is|are|other|either|than)\b|[千百十或和半分]",
    re.IGNORECASE,
)
# Words are possessive and no two alternatives begin alike: a text that is no unit is refused in about one pass.
_UNIT = re.compile(
    r"(?:\\text ?\{(?:[^{}]|\{[^{}]{0,10}\}){1,60}+\}|\^ ?\{? ?\\circ ?\}?|[A-Za-z]{1,20}+|[\u00c5\u4e00-\u9fff]"
    r"|\\(?:mu|Omega|AA|circ|celsius) ?|\^ ?\{? ?-? ?\d\}?|\^\(-?\d\)|[ */.()'-]|(?<=[A-Za-z])\d(?=[ /*)]|$)){1,40}"
)
_LOOSE_DIGIT = re.compile(r"(?<![\^{(A-Za-z-]) ?(?<![\^{(A-Za-z-])\d|[A-Za-z]{2} \d")
_LETTER_UNITS = frozenset(
    "m g s h N J W V A K C F T L l M G Pa Hz eV ms us ns ps in mi yd hp pF nF mF mC ng pg dL cL mN mT mH Gy Sv Bq Wh ly"
    " pc Da um uA uF uL uC".split()
)
"""Letters that are a unit behind a space; "3ms" may be a product."""


_UPRIGHT_LETTER = re.compile(r" *\\text ?\{ ?([A-Za-z]) ?\}(?! ?\\Omega)")
_LARGE_OHMS = re.compile(r"[kM] ?\\Omega")
_DEGREE = re.compile(r"\^ ?\{? ?\\circ")


def is_unit(tail: str, *, spaced: bool) -> bool:
    """Whether `tail` reads as a unit or a counted thing, rather than as a factor or a second answer."""
    if not _UNIT.fullmatch(tail) or _NOT_UNITS.search(tail) or _LOOSE_DIGIT.search(tail):
        return False
    if upright := _UPRIGHT_LETTER.match(tail):
        return upright[1] in _LETTER_UNITS or upright[1] in "tduHSBR"
    first = re.match(r"[A-Za-z]+", tail)
    if first is None:
        return tail[0] in "\\Å" or bool(_DEGREE.match(tail)) or "\u4e00" <= tail[0] <= "\u9fff"
    word = first.group()
    if _LARGE_OHMS.match(tail):
        return True
    if len(word) <= 2:
        return (word in _LETTER_UNITS and spaced) or word in _SHORT_UNITS
    return spaced or word in _SHORT_UNITS


_SHORT_UNITS = frozenset(
    "cm mm km kg mg ml mL nm ft lb oz hr min sec mol atm Pa kPa MPa Hz kHz MHz GHz eV keV MeV GeV kJ kV mV mA mW kW MW"
    " rad deg mph yr dm pm fm ns kN MJ mJ nC pC mT dB mM".split()
)
