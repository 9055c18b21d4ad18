"""Numbers: an array under a JSON key or in a .npy file of the sample.

The file exists so that cached latents, codes and scores travel as pictures do: checked, and counted
as damage where they are not what the method eats.
"""

import dataclasses
import io
from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.fields.base import Reader as Base
from vlp_jax.data.fields.base import Setup, Stream
from vlp_jax.data.source import Example, Source, check_key, check_member, member


@dataclasses.dataclass(frozen=True)
class Where:
    """key: a JSON key, default the field's name; member: a .npy file of the sample instead."""

    key: str = ""
    member: str = ""


class Reader(Base):
    """Rows: dtype[shape]. Floats may become another precision, whole numbers floats that hold them
    exactly; NaN is damage.
    """

    Where = Where

    def __init__(self, name: str, field: Any, setup: Setup):
        super().__init__(name, field, setup)
        if self.where.member and self.where.key:
            raise UserError(f"{self.flag('key')}: numbers have a key or a member; remove one")
        self.key = self.where.key or name

    def prepare(self, source: Source, path: str) -> None:
        """Raises UserError where no sample has the key or the file."""
        if self.where.member:
            check_member(source, self.where.member, self.flag("member"))
        else:
            check_key(source, self.key, self.flag("key"))

    def _values(self, example: Example) -> np.ndarray:
        if not self.where.member:
            if example["meta"].get(self.key) is None:
                raise DamagedSample("no_numbers")
            found = example["meta"][self.key]
            kinds = {isinstance(one, bool) for one in np.asarray(found, object).ravel()}
            return np.asarray(found) if len(kinds) < 2 else np.asarray(found, object)
        file = io.BytesIO(member(example, self.where.member))
        return np.lib.format.read_array(file, allow_pickle=False)

    def read(self, example: Example, stream: Stream, clipped: Counter) -> np.ndarray:
        """See Reader; damage: no_numbers, no_member, bad_numbers, bad_shape, bad_dtype."""
        try:
            found = self._values(example)
        except DamagedSample:
            raise
        except Exception as error:  # ragged lists, and all that numpy raises for a damaged header
            raise DamagedSample("bad_numbers") from error
        wanted = jnp.dtype(self.field.dtype)
        if found.shape != tuple(self.field.shape):
            raise DamagedSample("bad_shape")
        real = jnp.issubdtype(wanted, jnp.floating)
        if found.dtype.kind not in ("fiu" if real else {"b": "b"}.get(wanted.kind, "iu")):
            raise DamagedSample("bad_dtype")
        with np.errstate(over="ignore"):
            made = found.astype(wanted)
        whole = found.dtype.kind != "f"
        lost = made != found if whole or not real else np.isinf(made) != np.isinf(found)
        if np.any(lost):
            raise DamagedSample("bad_dtype")
        if not whole and np.isnan(found).any():
            raise DamagedSample("bad_numbers")
        return made

    def arrays(self, rows: list[np.ndarray], limit: int | None = None) -> dict[str, np.ndarray]:
        """NAME."""
        return {self.name: np.stack(rows)}
