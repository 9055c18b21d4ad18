"""What `Model.score` cuts its texts to where a function does not say how many places it has, and
what an empty prompt is beside others."""

from types import SimpleNamespace

import numpy as np

from vlp_jax.api.writing import _Asked
from vlp_jax.core.fields import Text


def test_a_function_that_names_no_places_limits_no_text():
    mask = np.arange(12) < np.array([[5], [7]])
    texts = {"texts": np.ones((2, 12), np.int32), "texts_mask": mask}
    field = Text(12, 30, mask=True, optional=True)
    model = SimpleNamespace(path="m", text_arrays=lambda field, name: None)
    asked = _Asked(model, {"prompt": field}, "prompt")
    assert asked.beside(0, [""], texts, "texts")["texts"].shape == (2, 8)
    assert asked.room == 12, "the prompt keeps its own"
    assert asked.beside(7, [""], texts, "texts")["texts"].shape == (2, 7)


def test_a_prompt_that_says_nothing_is_none_in_any_company():
    """To a T5, whose tokenizer ends even an empty text; one that goes on keeps its start."""
    words = lambda texts: {  # noqa: E731
        "prompt": np.ones((len(texts), 4), np.int32),
        "prompt_mask": np.ones((len(texts), 4), bool),
    }
    model = SimpleNamespace(path="m", text_arrays=lambda field, name: words)
    for is_open, real in ((False, [0, 4]), (True, [4, 4])):
        field = Text(4, 30, mask=True, optional=True, open=is_open)
        asked = _Asked(model, {"prompt": field}, "prompt")
        assert asked(["", "a"])["prompt_mask"].sum(1).tolist() == real and asked(["", ""]) == {}
