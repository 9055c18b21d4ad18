"""BLIP fine-tuned to judge sentences about two pictures, NLVR2 (arXiv:2201.12086, section 5.4 and
Table 14; reference: salesforce/BLIP train_nlvr.py): 384 pixels, 15 epochs.

python -m vlp_jax train --config=configs/blip/nlvr.py:base,PRETRAINED --workdir=W
    --config.data.path=nlvr2/data/train.json --config.data.tokenizer=VOCAB.txt

The file exists as that recipe; argument: base or large, and the folder of a pre-trained model, from
which both cross-attentions of a layer start. In half of the pairs the pictures change places, and
`left` and `right` of bert-base-uncased with them.
"""

from ml_collections import ConfigDict

from configs.blip.common import published, recipe, texts

LEFT, RIGHT = 2187, 2157  # ids of bert-base-uncased


def get_config(what: str = "base") -> ConfigDict:
    """Args: SIZE[,PRETRAINED]."""
    size, _, folder = (what or "base").partition(",")
    c = recipe(published(size, 384, roles="encoder", merge_from=6), "blip_nlvr")
    texts(c, 50)
    c.method.sides = (LEFT, RIGHT)
    c.method.image.drop_path = 0.1
    if folder:
        cross = "text/blocks/second_cross_attn"
        start = {"image": f"{folder}:image", "text": f"{folder}:text"}
        with c.ignore_type():
            c.init_from = {**start, cross: f"{folder}:text/blocks/cross_attn"}
        c.fresh = ("text/merge/.*",)
    c.batch_size, c.epochs = 256, 15.0
    c.optim.lr, c.optim.schedule = 3e-5, "cosine"
    c.data.path = "nlvr2/data/train.json"
    c.data.label = "label"
    c.data.fields.second_image = {"member": "second_image"}
    c.evals.nlvr = {"path": "nlvr2/data/dev.json"}
    return c
