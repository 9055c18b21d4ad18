"""InstructBLIP (arXiv:2305.06500, section 2.5): the Q-Former of BLIP-2's second stage
learns to read instructions too, 60,000 steps of 192, 128 or 64 pairs for language models of 3, 7,
or 11 and 13 billion parameters; eye and language model stay. No sheet has these numbers: they were
not checked.

python -m vlp_jax train --config=configs/blip2/instructblip.py:g,vicuna-7b-v1.5,STAGE2,BERT
    --config.data.path='COCO/*.tar,VQA/*.tar' --config.data.weights='(0.4, 0.6)' --workdir=W
    --config.data.tokenizer=LM/tokenizer.json --config.data.tokenizers.qformer.name=VOCAB.txt

The file exists as that recipe; argument: g or L, a language model of models/archs, then the second
stage, and a converted bert-base-uncased, from which the Q-Former's words start. A sample says
`instruction` and `answer`; data sets are drawn by the root of their sizes. Vicuna is v1.1 there.
"""

from ml_collections import ConfigDict

from configs.blip2.common import before_lm, from_second, prompted, start

BATCH = {"flan-t5-xl": 192, "flan-t5-xxl": 64, "vicuna-13b-v1.5": 64, "llama-13b": 64}


def get_config(what: str = "g,vicuna-7b-v1.5") -> ConfigDict:
    """Args: SIZE,LM[,STAGE2[,BERT]]."""
    size, name, second, bert = [*(what or "g").split(","), "", "", ""][:4]
    name = name or "vicuna-7b-v1.5"
    c = before_lm(size, name, 224, 256, "read")
    prompted(c, 128, "{c}", "instruction")
    c.data.fields.text = {"key": "answer"}
    c.batch_size, c.steps = BATCH.get(name, 128), 60_000
    start(c, from_second(second, bert) or "")
    c.optim.lr, c.optim.warmup_steps, c.optim.b2 = 1e-5, 1000, 0.999
    c.optim.lr_by_epoch = False
    c.data.path = "instruct/{000..099}.tar"
    return c
