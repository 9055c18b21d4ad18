"""A word-piece vocabulary of one's own captions, as BERT's (arXiv:1810.04805) and ALIGN's are.

The file exists so that a text tower from scratch can have the vocabulary of its corpus: ALIGN's has
100,000 pieces of its alt-texts (arXiv:2102.05918 section 4.1).
"""

import os
from collections.abc import Iterator
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.source import Source

FRAME = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4


def write_wordpieces(source: Source, out: str, size: int, lowercase: bool = True) -> dict[str, Any]:
    """Learns at most `size` pieces of all captions and writes them as a tokenizer.json, which
    frames a text by [CLS] and [SEP] and pads with id 0.

    Returns {captions, pieces}. Raises UserError: a file in the way, another suffix, no captions.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if not out.endswith(".json") or os.path.exists(out):
        raise UserError(f"{out}: " + ("exists" if os.path.exists(out) else "must end with .json"))
    if size <= len(FRAME):
        raise UserError(f"--size={size}: must be above {len(FRAME)}")
    count = 0

    def captions() -> Iterator[str]:
        nonlocal count
        for i in range(len(source)):
            try:
                texts = source.metadata(i)["text"]
            except DamagedSample:
                continue
            count += len(texts)
            yield from texts

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(FRAME), show_progress=False
    )
    made.train_from_iterator(captions(), trainer)
    if not count:
        raise UserError("no captions to learn word pieces of")
    frame = [(name, FRAME.index(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=frame)
    made.save(out)
    return {"captions": count, "pieces": made.get_vocab_size()}
