"""The caption evaluator: a toy method whose pictures have known captions, through the real loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.core.options import options
from vlp_jax.data.text.bytes import ByteTokenizer
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.caption import _references, bleu, cider_d, rouge_l, tokenize
from vlp_jax.evals.kits.wording import prompted
from vlp_jax.methods.base import Function, Leaf, Method, Part
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.report.gallery import draw_results
from vlp_jax.train.evaluate import make_evaluators, run_evaluators
from vlp_jax.train.functions import Embedder

TOKENIZER = ByteTokenizer(context_length=40)
TEXTS = {0: "A man's red hat.", 64: "two dogs run", 128: "a bus", 192: "a bus"}
PEOPLE = [
    ["A man's red hat!", "the red hat"],
    ["Two dogs (brown) run", "dogs run fast on grass"],
    ["a bus at a stop", "a red bus", "a red bus"],
    ["a cat sleeps"],
]
DOMAINS = [{"domain": "in", "captions": p} for p in PEOPLE[:2]] + [{"domain": "out"}] * 2


@options
class How:
    """max_new: ids that are written."""

    max_new: int = 40


@dataclasses.dataclass(frozen=True)
class Writer(Method):
    """Writes a row of its table by the grey of a picture; after a prompt, the prompt's ids."""

    def fields(self):
        return {"image": Picture(8), "text": Text(40, 259)}

    def parts(self):
        rows = jnp.float32(TOKENIZER(list(TEXTS.values())))
        return {"table": Part(Leaf(lambda rng: rows))}

    def functions(self):
        def write(v, x, how):
            own = jnp.int32(v.params["table"])[x.batch["image"][:, 0, 0, 0] // 64, : how.max_new]
            if "prompt" in x.batch:
                asked = jnp.where(x.batch["prompt_mask"], x.batch["prompt"], TOKENIZER.eot_id)
                own = asked[:, : how.max_new]
            ends = own == TOKENIZER.eot_id
            length = jnp.where(ends.any(1), ends.argmax(1), own.shape[1])
            return {"ids": own[:, None], "length": length[:, None]}

        reads = {"image": Picture(8), "prompt": Text(40, 259, mask=True, optional=True, open=True)}
        return {"generate_text": Function(write, reads, How)}


@pytest.fixture(scope="module")
def functions():
    method = Writer()
    embedder = Embedder(method, make_mesh({"data": 1}, jax.devices()[:1]))
    params, extra = method.init(jax.random.key(0))
    return embedder.bind(params, extra)


def test_a_caption_beside_a_list_is_a_reference_too():
    """The one of a text file, whatever the list holds."""
    sample = {"text": ["a bus", "a red bus"], "meta": {"captions": ["a red bus", "a red bus"]}}
    assert _references(sample, "") == ["a bus", "a red bus", "a red bus"]
    assert _references({"text": ["a bus"], "meta": {"captions": []}}, "") == ["a bus"]
    assert _references(sample, "captions") == ["a red bus"] * 2 and _references(None, "") == []


CONTEXT = EvalContext(TOKENIZER, image_size=8, batch_size=3)


def run(functions, source, **config):
    made = make_evaluators({"caption": {"path": source, **config}}, CONTEXT, Writer())
    return run_evaluators(made, functions)["caption"]


def test_captions_are_scored_as_words(functions, memory_source, tmp_path):
    source = memory_source(list(TEXTS), [list(dict.fromkeys(p)) for p in PEOPLE], DOMAINS)
    result = run(functions, source, group="domain", shown=1)
    assert result.details["captions"] == list(TEXTS.values())
    words, people = list(map(tokenize, TEXTS.values())), [list(map(tokenize, p)) for p in PEOPLE]
    people[2] = people[2][:2]  # equal ones are told once where no JSON lists them
    assert [result.metrics[f"bleu{n}"] for n in (1, 2, 3, 4)] == bleu(words, people).corpus.tolist()
    assert result.metrics["cider_d"] == cider_d(words, people).corpus
    assert result.metrics["rouge_l"] == rouge_l(words, people).corpus
    rolled = rouge_l(words[-1:] + words[:-1], people).corpus
    assert result.metrics["chance_rouge_l"] == rolled < result.metrics["rouge_l"]
    assert result.metrics["distinct"] == 0.75 and result.metrics["words"] == 3
    inside, outside = result.tables["groups"]
    assert (inside["group"], inside["images"], outside["group"]) == ("in", 2, "out")
    assert inside["cider_d"] == cider_d(words[:2], people[:2]).corpus  # over its pictures alone
    assert result.metrics["cider_d_in"] == inside["cider_d"]
    assert result.metrics["cider_d_out"] == outside["cider_d"]
    entries = result.figures["captions"].groups
    assert entries["worst"][0]["said"] == "a bus" and entries["worst"][0]["right"] == PEOPLE[3]
    assert result.tables["captions"][1]["picture"] == "k3"
    ((caption, path),) = draw_results({"mine": result}, str(tmp_path)).items()
    assert caption == "mine: captions, best and worst by CIDEr-D"
    pixels = np.asarray(Image.open(path).convert("L")).astype(int)
    assert (pixels == 192).sum() > 5000 and (pixels == 64).sum() < 500


def test_references_in_json_count_as_often_as_they_are_there(functions, memory_source):
    metas = [{"captions": p, "es": p[0]} for p in PEOPLE]
    source = memory_source(list(TEXTS), [p[:1] for p in PEOPLE], metas)
    words, people = list(map(tokenize, TEXTS.values())), [list(map(tokenize, p)) for p in PEOPLE]
    assert run(functions, source).metrics["cider_d"] == cider_d(words, people).corpus
    one = run(functions, source, caption="es").metrics["cider_d"]
    assert one == cider_d(words, [p[:1] for p in people]).corpus


def test_every_name_is_looked_for(functions, memory_source):
    there = [[{"name": "Hat"}, {"name": "man's"}], ["dog"], ["bus", "us"], []]
    source = memory_source(list(TEXTS), PEOPLE, [{"objects": names} for names in there])
    metrics = run(functions, source, names="objects").metrics
    assert metrics["named"] == 0.75 and metrics["chance_named"] == 0.25


def test_prompts_options_and_damage(functions, memory_source):
    greys, people = [0, 64, 128, 192, 5], [*PEOPLE, [["x"]]]
    people[4], people[1] = ["a man"], []
    source = memory_source(greys, people, damaged={2})
    result = run(functions, source, prompt="a  picture of", how={"max_new": 10})
    assert result.details["kept"].tolist() == [0, 3, 4]  # one has no picture, one no caption
    assert result.details["captions"] == ["a picture"] * 3  # start and nine bytes
    assert result.protocol["damaged"] == 2 and result.protocol["prompt"] == "a  picture of"


def test_a_prompt_has_no_end():
    found = prompted(lambda batch: batch, ["ab", "x" * 50], CONTEXT)({"index": np.arange(2)})
    assert found["prompt"][0, :4].tolist() == [257, 98, 99, 0]
    assert found["prompt_mask"].sum(1).tolist() == [3, 39] and 258 not in found["prompt"]


def test_prompts_leave_the_places_that_they_do_not_need_to_what_follows():
    found = prompted(lambda batch: batch, ["ab", "abcd"], CONTEXT)({"index": np.int32([1, -1, 0])})
    assert found["prompt"].shape == (3, 5) and found["prompt_mask"].sum(1).tolist() == [5, 1, 3]


def test_what_is_refused_before_any_work(memory_source, context):
    bare = memory_source([1, 2], [[], []])
    made = make_evaluator("caption", {"path": bare}, CONTEXT)
    with pytest.raises(UserError, match=r"evals\.caption: no captions"):
        made.check({"path": bare}, "evals.caption")
    with pytest.raises(UserError, match=r"evals\.x\.group='domian': .* did you mean 'domain'"):
        source = memory_source([1, 2], None, [{"domain": "in"}] * 2)
        make_evaluator("caption", {"group": "domian"}, CONTEXT).check({"path": source}, "evals.x")
    with pytest.raises(UserError, match=r"evals\.x\.prompt: 'a a .*' is too long; .* 40 tokens"):
        long = make_evaluator("caption", {"prompt": "a " * 30}, CONTEXT)
        long.check({"path": source}, "evals.x")
    with pytest.raises(UserError, match="no tokenizer that decodes"):
        make_evaluator("caption", {}, context()).check({}, "evals.caption")
    with pytest.raises(UserError, match="shown >= 1"):
        make_evaluator("caption", {"shown": 0}, CONTEXT)
