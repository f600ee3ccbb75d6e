"""Lists of words that the checkers and the sentence splitter look words up in."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ABBREVIATIONS = _words(
    "mr mrs ms messrs dr prof sr jr st gen col maj lt adm sen rep reps inc corp co cos ltd bros cie vs ft ave mg yr "
    "chg ok jan feb aug sept sep oct nov dec tues wed fri a.m p.m u.s u.k u.n u.s.a u.s.s.r d.c n.y n.j n.c n.d n.m "
    "n.h n.v s.c s.s w.va l.a ph.d m.b.a a.d a.c r.i ala ariz calif colo conn ct fla ga ill kan ky mich minn nev okla "
    "ore pa tenn va vt wash wis w.w c d e f g h k l m n p r s t v w"
)
STARTERS = _words(
    "he since so both these it nevertheless this indeed however instead under similarly some though while when in "
    "despite although thus there if the nor moreover but they yet many according among meanwhile even i"
)
CAPITALISED_ANYWHERE = _words(
    "a about after all also an and another any are as at because before being by can could did do during each every "
    "few first for from had has have her his how is its just last later let like maybe more my never next no none not "
    "now of often on once one only or other our over perhaps rather second she should take than that their them then "
    "those to today too two until us was we well were what where who why will with would you your"
)
"""Frequent in titles, so that their capital says nothing about where a sentence starts."""

KEPT_WITH_NUMBER = _words(
    "abreast business commodities corrections credit dividend financing insider international leisure letters notable "
    "review who"
)
"""Words that the English model takes to belong to the number in front of them ("1. Business")."""
