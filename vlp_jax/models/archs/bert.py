"""The sizes of Google's BERT, uncased English (arXiv:1810.04805, section 3), and of the MiniLM of
sentence-transformers.

The file exists so that recipes, converters and tests share one table.
"""

from typing import Any


def bert_tower(width: int, num_layers: int, num_heads: int, **others: Any) -> dict[str, Any]:
    """A BERT with its pooler; heads are 64 wide in the published ones."""
    sizes = dict(width=width, num_layers=num_layers, num_heads=num_heads)
    return dict(name="bert", vocab_size=30522, context_length=512, **sizes) | others


ARCHS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"text": bert_tower(768, 12, 12)},  # 109,482,240 parameters
    "bert-large-uncased": {"text": bert_tower(1024, 24, 16)},  # 335,141,888
    "all-MiniLM-L6-v2": {"text": bert_tower(384, 6, 12, pool="mean")},  # 22,713,216
}
