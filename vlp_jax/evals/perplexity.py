"""How well a language model expects the texts of a data set: the exponential of the mean loss of
their tokens, in nats, each text's first token left out.

The file exists so that a language model is measured without pictures, before and after others learn
to write with it.
"""

import dataclasses
import math
from collections.abc import Mapping

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import EvalFn, Evaluator, Result, embed_texts
from vlp_jax.evals.kits.samples import open_samples


@dataclasses.dataclass(frozen=True)
class Perplexity(Evaluator):
    """Config keys: path: data set whose captions are read. limit: of so many samples (0 = all)."""

    limit: int = 0

    requires = ("nats",)

    def measure(self, fns: Mapping[str, EvalFn]) -> Result:
        """Returns metrics perplexity, nats_per_token and bits_per_token.

        Raises:
          UserError: samples without a text.
        """
        source = open_samples(self.path, self.limit)
        texts = [text for i in range(len(source)) for text in source.metadata(i)["text"]]
        if not texts:
            raise UserError(f"path={self.path}: its samples have no texts")
        rows = embed_texts(fns["nats"], texts, self.context)
        nats, tokens = (float(rows[name].sum(dtype="float64")) for name in ("loss", "tokens"))
        mean = nats / max(tokens, 1)
        metrics = {"perplexity": math.exp(min(mean, 700)), "nats_per_token": mean}
        metrics["bits_per_token"] = mean / math.log(2)
        protocol = {"texts": len(texts), "tokens": int(tokens)}
        return Result(metrics, details={"protocol": protocol})
