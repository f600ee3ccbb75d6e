"""One spelling for answers that can be spelled in many ways: unicode, LaTeX layout, CJK punctuation, dialects."""

import re
import unicodedata

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
)
_WIDE = 0xFEE0
"""From a character of ASCII to its full-width form."""
# Characters that all become the same text.
_REPLACED: tuple[tuple[str, str], ...] = (
    ("−–—‐‑‒﹣", "-"),
    ("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\t\r\n", " "),
    ("\u200b\u200c\u200d\u2060\ufeff", ""),
    ("·⋅∙•∗", "*"),
    ("÷∕⁄", "/"),
    ("′’", "'"),
    ("“”", '"'),
    ("、", ","),
    ("°˚", r"^\circ "),
    ("ℝ", r"\mathbb{R}"),
    *zip("。【】", ".[]", strict=True),
    *((chr(code + _WIDE), chr(code)) for code in range(ord("!"), ord("~") + 1)),
)
_COMMAND_OF = (
    r"× \times √ \sqrt ∞ \infty π \pi ± \pm ≤⩽≦ \le ≥⩾≧ \ge ≠ \ne ≈ \approx ∈ \in ∪ \cup ∩ \cap ∅ \emptyset "
    r"∑ \sum ∏ \prod ∫ \int Δ∆ \Delta ΩΩ \Omega Σ \Sigma Φ \Phi Γ \Gamma µ \mu"
).split()
"""Characters, then what they are called, and so on."""
_FRACTIONS = "½1/2 ⅓1/3 ⅔2/3 ¼1/4 ¾3/4 ⅕1/5 ⅖2/5 ⅗3/5 ⅘4/5 ⅙1/6 ⅚5/6 ⅛1/8 ⅜3/8 ⅝5/8 ⅞7/8"


def _characters() -> dict[int, str]:
    named = [(characters, f"{name} ") for characters, name in zip(_COMMAND_OF[::2], _COMMAND_OF[1::2], strict=True)]
    table = {ord(character): text for characters, text in (*_REPLACED, *named) for character in characters}
    for fraction in _FRACTIONS.split():
        table[ord(fraction[0])] = rf"\frac{{{fraction[1]}}}{{{fraction[3]}}}"
    for digit in range(10):
        table[ord("⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])] = f"^{{{digit}}}"
        table[ord("₀₁₂₃₄₅₆₇₈₉"[digit])] = f"_{{{digit}}}"
    for name in _GREEK.split():
        character = unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
        table[ord(character)] = rf"\{name} "
    return table


_CHARACTERS = _characters()
_SUPERSCRIPT_RUN = re.compile(r"[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPTS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")

# What LaTeX commands become; a name that is not here stays as it is.
_RENAMED: tuple[tuple[str, str], ...] = (
    ("left right bigl bigr Bigl Bigr biggl biggr big Big bigg Bigg displaystyle textstyle limits mathring", ""),
    ("large Large LARGE huge checkmark blacksquare", ""),
    ("mathbf boldsymbol bm mathit mathsf mathtt mathcal emph bf rm it", ""),
    ("quad qquad enspace thinspace space nobreakspace", " "),
    ("dfrac tfrac cfrac nicefrac sfrac", r"\frac"),
    ("dbinom tbinom", r"\binom"),
    ("mathrm textrm textbf textit texttt mbox hbox textnormal operatorname", r"\text"),
    ("leq leqslant", r"\le"),
    ("geq geqslant", r"\ge"),
    ("neq", r"\ne"),
    ("lt", "<"),
    ("gt", ">"),
    ("varnothing", r"\emptyset"),
    ("cdot ast", "*"),
    ("div", "/"),
    ("pmod bmod", r"\mod"),
    ("lvert rvert vert mid", "|"),
    ("backslash", r"\setminus"),
    ("lbrace", r"\{"),
    ("rbrace", r"\}"),
    ("lbrack", "["),
    ("rbrack", "]"),
    ("degree degrees", r"^\circ"),
    ("land", ","),
    ("lor vee", r"\text{ or }"),
    ("imath", "i"),
    ("langle", "("),
    ("rangle", ")"),
    ("overline underline vec hat bar overrightarrow widehat", ""),
    ("sim simeq doteq", r"\approx"),
    ("varepsilon", r"\epsilon"),
    ("varphi", r"\phi"),
    ("vartheta", r"\theta"),
)
_COMMANDS = {name: text for names, text in _RENAMED for name in names.split()}
_MARKS = dict.fromkeys(",;: &", " ") | dict.fromkeys("!()[]$#", "") | {"%": "%", "_": "_"}
_LATEX = re.compile(r"\\\\|,\s*\\!\s*|\\(?P<name>[A-Za-z]+)\*?(?P<gap> *)|\\(?P<mark>[,;: !()\[\]%$&#_])|\{[,:]\}|\$|~")
_SPACES = re.compile(r" {2,}")
TEXT_COMMAND = re.compile(r"\\text ?\{((?:[^{}]|\{[^{}]{0,40}\}){0,400}+)\}")
"""Text within mathematics, in canonical notation; group 1 is what it says."""
# LaTeX that went through one escaping too many; in a matrix the doubled backslash is a new row.
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")


def _latex(match: re.Match[str]) -> str:
    name, mark = match["name"], match["mark"]
    if name is not None:
        known = _COMMANDS.get(name)
        return match.group() if known is None else known + (" " if known[-1:].isalpha() else "")
    if mark is not None:
        return _MARKS[mark]
    token = match.group()
    if token == r"\\":
        return token  # the next row of a matrix
    return token.strip("{}")[0] if token[0] in ",{" else " " if token == "~" else ""


_REPEATING = re.compile(r"(\d{0,12})\.(\d{0,12})\\(?:overline|bar|dot) ?\{? ?(\d{1,12}) ?\}?")


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal as the fraction it is: "0.1\\overline{6}" -> "\\frac{15}{90}"."""
    whole, start, period = match.groups()
    nines = int("9" * len(period) + "0" * len(start))
    return rf"\frac{{{int(whole + start + period) - int((whole + start) or 0)}}}{{{nines}}}"


# A system that is solved; with conditions ("&") it is a function in pieces.
_CASES = re.compile(
    r"(?:\\begin\{cases\}|\\left ?\\\{ ?\\begin\{(?:array|aligned)\} ?(?:\{[lcr]{1,3}\})?)"
    r"(.{0,400}?)\\end\{(?:cases|array|aligned)\}(?: ?\\right ?\.)?",
    re.DOTALL,
)
_CONSTANT = re.compile(r"\\text ?\{([ei])\}")
_COLOUR = re.compile(r"\\(?:text)?color ?\{[A-Za-z]{1,20}\}")
_MODULUS = re.compile(r"\( ?\\?mod ?\{? ?(\w{1,20}) ?\}? ?\)")
_NEARLY = re.compile(
    r"^(?:\\text ?\{ ?)?(?:approximately|approx\.?|about|roughly|around|nearly) ?(?:\} ?)?(?=[-\d$\\])", re.I
)
_NEARLY_STARTS = frozenset("aArRnN\\")
# LaTeX whose backslash was eaten by another language: "\f" and "\b" are control characters there.
_CONTROLS = {0x0C: "\\f", 0x08: "\\b"}


def canonical(text: str) -> str:
    """`text` with unicode, LaTeX layout and white space in one spelling. Linear time.

    "$\\dfrac{1}{2}$。" -> "\\frac {1}{2}", "1\\,000" -> "1 000", "–5" -> "-5", "x²" -> "x^{2}"
    """
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
        text = text.translate(_CHARACTERS)
    elif "\n" in text or "\t" in text:
        text = text.replace("\n", " ").replace("\t", " ")
    if "\f" in text or "\b" in text:
        text = text.translate(_CONTROLS)
    if "\\" in text or "$" in text or "~" in text or "{,}" in text or "{:}" in text:
        if "\\\\" in text and r"\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)
        if r"\end" in text and "&" not in text:
            text = _CASES.sub(lambda lines: lines[1].replace(r"\\", ", "), text)
        text = _CONSTANT.sub(r"\1", _LATEX.sub(_latex, _REPEATING.sub(_repeating, text)))
    if "color" in text:
        text = _COLOUR.sub("", text)
    if "mod" in text:
        text = _MODULUS.sub(r" \\mod \1", text)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    text = text.lstrip(" *:`").removeprefix(r"\approx").lstrip(" ").rstrip(" *.,;:`\\")
    return _NEARLY.sub("", text) if text[:1] in _NEARLY_STARTS else text
