"""What `data prepare emoji_scenes` may be told, with the small form as default.

The file exists so that the command line, a notebook and the builder's processes share one set of
checked options.
"""

import dataclasses
import os
from typing import Annotated, Literal

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import Chance, Range, Size

Count = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes of 0 leave a split out.

    Attributes:
      objects: "small", 24 objects of one word each, or "all" emoji without skin tone; kinds: so
        many first of these, 0: all.
      most: objects in a scene at most; 1 needs tints, since contents of val and test are in no
        other split.
      tints: share of the kinds of a scene that are drawn, and told, in one colour ("a blue apple").
      styles: "apart", test is drawn in the other style, or "both", any scene in either, which half
        of its captions tell ("in noto style").
      scale: of the objects' sizes; 1.4 lets a single one fill the canvas.
      train, val, test, noisy: scenes.
      vqa_train, vqa_test: questions, three to a scene, on the first scenes of train and test.
      wrong: share of noisy scenes with the captions of another.
      changes: share of the objects of train and noisy that are drawn with small changes of their
        own (changes.py), since the drawings of test are others.
      per_shard: samples of a tar.
    """

    objects: Literal["small", "all"] = "small"
    kinds: Count = 0
    most: Annotated[int, Range(1, 4)] = 3
    tints: Chance = 0.0
    styles: Literal["apart", "both"] = "apart"
    scale: Annotated[float, Range(0.5, 1.4)] = 1.0
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

    def __post_init__(self) -> None:
        """Raises UserError for single objects without tints."""
        if self.most == 1 and not self.tints:
            why = "untinted, test would show kinds that train never does"
            raise UserError(f"scenes.most=1 needs scenes.tints: {why}")
