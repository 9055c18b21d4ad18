"""BLIP-2 fine-tuned to answer questions, VQAv2 (arXiv:2301.12597, section 4.3 and Table 4): at 490
pixels eye and Q-Former learn, the queries read the question too, and the frozen language model goes
on from "Question: ... Answer:".

python -m vlp_jax train --config=configs/blip2/vqa.py:g,opt-2.7b,STAGE2,BERT --workdir=W
    --config.data.path=v2_OpenEnded_..._questions.json --config.data.tokenizer=LM/tokenizer.json
    --config.data.tokenizers.qformer.name=VOCAB.txt

The file exists as that recipe; argument: g or L, a language model of models/archs, then the second
stage, and a converted bert-base-uncased, from which the Q-Former's words start. Rate, length and
size are those that the paper's appendix is said to have; blip2.md could not check them.
"""

from ml_collections import ConfigDict

from configs.blip2.common import before_lm, encodes, from_second, prompted, start


def get_config(what: str = "g,opt-2.7b") -> ConfigDict:
    """Args: SIZE[,LM[,STAGE2[,BERT]]]."""
    size, name, second, bert = [*(what or "g").split(","), "", "", ""][:4]
    c = before_lm(size, name or "opt-2.7b", 490, 10, "read")
    start(c, from_second(second, bert) or "")
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
