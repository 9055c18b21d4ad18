"""README.md beside the tars of `data prepare emoji_scenes`: what lies there, as it was asked for.

The file exists so that a folder of scenes that is handed on explains itself and keeps its licences.
"""

import dataclasses

from vlp_jax.data.scenes.layout import kinds_of
from vlp_jax.data.scenes.options import Options
from vlp_jax.data.scenes.samples import MOST_CLASSES, SPLITS, size_of

EMOJI = "EMOJI.md"  # the README of the pictures that scenes are made of
_WHAT = {
    "train": "scenes in {noto}",
    "val": "scenes in {noto}, with contents that no other split has",
    "test": "scenes in {twemoji}, with contents that no other split has",
    "noisy": "scenes in {noto}, of which {wrong:.0%} have the captions of another",
    "vqa-train": "questions, three to a scene, about the first scenes of `train`",
    "vqa-test": "questions, three to a scene, about the first scenes of `test`",
}
_TEXT = """\
# Composed scenes of emoji

1 to {most} objects of {objects} kinds on white canvases of 96 px, with all that is known of them
because they are made. Written by

```
{command}
```

which gives the same bytes again (for the same zlib).

| split | samples | |
|---|---|---|
{rows}

WebDataset tars of {per_shard:,} samples, each with its `.index` beside it. Open a split as
`'DIR/emoji_scenes-SPLIT-*.tar'`, DIR being this folder. `sheet.png` shows samples of all.

- `train`, `val`, `test`: `KEY.png`; `KEY.txt`, the first caption; `KEY.json`: `captions` (the first
  without places), `objects` (`name`, `class`, `count`, `box` as top, left, height, width in pixels,
  `area`), `questions`, `conversations` (LLaVA's form), `style`; `KEY.instance.png` (n is the n-th
  object, the last in front){seg}, `KEY.edge.png` (Canny's).
- `noisy`: picture and captions; `KEY.json` has `clean`, whether they are its own, and
  `right_captions`.
- `vqa-train`, `vqa-test`: picture; `KEY.json` has `question`, ten `answers` (at least seven the
  same), `answer` (the commonest), `question_type`, `answer_type`, `scene` (its key in `train` or
  `test`).
- `vocab.txt`: every word of them in BERT's form, for `data.tokenizer`.
- `classes.txt`: line n is class n; 0 is the canvas.

**Changes made to the emoji.** Cut out of their white (what white does not reach from the border is
the object), made larger or smaller and laid on the canvas. {changes} have
other colours, less detail and a bent shape of their own (`--changes`).{tints}

**To train on them**

```
python -m vlp_jax train --config=configs/blip/tiny.py:DIR --workdir=runs/blip
python -m vlp_jax train --config=configs/blip/vqa.py:DIR --workdir=runs/answers
python -m vlp_jax capfilt --captioner=C --filter=F --data='DIR/emoji_scenes-noisy-*.tar' \\
    --truth=clean --out=runs/bootstrapped
```

**Licences.** Noto Emoji, Copyright Google LLC, Apache-2.0{of_noto}.
Twemoji, Copyright Twitter, Inc and other contributors, CC-BY-4.0{of_twemoji}: keep this
attribution where you share their pictures. Names: emojibase (MIT), from Unicode CLDR (Unicode-3.0).
The packages, versions and texts: [{emoji}]({emoji}) and `LICENSES`.
"""
_TINTS = """
{tints:.0%} of the kinds in a scene are drawn, and told, in one colour (`--tints`); `kind` and
`tint` in `KEY.json` are those of the first object.
"""


def readme(options: Options) -> str:
    """The text, of the splits that are asked for."""
    kinds, sizes = len(kinds_of(options)), {name: size_of(options, name) for name in SPLITS}
    apart, both = options.styles == "apart", "either style"
    rows = [f"| {name} | {size:,} | {_WHAT[name]} |" for name, size in sizes.items() if size]
    share = f"{options.changes:.0%} of the objects of `train` and `noisy`"
    return _TEXT.format(
        most=options.most,
        objects=f"{kinds:,}",
        command=command(options),
        rows="\n".join(rows).format(
            wrong=options.wrong,
            noto="Noto's style" if apart else both,
            twemoji="Twemoji's style" if apart else both,
        ),
        per_shard=options.per_shard,
        seg=", `KEY.seg.png` (classes)" if kinds <= MOST_CLASSES else "",
        changes=share if options.changes else "No objects",
        tints=_TINTS.format(tints=options.tints) * bool(options.tints),
        of_noto=" (`train`, `val`, `noisy`, `vqa-train`)" * apart,
        of_twemoji=" (`test`, `vqa-test`)" * apart,
        emoji=EMOJI,
    )


def command(options: Options) -> str:
    """The command that makes them; how many processes is no matter of theirs."""
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default and field.name != "processes"
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return " ".join(["python -m vlp_jax data prepare emoji_scenes", *flags, "--out=DIR"])
