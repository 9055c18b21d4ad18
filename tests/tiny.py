"""The smallest dual encoder that has everything, and random batches for it.

The file exists so that tests share one set of shapes, and with it the compilation cache.
"""

import numpy as np

from vlp_jax.methods.base import Method, make_method

SIZE, LENGTH, VOCAB = 32, 12, 259
FIELDS = {  # methods on one trunk; all others have two towers
    "classify": {"num_classes": 5},
    "simclr": {"head": {"num_layers": 2, "batch_norm": False}},
    "mae": {"decoder": {"num_layers": 1, "width": 32, "num_heads": 2}},
    "rotation": {},
    "context": dict(picture_size=SIZE, gap=2, jitter=1, hidden=(16,)),
    "jigsaw": dict(picture_size=SIZE, permutations=12, tile_width=8, hidden=(16,)),
    "colorization": dict(widths=(8,), bin_size=20),
    "inpainting": dict(hole=16, overlap=2, widths=(8, 8), critic_widths=(4, 8)),
    "denoising": {},
    "bow": dict(words=8, cutmix=False),
    "caption_words": dict(vocab_size=VOCAB, text_length=LENGTH),
}
PIECES = dict(image_size=8, patch_size=4)  # towers that see pieces of a picture
WHOLE_MAP = dict(pool="none", patch_dropout=0.0)  # tasks that need every token at its place
TOWERS = dict.fromkeys(("context", "jigsaw"), PIECES)
TOWERS |= dict.fromkeys(("colorization", "inpainting", "denoising", "bow"), WHOLE_MAP)
TOWERS |= {"caption_words": WHOLE_MAP}


def tiny_config(name: str = "clip", **changes) -> dict:
    """A `method` section: two layers of width 64, byte vocabulary; `text` is dropped where the
    method has none.
    """
    image = dict(name="vit", image_size=SIZE, patch_size=8, width=64, num_layers=2, head_width=32)
    text = dict(name="text", vocab_size=VOCAB, context_length=LENGTH, width=64, num_layers=2)
    image |= changes.pop("image", {}) | TOWERS.get(name, {})
    text |= {"num_heads": 2} | changes.pop("text", {})
    own = dict(embed_dim=32, text=text) if name not in FIELDS else FIELDS[name]
    return dict(name=name, image=image, unroll=True) | own | changes


def tiny_method(name: str = "clip", **changes) -> Method:
    """The method of `tiny_config`."""
    return make_method(tiny_config(name, **changes))


def tiny_batch(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """image uint8[size, 32, 32, 3], text int32[size, 12] with the end token (258) somewhere and
    text_mask up to it, label int32[size] of five classes.
    """
    rng = np.random.default_rng(seed)
    text = rng.integers(1, 257, (size, LENGTH)).astype(np.int32)
    text[np.arange(size), rng.integers(2, LENGTH, size)] = 258
    image = rng.integers(0, 256, (size, SIZE, SIZE, 3), np.uint8)
    mask = np.cumsum(text == 258, axis=1) - (text == 258) < 1
    text = {"text": text, "text_mask": mask}
    return {"image": image, **text, "label": np.arange(size, dtype=np.int32) % 5}
