"""The data of the small form: scenes with people's captions, and with one web text each, of which
40 % are wrong.

The file exists because a web picture has one text, and a scene of `data prepare` several.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlp_jax.data.source import Example

SCENES, WEB = Path("runs/scenes"), Path("runs/scenes_web")
HUMAN = f"{SCENES}/emoji_scenes-train-0000.tar"  # a seventh of all, as COCO and VG are in 14M
TEST = f"{SCENES}/emoji_scenes-test-*.tar"
NOISY = f"{SCENES}/emoji_scenes-noisy-*.tar"


class FirstText:
    """A source whose samples have their first text alone."""

    def __init__(self, whole: Any):
        self.whole, self.damage, self.fingerprint = whole, whole.damage, whole.fingerprint

    def __len__(self) -> int:
        return len(self.whole)

    def where(self, i: int) -> str:
        return self.whole.where(i)

    def metadata(self, i: int) -> Example:
        return _first(self.whole.metadata(i))

    def __getitem__(self, i: int) -> Example:
        return _first(self.whole[i])


def _first(example: Example) -> Example:
    meta = {key: value for key, value in example["meta"].items() if key != "captions"}
    return {**example, "text": example["text"][:1], "meta": meta}


def write_sets(names: Sequence[str]) -> None:
    """Composes the scenes and writes the web set, where they are not there."""
    from vlp_jax.api.data import prepare
    from vlp_jax.data.export import export
    from vlp_jax.data.open import open_source
    from vlp_jax.parallel.hosts import from_first
    from vlp_jax.parallel.startup import first_process

    del names
    if first_process():
        if not (SCENES / "vocab.txt").is_file():
            prepare("emoji_scenes", str(SCENES), changes=1.0)
        if not WEB.is_dir():
            partial = WEB.with_suffix(f".{os.getpid()}")
            export(FirstText(open_source(NOISY)), str(partial))
            partial.rename(WEB)
    from_first("")  # the others wait
