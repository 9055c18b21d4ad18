"""What `data prepare emoji_scenes` may be told, with the small form as default.

The file exists so that the command line, a notebook and the builder's processes share one set of
checked options.
"""

import dataclasses
import os
from typing import Annotated, Literal

from vlp_jax.core.schema import Chance, Range, Size

Count = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes of 0 leave a split out.

    Attributes:
      objects: "small", 24 objects of one word each, or "all" emoji without skin tone.
      most: objects in a scene at most; of single ones test would show kinds that train never does.
      train, val, test, noisy: scenes; test is drawn in the other style.
      vqa_train, vqa_test: questions, three to a scene, on the first scenes of train and test.
      wrong: share of noisy scenes with the captions of another.
      changes: share of the objects of train and noisy that are drawn with small changes of their
        own (changes.py), since the drawings of test are others.
      per_shard: samples of a tar.
    """

    objects: Literal["small", "all"] = "small"
    most: Annotated[int, Range(2, 4)] = 3
    train: Count = 6000
    val: Count = 250
    test: Count = 500
    noisy: Count = 6000
    vqa_train: Count = 9000
    vqa_test: Count = 1500
    wrong: Chance = 0.4
    changes: Chance = 0.0
    per_shard: Size = 1000
    seed: Count = 0
    processes: Size = os.cpu_count() or 1
