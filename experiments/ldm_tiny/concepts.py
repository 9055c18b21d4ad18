"""The data of the study: scenes of one object of sixteen kinds, in either style and in colours.

The file exists because recipes and measures must speak of the same pictures.
"""

from collections.abc import Sequence
from pathlib import Path

from configs.latent_diffusion.tiny import VOCABULARY

SMALL, LARGE = (f"experiments/ldm_tiny/{form}.py" for form in ("small", "large"))
CONCEPTS = Path("runs/concepts")
TRAIN, TEST = (f"{CONCEPTS}/emoji_scenes-{split}-*.tar" for split in ("train", "test"))
KINDS = 16
WORD = "sks"  # of a colour to be learned: a piece of the vocabulary that no caption has
NEW_WORD = "<teal>"  # the same, of textual inversion, which the vocabulary lacks


def prepare_concepts(names: Sequence[str]) -> None:
    """Composes the scenes where they are not there."""
    from vlp_jax.api.data import prepare
    from vlp_jax.parallel.hosts import from_first
    from vlp_jax.parallel.startup import first_process

    del names
    vocabulary = CONCEPTS / "vocab.txt"
    if first_process() and not vocabulary.is_file():
        how = dict(kinds=KINDS, most=1, tints=0.6, styles="both", scale=1.4, changes=0.5)
        sizes = dict(train=6000, val=200, test=400, noisy=0, vqa_train=0, vqa_test=0)
        prepare("emoji_scenes", str(CONCEPTS), **how, **sizes)
    pieces = vocabulary.read_text().splitlines() if first_process() else [WORD]
    if WORD not in pieces:  # and BERT's unused ones, since new words come last
        more = [WORD, *(f"[unused{n}]" for n in range(VOCABULARY - 1 - len(pieces)))]
        vocabulary.write_text("".join(f"{piece}\n" for piece in [*pieces, *more]))
    from_first("")  # the others wait
