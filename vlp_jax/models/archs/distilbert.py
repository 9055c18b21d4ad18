"""The sizes of DistilBERT (arXiv:1910.01108): a BERT of half the layers without token types and
pooler.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any

from vlp_jax.models.archs.bert import bert_tower


def distilbert_tower(vocab_size: int) -> dict[str, Any]:
    """Six layers of width 768."""
    return bert_tower(768, 6, 12, vocab_size=vocab_size, types=0, pooler=False)


ARCHS: dict[str, dict[str, Any]] = {
    "distilbert-base-uncased": {"text": distilbert_tower(30522)},  # 66,362,880 parameters
    "distilbert-base-multilingual-cased": {"text": distilbert_tower(119547)},  # 134,734,080
}
