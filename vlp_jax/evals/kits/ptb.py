"""Words as the Penn Treebank cuts them, lower-case and without punctuation: what caption scores
count.

Behaviour: the Stanford PTBTokenizer 3.4.1 as pycocoevalcap 1.2 calls it, found by asking it. Odd
results are its own ("?!" is a word, "?" none; "£5" is "# 5"). Scripts and symbols younger than it
are cut by their kind here, which it drops. The file exists because scores of words cut in another
way are not the published ones, and because the reference needs Java.
"""

from collections.abc import Iterator
from functools import cache

import regex

from vlp_jax.evals.kits import ptb_words as words

_MARKS = "'' ' `` ` . ? ! , : - -- ... ;"
REMOVED = frozenset(_MARKS.split())  # by pycocoevalcap
_SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
_BREAK = regex.compile("[\n\r\v\f\u0085\u2028\u2029]")
_LETTER = r"(?:[\p{L}\u02c2-\u02ff--[\U00010000-\U0010ffff]]\p{M}*+\u00ad?)"
_SIGN = rf"(?:{_LETTER}|\p{{Nd}})"
_APOS = "(?:['\u0092\u2019]|&apos;)"
_TICK = "(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
_HYPHEN = "[\\-_\u058a\u2010\u2011]"

_WORD = rf"{_LETTER}{_SIGN}*(?:[.!?]{_LETTER}{_SIGN}*)*"
_AUX = rf"{_APOS}(?i:[msd]|re|ve|ll)"  # it's, they've
_NOT = rf"[nN]{_TICK}[tT]"  # isn't
_FREE = r"(?:[^A-Za-z]|$)"
_ELISION = rf"(?:[dDoOlL]{_TICK}{_SIGN})"  # o'hara
_THING = rf"{_ELISION}?{_SIGN}+(?:{_HYPHEN}{_ELISION}?{_SIGN}+)*"  # 3-year-old
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_COMPOUND = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|{_ACRONYM}\.))+"
_PAIR = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"

_D = r"\p{Nd}"
_NUMBER = rf"[\-+]?(?:{_D}*(?:[.:,\u00ad\u066b\u066c]{_D}+)+|{_D}+)"
_GAP = "[\\- \u00a0]"
_PHONE = (
    rf"(?:\({_D}{{2,3}}\)[ \u00a0]?|(?:\+\+?)?(?:{_D}{{2,4}}{_GAP})?{_D}{{2,4}}{_GAP})"
    rf"{_D}{{3,4}}{_GAP}?{_D}{{3,5}}|(?:(?:\+\+?)?{_D}{{2,4}}\.)?{_D}{{2,4}}\.{_D}{{3,4}}\.{_D}{{3,5}}"
)
_URL_REST = r"""[^\s"<>|(){}]+[^\s"<>|.!?(){},\-]"""
_URL = (
    rf'(?i:https?)://{_URL_REST}|(?:www\.(?:[^\s"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}|'
    rf"""(?:[^\s"`'|!(){{}},-_$]+\.)+(?:com|net|org|edu))(?:/{_URL_REST})?"""
)
_EMAIL = r"""<?[a-zA-Z0-9][^\s"<>|()]*@(?:[^\s"<>|().{}]+\.)*[^\s"<>|().{}]+>?"""
_KEY = r"[A-Za-z][\w:.\-]*"
_TAG = (
    rf"<(?:[!?][A-Za-z\-][^>]*|/?{_KEY}(?: +{_KEY}(?: *= *(?:'[^']*'|\"[^\"]*\"|{_KEY}))?)* */?) *>"
)
_SMILE = "[\\-^x=~<>']"

# (a word, what follows it): the longest with what follows wins, of equal ones the first.
_RULES = (
    ("(?i:cannot|gimme|gonna|gotta|lemme|more'n|wanna|'tis|'twas)", ""),  # in two
    (_URL, ""),
    (_EMAIL, ""),
    (_TAG, ""),
    (r"@[a-zA-Z_][a-zA-Z_0-9]*", ""),
    (rf"#{_LETTER}+", ""),
    (_WORD, _AUX),
    (rf"{_LETTER}+(?<![nN])", _NOT),
    (_WORD, ""),
    (_AUX, _FREE),
    (rf"(?!'){_AUX}", ""),
    (_NOT, _FREE),
    (rf"{_APOS}[nN]{_APOS}?|[lLdDjJ]{_APOS}|[A-HJ-XZn]{_TICK}\p{{L}}{{2,}}|{_APOS}[2-9]0[sS]", ""),
    (rf"\p{{L}}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]\p{{L}}*", ""),  # hawai'i
    (rf"{_APOS}{_D}{{2}}", rf"(?={_SPACE}|$)"),
    (words.ELIDED, ""),
    (rf"[yY]{_APOS}", r"(?=\p{L})"),
    (_THING, ""),
    (rf"{_PAIR}(?:\\?/{_PAIR}){{1,2}}", ""),  # and/or
    (_COMPOUND, ""),
    (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", ""),  # AT&T
    (rf"(?:{words.ABBREVIATED})\.", ""),
    (rf"{words.NUMBERED}\.", rf"(?={_SPACE}?{_D})"),
    (r"[A-Za-z]", rf"\.{_SPACE}+(?:{words.STARTS})(?:{_SPACE}|$)"),
    (rf"{_ACRONYM}\.", ""),
    (rf"{_SIGN}+(?:\.{_SIGN}+)*\.(?i:{words.EXTENSIONS})", r"(?:[\s.?!,]|$)"),
    (rf"(?:{_WORD}|{_THING}|{_COMPOUND})\.", r"(?=[,;:\u3001])"),
    (_NUMBER, ""),
    (rf"{_D}{{1,2}}[\-/]{_D}{{1,2}}[\-/]{_D}{{2,4}}", ""),  # a date
    (rf"(?:{_D}{{1,4}}[\- \u00a0])?{_D}{{1,4}}(?:\\?/|\u2044){_D}{{1,4}}", ""),  # 3 1/2
    (_PHONE, ""),
    (r"[A-Z]*\$|#|[cC](?:\+\+|#)|[fF]#|(?i:-[lr][rsc]b-)", ""),
    (r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]", rf"(?!{_SIGN})"),  # :-)
    (rf"{_SMILE}_{_SMILE}|\({_SMILE}[_.]?{_SMILE}\)", ""),
    (r"[?!]+|\*+|\\\*|@+|##+|_+|<<|>>|-{2,}|\.\.\.|''", ""),
    (words.QUOTES, ""),
    (r"'", r"[A-Za-z]\S"),
    (r"&(?i:lt|gt|amp|quot|apos|nbsp|mdash|ndash|#\p{Nd}+);", ""),
    (words.SYMBOLS, ""),
)
_PLAIN = regex.compile(r"[A-Za-z]++(?= |$)")  # most words need no rule


@cache
def _rules() -> tuple[regex.Pattern, ...]:
    return tuple(regex.compile(f"(?V1)(?p)({word}){after}") for word, after in _RULES)


def _cut(text: str) -> Iterator[str]:
    """The words of one line."""
    at, rules, space = 0, _rules(), regex.compile(_SPACE)
    while at < len(text):
        plain = _PLAIN.match(text, at)
        if plain and plain[0].lower() not in words.SPLIT:
            yield plain[0]
            at = plain.end()
            continue
        found = [] if space.match(text, at) else [rule.match(text, at) for rule in rules]
        best = max(filter(None, found), key=lambda match: match.end(), default=None)
        at += len(best[1]) if best else 1  # a space, or a character that it does not know
        if best and best.re is rules[0]:
            yield from words.SPLIT[best[1].lower()]
        elif best:
            yield words.written(best[1])


def tokenize(text: str) -> str:
    """A caption as lower-case words with single spaces between them; brackets are -lrb- and -rrb-.

    A word that holds a space in the reference ("3 1/2") holds U+00A0.

    >>> tokenize("A dog isn't on the (red) bus, it's 3:30!")
    "a dog is n't on the -lrb- red -rrb- bus it 's 3:30"
    """
    found = (word.lower() for word in _cut(_BREAK.sub(" ", text)))
    return " ".join(word for word in found if word not in REMOVED)
