"""BLIP-2 fine-tuned to answer questions, VQAv2 (arXiv:2301.12597, section 4.3 and Table 4): at 490
pixels eye and Q-Former learn, the queries read the question too, and the frozen language model goes
on from "Question: ... Answer:".

python -m vlp_jax train --config=configs/blip2/vqa.py:g,opt-2.7b --config.init_from=STAGE2
    --config.fresh="('qformer/(token_embed|pos_embed|layers/at./(mlp|norm2))(/.*)?',)"
    --config.data.path=v2_OpenEnded_..._questions.json --config.data.tokenizer=LM/tokenizer.json
    --config.data.tokenizers.qformer.name=VOCAB.txt --workdir=W

The file exists as that recipe; argument: g or L, and a language model of models/archs. Rate, length
and size are those that the paper's appendix is said to have; blip2.md could not check them. `fresh`
are the words of a Q-Former that came without.
"""

from ml_collections import ConfigDict

from configs.blip2.common import before_lm, encodes, prompted


def get_config(what: str = "g,opt-2.7b") -> ConfigDict:
    """Args: SIZE[,LM]."""
    size, name = [*(what or "g").split(","), ""][:2]
    c = before_lm(size, name or "opt-2.7b", 490, 10, "read")
    kind = "Short answer" if encodes(c) else "Answer"
    prompted(c, 40, f"Question: {{c}} {kind}:", "question")
    c.method.frozen_tower = False
    c.batch_size, c.epochs = 128, 5.0
    c.optim.lr, c.optim.warmup_steps, c.optim.layer_decay = 1e-5, 1000, 0.95
    c.data.path = "vqa/v2_OpenEnded_mscoco_train2014_questions.json"
    c.data.fields.text = {"key": "answers"}  # one of the ten is drawn each time
    c.evals.vqa = {
        "type": "vqa",
        "path": "vqa/v2_OpenEnded_mscoco_val2014_questions.json",
        "prompt": f"Question: {{question}} {kind}:",
        "how": {"beams": 5, "max_new": 10, "length_penalty": -1.0},
    }
    return c
