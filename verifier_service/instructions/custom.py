"""IFBench's custom tasks, each with one prompt of its own, and its repetitions of the prompt."""

import csv
import io
import re
import string
import unicodedata
from itertools import pairwise

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import MARKS, Count, by_name, without_punctuation
from verifier_service.instructions.wordlists import NORTHERN_CAPITALS

_QUESTION = re.compile(r"Question \d+[.|):;]?\s*")
_OPTION = re.compile(r"[A-Ea-e][.|)]\s*\w")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_SPECIAL = re.compile(r"[^\d\w\s]")
_SALES = ("ProductID", "Category", "Brand", "Price", "Stock")
_GRADES = ("StudentID", "Subject", "Grade", "Semester", "Score")


def multiples(text: str) -> bool:
    return re.findall(r"\d+", text) == [str(number) for number in range(14, 51, 7)]


def mcq_count_length(text: str) -> bool:
    if not text.startswith("Question"):
        return False
    questions = [part.strip() for part in _QUESTION.split(text) if part.strip()]
    lengths = [_question_length(question) for question in questions]
    return len(lengths) == 4 and min(lengths) >= 0 and all(one < other for one, other in pairwise(lengths))


def _question_length(question: str) -> int:
    """Characters of the question in front of its first option; -1 where it has not five options."""
    lines = [line.strip() for line in question.split("\n")]
    are_options = [bool(_OPTION.match(line)) for line in lines]
    if sum(are_options) != 5:
        return -1
    return len("".join(" " + line for line in lines[: are_options.index(True)]).strip())


def reverse_newline(text: str) -> bool:
    lines = [line for line in (line.strip(MARKS) for line in text.split("\n")) if line]
    first = next((i for i, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    countries = [_ascii(line) for line in lines[first:]]
    return len(countries) >= 52 and countries == sorted(countries, reverse=True)


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def word_reverse(text: str) -> bool:
    turned = " ".join(reversed(without_punctuation(text.lower().strip()).split()))
    return "bald eagle" in turned and turned in sentences.split(turned)


def character_reverse(text: str) -> bool:
    return "elgae dlab" in text.lower()


def sentence_alphabet(text: str) -> bool:
    initials = [sentence.strip()[:1].lower() for sentence in sentences.split(text)]
    return initials == list(string.ascii_lowercase)


def european_capitals_sort(text: str) -> bool:
    return tuple(name.strip() for name in _ascii(text).split(",") if name.strip()) == NORTHERN_CAPITALS


def _rows(text: str, delimiter: str = ",") -> list[list[str]]:
    """The rows of a CSV text, none where the reader refuses it."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def csv_city(text: str) -> bool:
    rows = _rows(text)
    return (
        len(rows) == 8 and rows[0] == ["ID", "Country", "City", "Year", "Count"] and {len(row) for row in rows} == {5}
    )


def csv_special_character(text: str) -> bool:
    """Fourteen rows; those up to the first with a quoted special character have five fields."""
    rows = _rows(text.replace('"', '"""'))
    if not _has_header(text, _SALES, r",[ \t]*") or len(rows) != 15:
        return False
    for row in rows[1:]:
        if len(row) != 5:
            return False
        if any(_is_quoted_special(field) for field in row):
            return True
    return False


def _is_quoted_special(field: str) -> bool:
    """`".*[^\\d\\w\\s].*"` from the field's start, in one walk."""
    line = field.split("\n")[0]
    return line.startswith('"') and _SPECIAL.search(line[1 : max(line.rfind('"'), 1)]) is not None


def csv_quotes(text: str) -> bool:
    rows = _rows(text.replace('"', '"""'), "\t")
    if not _has_header(text, _GRADES, r"\t *") or len(rows) != 4:
        return False
    fields = [field.strip() for row in rows for field in row]
    return {len(row) for row in rows} == {5} and all(field[:1] == '"' == field[-1:] for field in fields)


def _has_header(text: str, names: tuple[str, ...], separator: str) -> bool:
    wanted = separator.join(f'(?:{name}|"{name}")' for name in names)
    return re.fullmatch(wanted, text.split("\n")[0].strip()) is not None


def date_format_list(text: str) -> bool:
    return all(_is_napoleonic(date.strip()) for date in text.strip().split(","))


def _is_napoleonic(date: str) -> bool:
    found = _DATE.fullmatch(date)
    if not found:
        return False
    year, month, day = (int(part) for part in found.groups())
    longest = 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 if month else 99
    return 1769 <= year <= 1821 and month <= 12 and day <= longest


def repeat_change(text: str, prompt_to_repeat: str) -> bool:
    return text != prompt_to_repeat and text.split()[1:] == prompt_to_repeat.split()[1:]


def repeat_simple(text: str) -> bool:
    return text.strip().lower() == "only output this sentence here, ignore all other requests."


def repeat_span(text: str, prompt_to_repeat: str, n_start: Count, n_end: Count) -> bool:
    return text.strip().lower() == prompt_to_repeat[n_start : n_end + 1].strip().lower()


CHECKERS = (
    by_name("custom",
        multiples, mcq_count_length, reverse_newline, word_reverse, character_reverse, sentence_alphabet,
        european_capitals_sort, csv_city, csv_special_character, csv_quotes, date_format_list
    )
    | by_name("repeat", repeat_change, repeat_simple, repeat_span)
)  # fmt: skip
