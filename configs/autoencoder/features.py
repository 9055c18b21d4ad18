"""The stand-in for LPIPS in three minutes of two cores: a narrow ResNet that tells the
sub-categories of the embedded emoji at 32 pixels.

python -m vlp_jax train --config=configs/autoencoder/features.py --workdir=RUN

The file exists so that the small autoencoder is trained with likeness and without a download.
"""

from ml_collections import ConfigDict

from configs.classify.tiny import get_config as classifier
from configs.common import defaults

RESNET = dict(name="resnet_v1", depth=18, width_multiplier=0.25, stem="cifar")


def get_config() -> ConfigDict:
    """No argument."""
    c = classifier()
    c.method.image = ConfigDict({**defaults("resnet_v1"), **RESNET})
    c.method.image.image_size = c.get_ref("image_size")
    c.steps = 400
    return c
