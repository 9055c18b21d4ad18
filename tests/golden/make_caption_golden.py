"""Golden words of odd captions, made by the Java tokenizer that pycocoevalcap calls.

Run: `python tests/golden/make_caption_golden.py` with pycocoevalcap 1.2 and Java. Writes
`captions/words.json.gz`: [[caption, its words], ...]. Beside it `captions/scores.json` holds five
pictures with the scores of pycocoevalcap. The file exists so that the suite compares with the
reference without Java.
"""

import gzip
import json
import pathlib
import random

OUT = pathlib.Path(__file__).parent / "captions" / "words.json.gz"
COUNT, SEED = 500, 0

CAPTIONS = """
A man riding a wave on top of a surfboard|Two dogs (one brown, one white) play|a 2-year-old boy eats
1/2 of a pizza|It's 5 o'clock somewhere, isn't it?!|A "stop" sign in the U.S. at St. Mary's|people
waiting for the No. 5 bus|b&w photo of a 1950's car|A T-shirt that says "I'm #1!"|man w/ hat & tie|
Two men... one bike|train #42 at 10:30 a.m.|A sign that reads 'Don't Walk'|Mr. & Mrs. Smith's cake,
3 tiers|The colour of the theatre's centre|they'd've cannot gonna|A close-up of a dog's face|
a $5.50 menu: 50% off|naïve café in Zürich|a woman—smiling—on the beach
"""
PIECES = """
can't won't DON'T y'all O'Reilly I'm we've ma'am d'Artagnan 'tis 'twas 'em 'til 'n' 'cause 'bout ol'
dunkin' rock'n'roll fish'n'chips TV's TVs' '90s 60's '05 don’t it’s won‘t “curly” ‘single’ “‘both’”
«guill» „low“ ``latex'' "quoted" 'single' 5'10" 6' 4'x6' hello... wow.... x.. .. a…b … em—dash – --
--- ---- ----- a--b $5.00 £3 €4 ¥5 US$5 C$6 50% #1 #hash @foo @ 5¢ http://www.foo.com/bar?x=1
www.foo.com foo.com a@b.com <a@b.com> file.txt <b>bold</b> <br/> < > <- <3 &lt; &amp; &quot; & AT&T
R&B R&D b&w :) :-) ;) =( :D :P :/ ^_^ -_- (^_^) (paren) [square] {curly} -LRB- -lrb- (( ) 555-1234
+1 1-800-555-1234 12/25/2010 1990s 1,000 1,000.50 .5 -5 3.14. 20th 12x12 5ft. 5½ ½ 3.5mm 10:30pm
café Ürümqi 日本語 привет ñ m² H₂O 5°C ° ★ ♥ ✓ • · ™ ® C++ C# F# a+ x=5 ~5 ^ | _ __ a_b a|b *
** 5*3 What?! ??? !!! yes!no a,b a;b a:b a.b U.S.A. e.g. i.e. etc. vs. Mr. Dr.Smith Ph.D. a.m. Jr.
Inc. Corp. J.R.R. Fig. No. no. pp. non-stop mid-'90s man's-hat 3-D w/ w/o n/a 24/7 km/h and/or a/b/c
// \\ U.S.-based F-16s T-shirt. snake_case 3/4" gov't int'l c'mon li'l foo'sbar n't 's 'd .com :30
"""
ENDS = ("", "", "", ",", ".", "!", "?", ";", ":", "...", "'", '"', ")", "'s", "’s", "-", "/")
STARTS = ("", "", "", '"', "'", "(", "“", "‘", "#", "$", "*", "-")


def odd_captions(count: int = COUNT, seed: int = SEED) -> list[str]:
    """`count` distinct captions of one line: plain ones with odd pieces in them, and marks at their
    words."""
    rng = random.Random(seed)
    pieces = PIECES.split()
    plain = [" ".join(text.split()) for text in CAPTIONS.split("|")]
    found = dict.fromkeys((*plain, *pieces))
    while len(found) < count:
        words = rng.choice(plain).split()
        for _ in range(rng.choice((1, 2, 3))):
            words.insert(rng.randrange(len(words) + 1), rng.choice(pieces))
        at = rng.randrange(len(words))
        words[at] = rng.choice(STARTS) + words[at] + rng.choice(ENDS)
        text = " ".join(words)
        found[text.upper() if rng.random() < 0.05 else text] = None
    return list(found)[:count]


def java_words(texts: list[str]) -> list[str]:
    """The words of each caption by pycocoevalcap's tokenizer; a plain caption between them, since
    Java looks into the next line."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {i: [{"caption": text}, {"caption": "x"}] for i, text in enumerate(texts)}
    return [words for words, _ in PTBTokenizer().tokenize(captions).values()]


def main() -> None:
    """Writes the golden file."""
    texts = odd_captions()
    golden = list(zip(texts, java_words(texts), strict=True))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(gzip.compress(json.dumps(golden, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{OUT}: {len(golden)} captions, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
