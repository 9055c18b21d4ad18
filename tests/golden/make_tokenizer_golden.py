"""Golden ids of CLIP's tokenizer on odd captions, made by open_clip's SimpleTokenizer.

Run: `python tests/golden/make_tokenizer_golden.py` with open_clip_torch installed. Writes
`tokenizer/clip_ids.json.gz`: [[text, row without padding], ...]. The file exists so that the suite
compares ids with the reference without torch.
"""

import gzip
import json
import pathlib
import random
import runpy

HERE = pathlib.Path(__file__).parent
OUT = HERE / "tokenizer" / "clip_ids.json.gz"
COUNT, SEED = 2_600, 0

ENGLISH = (
    "a photo of a dog", "A Photo Of A DOG.",
    "it's the dogs' toy; they're, we've, I'm, she'll, he'd, don't", "IT'S",
    "rock'n'roll 'twas o'clock y'all'd've", "don\u2019t they\u2019re \u201cquoted\u201d",
    "1234567890", "3.14 2,000 1e-5 4K 60fps", "mid-century modern_chair",
    "snake_case CamelCase kebab-case", "!!!???...", "(a [b] {c} <d>)", "C++ & C# / F#",
    "user@example.com https://example.com/a?b=c&d=e#f", "$5 \u20ac10 \u00a320 \u00a5100 50%",
    "#hashtag @mention", "--- ***", "a" * 60, "ab" * 300, "x" * 2000, "word " * 200,
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "", " ",
    "   leading and trailing   ", "tab\tnew\nline\r\nreturn\x0bvt\x0cff", "multi\n\n\nparagraph",
    "a  b   c    d", "'s 't 're 've 'm 'll 'd 'S 'LL", "''''", "s's's", "dog's'dog", "!dog?cat",
    "50mm f/1.8", "H2O CO2", "\\n \\t \\u0041",
)  # fmt: skip
ENTITIES = (
    "&lt;b&gt;bold&lt;/b&gt;", "&amp;lt;double&amp;gt;", "&amp;amp;amp; triple", "Tom &amp; Jerry",
    "caf&eacute;", "&#39;quoted&#39; &quot;x&quot;", "&#x1F600; &#128512;", "&nbsp;&nbsp;x&nbsp;",
    "&notanentity; &", "AT&T R&D", "&copy 2020", "<p>a &lt; b</p>", "&amp;nbsp;",
    "&#0; &#xD800; &#1114112;", "&lt", "&hearts;&amp;hearts;", "5 &times; 3 &frac12;", "&#8217;s",
)  # fmt: skip
SCRIPTS = (
    "una niña con un piñón y pingüinos", "Ein Mädchen mit Größe ẞ ß", "Çağrı İstanbul ıI",
    "naïve façade Zoë Ångström", "Ελληνικά ΣΊΣΥΦΟΣ ς", "Привет, МИР", "שלום עולם",
    "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३", "สวัสดีชาวโลก", "你好，世界！",
    "一只可爱的小狗在草地上奔跑",
    "こんにちは世界 カタカナ ﾊﾝｶｸ", "안녕하세요 세계", "ＦＵＬＬｗｉｄｔｈ　１２３",
    "ﬁ ﬂ ﬀ ﬃ ligatures",
    "Ⅷ ⅷ ² ³ ½ ① ㊿",
    "ᴴᵉˡˡᵒ ʰⁱ", "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛", "e\u0301 vs \u00e9 n\u0303",
    "Z\u0351\u036b\u0343a\u0309\u0307l\u0308g\u0324o", "ǅ ǆ Ǆ", "\u017ft\u017fs '\u017f",
    "\u212a elvin \u2126", "ქართული ᏣᎳᎩ ᚠᚢᚦ",
)  # fmt: skip
SYMBOLS = (
    "😀", "👩🏽‍🚀 astronaut", "👨‍👩‍👧‍👦", "🏳️‍🌈 🏴‍☠️", "🇪🇸🇯🇵", "❤️ ❤ ♥", "1️⃣ #️⃣", "a😀b😀c",
    "😂😂😂😂😂",
    "👍🏿👍🏻", "™ ® © ℠", "→ ⇒ ↔ ➡️", "✓✔✗", "«guillemets» ‹x› „low“", "… — – ‒ ―", "‰ § ¶ † ‡ •",
    "∀x∈ℝ: x²≥0", "♪ ♫ ♬", "░▒▓█", "¯\\_(ツ)_/¯", "(╯°□°)╯︵ ┻━┻",
)  # fmt: skip
MOJIBAKE = (
    "cafÃ©", "donâ€™t", "â€œquotedâ€\x9d", "naÃ¯ve faÃ§ade", "Ã¼ber", "ðŸ˜€", "æ—¥æœ¬", "Â© 2020",
    "Â£10", "ÃƒÂ©", "l\x92humanit\xe9", "\x85\x91x\x92", "SÃO PAULO", "Ã", "â€¦", "ï»¿bom",
    "\ufeffbom", "broken \ufffd\ufffd",
)  # fmt: skip
CONTROL = (
    "zero\u200bwidth\u200cjoiner\u200d", "\u2060word\u2060joiner", "soft\u00adhyphen",
    "\u202ertl override\u202c", "bell\x07null\x00esc\x1b[31mred\x1b[0m",
    "nbsp\u00a0thin\u2009hair\u200aideographic\u3000x", "line\u2028sep\u2029par", "\x7f\x80\x9f",
    "\U000e0041\U000e0042 tags", "\ufe0f\ufe0e", "\x1c\x1d\x1e\x1f", "\ud800 lone",
    "\ue000 private \U0010ffff", "\u180e\u1680x", "a\u0000b",
)  # fmt: skip
SPECIAL = (
    "<start_of_text>", "<end_of_text>", "a <end_of_text> b", "<START_OF_TEXT> <End_Of_Text>",
    "<start_of_text>glued<end_of_text>", "<\u017ftart_of_text>", "<|startoftext|> <|endoftext|>",
    "&lt;end_of_text&gt;", "&amp;lt;start_of_text&amp;gt;", "<start_of_text", "<<end_of_text>>",
    "</w> a</w>", "<pad> [CLS] [SEP] <s> </s>",
)  # fmt: skip
POOLS = (ENGLISH, ENTITIES, SCRIPTS, SYMBOLS, MOJIBAKE, CONTROL, SPECIAL)


def _scramble(rng: random.Random, text: str) -> str:
    """One small change: case, a cut, a character below U+20000 inserted, words shuffled."""
    kind = rng.randrange(6)
    if kind == 0:
        return text.swapcase()
    if kind == 1:
        return text[: rng.randrange(len(text) + 1)]
    if kind == 2:
        at = rng.randrange(len(text) + 1)
        return (
            text[:at]
            + chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x20000))))
            + text[at:]
        )
    if kind == 3:
        words = text.split(" ")
        rng.shuffle(words)
        return " ".join(words)
    if kind == 4:
        return text.encode("utf-8", "replace").decode("latin-1")  # mojibake made on purpose
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0x3000))))
        for _ in range(rng.randrange(30))
    )


def odd_strings(count: int = COUNT, seed: int = SEED) -> list[str]:
    """`count` distinct captions: the hand-written, then seeded mixtures and scrambles."""
    rng = random.Random(seed)
    found = dict.fromkeys(text for pool in POOLS for text in pool)
    while len(found) < count:
        parts = [rng.choice(rng.choice(POOLS)) for _ in range(rng.choice((1, 2, 2, 3, 5)))]
        text = rng.choice((" ", " ", "", ", ")).join(part[:150] for part in parts)
        text *= rng.choice((20, 80)) if rng.random() < 0.02 else 1
        found[_scramble(rng, text)] = None
    return list(found)[:count]


def main() -> None:
    """Writes the golden file."""
    library = runpy.run_path(str(HERE.parent / "peers" / "conftest.py"))["LIBRARY"]  # noqa: F841 (kept alive)
    from open_clip.tokenizer import SimpleTokenizer

    texts = odd_strings()
    rows = SimpleTokenizer()(texts).numpy()
    ends = rows.argmax(-1)
    golden = []
    for text, row, end in zip(texts, rows, ends, strict=True):
        last = max(int(end), int(row.nonzero()[0][-1]))
        golden.append([text, row[: last + 1].tolist()])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(gzip.compress(json.dumps(golden, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{OUT}: {len(golden)} captions, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
