r"""Words that the Penn Treebank tokenizer knows: abbreviations, elisions, signs, and how it writes
them.

Behaviour: that of the Stanford PTBTokenizer 3.4.1, found by asking it about each. The file exists
so that the rules (ptb.py) can be read without the lists.
"""

import regex


def _either(words: str) -> str:
    return "|".join(words.split())


def _capital(words: str) -> str:
    """Each of some words from a capital on."""
    return "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in words.split())


def _small(words: str) -> str:
    """Each of some words, its first letter alone in either case."""
    return "|".join(f"(?i:{word[0]}){word[1:]}" for word in words.split())


# With a full stop of their own, in any case.
_ANY = r"""
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec
    ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun
    kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr mrs ms msgr mt natl
    neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev rt sen sens sep sept
    seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed
    wis wisc wm wyo [a-z] (?:ed|ph)\.d
"""
_CAPITALS = _capital("ark az del ill la mass miss ore pa tex wash")
ABBREVIATED = f"(?i:{_either(_ANY)})|{_CAPITALS}|{_small('mfg mtg ppty ptes? ptys?')}"
NUMBERED = "(?i:art|ca|figs?|nos?|pp|prop)"  # with a full stop before a number
STARTS = (  # a word with which a sentence begins: the letter before it has no full stop of its own
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|"
    "Many|More|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|"
    r"This|We|What|When|While|Yet|You|Mr\.|Ms\."
)
ELIDED = (
    "(?i:(?:dunkin|somethin|ol)['\u2019]|['\u2019](?:em|till?|cause)|nor'easter|c'mon|s'mores|e'er|"
    r"ev'ry|li'l|cont'd\.?|o'o|nat'l)"
)
EXTENSIONS = (
    "bat|bmp|class|cgi|cpp|c|docx?|dll|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|"
    "ppt|ps|py|sql|tar|txt|wav|xml|x|zip"
)
SYMBOLS = (  # that are words of their own; what else is neither a letter nor a digit is dropped
    r"[!-/:-@\[-`{-~]|[\p{S}\p{P}\p{No}\u0080\u0091-\u0094\u0096\u0097&&[\u0080-\u00bf\u00d7\u00f7]]|"
    r"[\p{S}\p{P}\p{No}&&[\u037e\u0387\u0589\u05be\u05c0\u05c3\u060c\u061b\u061f\u0e3f\u2013-\u2053"
    r"\u2055-\u205e\u2070-\u20a0\u20a4\u20ac\u2100-\u2b4f\u3001-\u3003\uff01-\uffe6]]"
)
SPLIT = {
    "cannot": ("can", "not"),
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "more'n": ("more", "'n"),
    "wanna": ("wan", "na"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_WRITTEN = {
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    **{"\u00a2": "cents", "\u00a3": "#", **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$")},
    **{"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": "''", "&apos;": "'", "&nbsp;": "."},
    **dict.fromkeys(("&mdash;", "&ndash;", *"\u0096\u0097\u2013\u2014\u2015"), "--"),
    **dict.fromkeys(("--", "---", "----"), "--"),  # five and more stay
    **{"&LT;": "<", "&GT;": ">", "&AMP;": "&", "\u2026": "...", '"': "''"},
    **{"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"},
}
_QUOTES = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
    **{mark: mark for mark in "`\u201a\u201e\u201f"},  # low ones stay
}
QUOTES = f"[{''.join(_QUOTES)}]{{1,2}}"
_CLITIC = regex.compile(r"(?i)(.|&apos;)(?:[msd]|re|ve|ll)|n(.|&apos;)t")


def written(word: str) -> str:
    """A word as it is written."""
    if word in _WRITTEN:
        return _WRITTEN[word]
    if _QUOTES.keys() >= set(word):
        return "".join(_QUOTES[mark] for mark in word)
    plain = word.replace("&amp;", "&").replace(" ", "\u00a0").replace("\u00ad", "")
    found = _CLITIC.fullmatch(plain)
    if found:
        tick = found[1] or found[2]
        return plain.replace(tick, _QUOTES.get(tick, "'" if tick == "&apos;" else tick))
    if (plain[0] == "<" and len(plain) > 3) or "/" in plain:  # a mark of a page, an address
        return plain
    return plain.replace("(", "-lrb-").replace(")", "-rrb-")
