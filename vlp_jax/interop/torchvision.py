"""Name table of torchvision's ResNets (resnet18 ... resnet152), which timm and most self-supervised
releases in PyTorch share.

Their stem pads its max-pool on both sides, `pool_padding="torch"` of models/resnet_v1.py. The file
exists to hold this table and nothing else.
"""

from vlp_jax.interop.resnet import counters, residual_stages
from vlp_jax.interop.rules import Table

RESNET = Table(
    "torchvision ResNet",
    residual_stages(""),
    ignored=(r".*num_batches_tracked", r"fc\..*"),
    counters=counters(""),
)
