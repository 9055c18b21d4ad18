"""OpenAI's own release of CLIP: TorchScript archives under open_clip's names.

The file exists because their activation stands in the archive's code alone.
"""

from typing import Any

from vlp_jax.interop.families.open_clip import OpenClip
from vlp_jax.interop.family import Config
from vlp_jax.interop.tensors import State


class OpenAI(OpenClip):
    """Read only: it is written as open_clip's."""

    archive = True
    to = ""

    def switches(self, state: State, config: Config) -> dict[str, dict[str, Any]]:
        """QuickGELU always."""
        return self.quick(state, True)


FAMILY = OpenAI()
