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

CONJUNCTIONS = _words("and but for nor or so yet")

PRONOUNS = _words(
    "i me we us you he him she her it they them my mine our ours your yours his hers its their theirs "
    "myself ourselves yourself yourselves himself herself itself themselves this that these those "
    "who whom whose which what whoever whomever whatever whichever "
    "anybody anyone anything everybody everyone everything nobody nothing somebody someone something "
    "each either neither both all some any none"
)

STOP_WORDS = _words(
    # pronouns and determiners
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself "
    "it its itself they them their theirs themselves what which who whom this that these those a an the "
    # verbs, and what a tokenizer leaves of their contractions
    "am is are was were be been being have has had having do does did doing can will should just don now "
    "d ll m o re s t ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn "
    "weren won wouldn "
    # conjunctions and prepositions
    "and but if or because as until while of at by for with about against between into through during before after "
    "above below to from up down in out on off over under "
    # adverbs and quantifiers
    "again further then once here there when where why how all any both each few more most other some such no nor not "
    "only own same so than too very"
)

PERSON_NAMES = _words(
    "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin "
    "Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria "
    "Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella "
    "Jonathan"
)
"""The fifty names that the instruction lists."""

NORTHERN_CAPITALS = (
    *("Reykjavik", "Helsinki", "Oslo", "Tallinn", "Stockholm", "Riga", "Moscow", "Copenhagen", "Vilnius", "Minsk"),
    *("Dublin", "Berlin", "Amsterdam", "Warsaw", "London", "Brussels", "Prague", "Luxembourg", "Paris", "Vienna"),
    *("Bratislava", "Budapest", "Vaduz", "Chisinau", "Bern", "Ljubljana", "Zagreb"),
)
"""European capitals north of 45 degrees, from north to south."""

IMPERATIVES = _words(
    "accomplish apologize apply approve assume authorize be begin bring built call celebrate characterize check choose "
    "cling connect consider contend create criticize customize develop did do does driven eliminate embrace "
    "emphasize encourage engage enjoy estimate expect explain fallen generate get give given gone grab had happens has "
    "have hold imagine improve include introduce investigate is justify keep laid learn leave led left let listen look "
    "looks lose lost made offset open organize paid participate perform persuade plead preserve pretend "
    "propose prove provide publish punish put qualify raise read realize recognize recommend remove resolve save say "
    "says see seems seize select send shake sing sold specialize spend spring subtract summarize swing switch take "
    "taken talk tell tend testify think thought threaten throw tighten told transform try turns undertake upset use "
    "utilize verify visit wake want was weave welcome were wonder write writes born"
)
"""First words that the tagger takes for verbs more often than not; most capitalised verbs it takes for names."""

NO_PARTICIPLES = _words(
    "accounting advanced anything balanced ceiling during enhanced everything exceed experienced hundred indeed "
    "interested interesting king married mixed morning nothing satisfied something sophisticated speed succeed thing "
    "trading united wedding"
)
"""They end like participles and are taken for something else."""
