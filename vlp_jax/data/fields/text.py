"""Texts: a caption, a text under a JSON key or a further file of the sample, as token ids.

The file exists as the one place that turns a Text field into ids, and that says how long they are.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from einops import rearrange

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Chance
from vlp_jax.data.caption import CHOICES, CaptionSpec, choose_caption
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.fields.base import Reader as Base
from vlp_jax.data.fields.base import Setup, Stream
from vlp_jax.data.source import Example, Source, check_captions, check_key, check_member
from vlp_jax.data.text.rows import text_rows


@dataclasses.dataclass(frozen=True)
class Where:
    """key: which of the captions (data/caption.py), or a JSON key; member: a further file instead
    ("en.txt"); tokenizer: the name of another one than the field's; templates, word_dropout: see
    data/caption.py.
    """

    key: str = "random"
    member: str = ""
    templates: tuple[str, ...] = ()
    word_dropout: Chance = 0.0
    tokenizer: str = ""


def _never(text: str) -> bool:
    return False


class Reader(Base):
    """Rows: the words. Evaluation takes the first caption instead of a random one, whole."""

    Where = Where
    DEFAULTS = {"key": "caption", "templates": "templates", "word_dropout": "word_dropout"}
    PLAIN = "text"

    def __init__(self, name: str, field: Any, setup: Setup):
        super().__init__(name, field, setup)
        where = self.where
        if where.member and "key" in self._given:
            raise UserError(f"{self.flag('key')}: a text has a key or a member; remove one")
        for template in where.templates:
            if "{c}" not in template:
                flag = self.flag("templates")
                raise UserError(f"{flag}: {template!r} has no {{c}} for the caption")
        first = where.key == "random" and not setup.train
        dropout = where.word_dropout if setup.train else 0.0
        choice = "first" if first else where.key
        self.captions = CaptionSpec(choice, where.templates, dropout, where.member)
        self.tokenizer = setup.tokenizers[name]
        # an evaluation leaves no example out
        self._blank = self.tokenizer.blank if setup.train else _never
        # argmax over ids would pool a padding above the end
        self.cut = field.cut and self.tokenizer.pad_id <= self.tokenizer.eot_id

    def settings(self) -> dict[str, Any]:
        """See Reader; which of the captions is drawn does not count, only which there are."""
        spec = self.captions
        choice = "" if spec.choice in ("random", "first") else spec.choice
        how = {"templates": spec.templates, "word_dropout": spec.word_dropout}
        ids = self.tokenizer.fingerprint
        return {"captions": choice, "member": spec.member, **how, "tokenizer": ids}

    def prepare(self, source: Source, path: str) -> None:
        """Raises UserError where no sample has such a text."""
        if self.where.member:
            check_member(source, self.where.member, self.flag("member"))
        elif self.captions.choice in CHOICES:
            check_captions(source, path)
        else:
            check_key(source, self.captions.choice, self.flag("key"))

    def read(
        self, example: Example, stream: Stream, clipped: Counter
    ) -> str | list[tuple[str, float]]:
        """See Reader; of a field with a count (text, share) pairs. Draws: caption, word_dropout,
        template."""
        if self.field.count:
            return self._several(example)
        draws = self.draws(stream)
        return choose_caption(example, self.captions, draws, clipped, self._blank)

    def _several(self, example: Example) -> list[tuple[str, float]]:
        """The commonest texts with their shares; of equally common ones the first, and none of
        which cleaning leaves nothing. Raises DamagedSample."""
        given = self.captions.texts(example)
        texts = [text for text in given if not self._blank(text)]
        if not texts:
            raise DamagedSample("empty_caption" if given else "no_caption")
        common = Counter(texts).most_common(self.field.count)
        return [(text, count / len(texts)) for text, count in common]

    def fits(self, row: str, limit: int) -> bool:
        """Whether the ids of a text that is cut keep to the limit."""
        return not self.cut or self.tokenizer.length(row) <= limit

    def arrays(self, rows: list[Any], limit: int | None = None) -> dict[str, np.ndarray]:
        """NAME, cut at the limit where the field may be, with NAME_mask and NAME_weight where it
        has them."""
        if self.field.count:
            return self._of_several(rows)
        found = text_rows(self.tokenizer, self.field, self.name, rows)
        return {name: array[:, : limit if self.cut else None] for name, array in found.items()}

    def _of_several(self, rows: list[list[tuple[str, float]]]) -> dict[str, np.ndarray]:
        """[B, K, T] of lists of pairs; a place without a text repeats the first with weight 0."""
        size = self.field.count
        full = [[*pairs, *[(pairs[0][0], 0.0)] * (size - len(pairs))] for pairs in rows]
        flat = [text for pairs in full for text, _ in pairs]
        found = text_rows(self.tokenizer, self.field, self.name, flat)
        found = {name: rearrange(a, "(b k) t -> b k t", k=size) for name, a in found.items()}
        weight = np.float32([[share for _, share in pairs] for pairs in full])
        return found | {f"{self.name}_weight": weight}
