"""VQA's rule: the normaliser by example, accuracy against its definition."""

import pytest

from vlp_jax.evals.kits.answers import accuracy, normalise

CASES = {
    "The Red, bus.": "red bus",
    "black-and-white": "black and white",
    "t-shirt": "t shirt",
    "yes/no": "yes no",
    "1,000": "1000",
    "1,000 - 2,000": "1000 2000",
    "3.5": "3.5",
    "3.": "3",
    "a.m.": "am",
    "u.s.a": "usa",
    "10:30": "10:30",
    "it's": "it's",
    "dont know": "don't know",
    "None": "0",
    "one-way": "1 way",
    "Twenty": "twenty",
    "$5": "$5",
    "'red'": "'red'",
    "what?!": "what",
    "a": "",
    "An apple": "apple",
    "zero ten eleven": "0 10 eleven",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "couldntve": "couldntve",
    "twas oclock yall": "'twas o'clock y'all",
    "somebody'd": "somebodyd",
    "Im Ive": "im ive",
    "a - b-c": "bc",
    "a-b c": "b c",
    "x" + "." * 40: "x" + "." * 8,
    "50%": "50%",
    "b & w": "b & w",
    "": "",
}


@pytest.mark.parametrize("text", CASES)
def test_normaliser(text):
    assert normalise(text) == CASES[text]


@pytest.mark.parametrize(("same", "want"), list(enumerate([0, 0.3, 0.6, 0.9, *[1] * 7])))
def test_accuracy_by_how_many_of_ten_agree(same, want):
    answers = ["red"] * same + [f"blue {i}" for i in range(10 - same)]
    assert accuracy("red", answers) == pytest.approx(want)


def test_answers_that_all_agree_are_compared_as_they_are():
    assert accuracy("The bus", ["bus"] * 10) == 0
    assert accuracy("Bus", ["bus"] * 10) == 0
    assert accuracy(" bus\n", ["bus\t"] * 10) == 1
    assert accuracy("The Bus", ["bus"] * 9 + ["a bus"]) == 1
    assert accuracy("two", ["2"] * 4 + ["3"] * 6) == 1
    with pytest.raises(ValueError, match="no answers"):
        accuracy("a", [])
