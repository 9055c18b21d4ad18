"""What the recipes of the studies share: the published protocols, and the small form's length.

The file exists so that each recipe states its table and its trends only.
"""

from typing import Any

from vlp_jax.api.study import Column, DataSet, Run
from vlp_jax.core.errors import UserError

CLIP_FULL = "configs/clip/openai.py:ViT-B-32"
CLIP_SMALL = "configs/clip/quickstart.py"
MAE_FULL = "configs/mae/pretrain.py:ViT-L-16"
MAE_SMALL = "configs/mae/tiny.py"
SIMCLR_FULL = "configs/simclr/imagenet.py:r50x1"
SIMCLR_SMALL = "configs/simclr/tiny.py:r18x0.125"
NARROW = {"method.image.width": 64, "method.image.head_width": 32}
CLIP_SIZES = {"method.embed_dim": 128, "method.image.width": 128, "method.image.num_layers": 3}
CLIP_SIZES |= {"method.text.width": 128, "method.text.num_heads": 2}


def small(data: DataSet, steps: int = 300, batch_size: int = 128) -> dict[str, Any]:
    """Changes of every small run: its data, whole pictures, its length."""
    return {
        **{"data.path": data.train, "data.image.crop": "squash", "data.image.eval_crop": "squash"},
        **{"steps": steps, "optim.warmup_steps": steps // 10, "batch_size": batch_size},
        **{"log_every": 20, "checkpoint_every": 250, "keep_checkpoints": 1},
    }


def small_mae(data: DataSet, patch_size: int = 4, steps: int = 300) -> dict[str, Any]:
    """The same, of a narrow MAE: four layers of 64, a decoder of 48; 8 x 8 patches or fewer."""
    sizes = {**NARROW, "method.image.num_layers": 4, "method.decoder.width": 48}
    return {**small(data, steps), **sizes, "method.image.patch_size": patch_size}


def small_simclr(data: DataSet, steps: int) -> dict[str, Any]:
    """The same, of SimCLR on pictures of 24 pixels."""
    return {**small(data, steps), "image_size": 24}


def small_clip(data: DataSet, examples: int, batch_size: int = 128) -> dict[str, Any]:
    """Changes of every small run of CLIP: the quickstart's towers, narrower, and so many examples.

    Raises:
      UserError: a data set without captions.
    """
    if data.grey:
        raise UserError("--data: Fashion-MNIST has no captions; --data='' is the embedded emoji")
    sizes = {**CLIP_SIZES, "steps": examples // batch_size, "batch_size": batch_size}
    return {**sizes, "optim.warmup_examples": examples // 10, "keep_checkpoints": 1}


def evaluators(full: bool, data: DataSet) -> dict[str, Any]:
    """The probe of the small form; the full one is measured by its follow-ups."""
    return {} if full else {"probe": data.evaluator()}


def linear(full: bool) -> Column:
    """Top-1 of the linear classifier in per cent; of the small form the mean of the classes, which
    is the same on Fashion-MNIST, whereas one concept is 27 % of the emoji's test pictures."""
    return Column("linear.test.top1" if full else "probe.mean_per_class")


def mae_follow_ups(full: bool) -> dict[str, Run]:
    """Linear probe and fine-tuning of MAE (its Tables 9 and 10)."""
    if not full:
        return {}
    starts = {"linear": "{run}:image/.*", "tuned": "{run}:image/(?!norm_post).*"}
    files = {"linear": "linear_probe", "tuned": "finetune"}
    return {
        name: Run(config=f"configs/classify/{files[name]}.py:ViT-L-16", changes={"init_from": run})
        for name, run in starts.items()
    }


def simclr_follow_ups(full: bool) -> dict[str, Run]:
    """Linear evaluation of SimCLR (section B.6)."""
    return {"linear": Run(config="configs/classify/simclr_linear.py:{run}")} if full else {}
