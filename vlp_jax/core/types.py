"""The dim legend and the few types that every layer shares.

One letter means one thing in every shape comment of the package:

  B batch   N image tokens   T text tokens   D model width   F hidden width of an MLP
  E embedding width   H heads (or image height where W follows)   K width of one head
  L stacked layers   P patch side   V vocabulary   C channels or classes   M captions or prompts

The file exists so that a shape comment can be read without looking for its legend.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Array = jax.Array
Batch = Mapping[str, Array]  # what a train step sees
HostBatch = Mapping[str, np.ndarray]  # what a data pipeline yields: this process's rows
Params = Mapping[str, Any]  # nested dict of float arrays
Extra = Mapping[str, Any]  # non-differentiated state: batch statistics, queues, codebooks
