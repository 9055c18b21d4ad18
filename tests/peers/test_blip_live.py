"""Live parity with transformers' three BLIP classes: random weights through converted files, and
back. What transformers does otherwise than salesforce/BLIP (blip.md 6) is set right here: [ENC] is
fed by hand, heads and eps are said, and questions come without padding.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402
from vlp_jax.nn.cache import take_rows  # noqa: E402

V, T, DEC = 120, 9, 118
TEXT = dict(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=20, bos_token_id=DEC, eos_token_id=2,
            sep_token_id=2, pad_token_id=0)  # fmt: skip
VISION = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
              image_size=32, patch_size=8)  # fmt: skip
ODD = (  # changes of TEXT, of VISION
    dict(hidden_size=44, intermediate_size=70, num_hidden_layers=3, layer_norm_eps=1e-6),
    dict(hidden_size=40, num_attention_heads=5, image_size=24, intermediate_size=52,
         layer_norm_eps=1e-6, num_hidden_layers=1, hidden_act="gelu_pytorch_tanh"),
)  # fmt: skip

rng = np.random.default_rng(0)
IDS = rng.integers(3, DEC, (4, T)).astype(np.int32)
MASK = np.arange(T) < np.array([[9], [6], [2], [4]])


def near(name, found, wanted, limit=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit, err_msg=name)


def build(kind, text=(), vision=(), **others):
    """A random network of transformers, its biases and gains away from 0 and 1."""
    config = transformers.BlipConfig(
        text_config=TEXT | dict(text), vision_config=VISION | dict(vision), **others
    )
    model = getattr(transformers, kind)(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in {id(p): p for p in model.parameters()}.values():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def both_ways(model, folder):
    """(ours, transformers' of our export)."""
    model.save_pretrained(folder / "hf")
    assert convert.main([str(folder / "hf"), str(folder / "ours")]) == 0
    assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
    back, report = type(model).from_pretrained(folder / "back", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    return load_model(str(folder / "ours")), back.eval()


def pictures(model):
    side = model.method.image_tower.image_size
    image = rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    pixels = np.array(model.method.prepare(image, None)).transpose(0, 3, 1, 2)
    return image, torch.from_numpy(pixels)


def ours(model, name, batch):
    run = model.method.functions()[name]
    return np.asarray(run(Vars(model.params, model.extra), Inputs.of(batch)))


def started(first):
    ids = IDS.copy()
    ids[:, 0] = first
    return ids, torch.from_numpy(ids).long(), torch.from_numpy(MASK).long()


MARGIN = {}, dict(image_size=27)  # three pixels that fill no patch: a convolution does not see them


@pytest.mark.parametrize("text, vision", [({}, {}), ODD, MARGIN], ids=["plain", "odd", "margin"])
def test_captions(text, vision, tmp_path):
    model = build("BlipForConditionalGeneration", text, vision)
    loaded, back = both_ways(model, tmp_path)
    image, pixels = pictures(loaded)
    ids, given, mask = started(DEC)
    with torch.no_grad():
        out = model(pixels, given, mask)
        again = back(pixels, given, mask)
        hidden = model.text_decoder.bert(
            given, mask, encoder_hidden_states=out.last_hidden_state, is_decoder=True
        ).last_hidden_state
    near("caption image states", ours(loaded, "image_states", {"image": image}),
         out.last_hidden_state)  # fmt: skip
    states = np.asarray(out.last_hidden_state)
    read = dict(params=loaded.params["text"])
    tokens, _ = loaded.method.text_net.apply(read, ids, MASK, states, mode="decode")
    near("caption text states", np.asarray(tokens)[MASK], hidden[MASK])
    batch = {"image": image, "text": ids, "text_mask": MASK}
    near("caption logits", ours(loaded, "lm_logits", batch)[MASK], out.logits[MASK])
    near("caption back", again.logits, out.logits)


def test_prompts_of_unequal_length_go_on_as_in_transformers(tmp_path):
    """Greedy words after prompts that are padded on the right here, on the left there."""
    model = build("BlipForConditionalGeneration")
    loaded, _ = both_ways(model, tmp_path)
    _, pixels = pictures(loaded)
    lengths, more = np.array([3, 1, 4, 2]), 5
    prompts = IDS[:, :4].copy()
    prompts[:, 0] = DEC
    left = np.zeros_like(prompts)
    for row, length in enumerate(lengths):
        left[row, 4 - length :] = prompts[row, :length]
    with torch.no_grad():
        states = model.vision_model(pixels).last_hidden_state
        wanted = model.text_decoder.generate(
            input_ids=torch.from_numpy(left).long(),
            attention_mask=torch.from_numpy(left > 0).long(),
            encoder_hidden_states=states,
            max_new_tokens=more,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    net, read = loaded.method.text_net, dict(params=loaded.params["text"])
    context = net.apply(read, None, context=np.asarray(states), mode="look")
    run = lambda *args: net.apply(read, *args, mode="decode")[1]  # noqa: E731
    cache = net.empty_cache(4, 4 + more)
    out = run(prompts, np.arange(4) < lengths[:, None], context, cache)
    logits = np.asarray(out["logits"])[np.arange(4), lengths - 1]
    for step in range(more):
        near(f"generate step {step}", logits, wanted.logits[step], 2e-5)
        word = logits.argmax(-1)
        np.testing.assert_array_equal(word, wanted.sequences[:, 4 + step])
        out = run(word[:, None], None, context, take_rows(out["cache"], np.arange(4)))
        logits = np.asarray(out["logits"])[:, 0]


@pytest.mark.parametrize("text, vision", [({}, {}), ODD], ids=["plain", "odd"])
def test_matching(text, vision, tmp_path):
    model = build("BlipForImageTextRetrieval", text, vision, image_text_hidden_size=24)
    loaded, back = both_ways(model, tmp_path)
    image, pixels = pictures(loaded)
    ids, given, mask = started(DEC + 1)  # [ENC], which transformers does not put there
    with torch.no_grad():
        out, again = (m(given, pixels, True, mask) for m in (model, back))
    batch = {"image": image, "text": ids, "text_mask": MASK}
    near("ITM", ours(loaded, "match", batch), out.itm_score)
    near("ITM back", again.itm_score, out.itm_score)
    read = dict(params=loaded.params["text"])
    states = np.asarray(out.last_hidden_state)
    tokens, _ = loaded.method.text_net.apply(read, ids, MASK, states, mode="ground")
    near("ITM text states", np.asarray(tokens)[MASK], out.question_embeds[MASK])
    ids, given, mask = started(1)
    with torch.no_grad():
        cosines = model(given, pixels, False, mask).itm_score
    rows = ours(loaded, "embed_image", {"image": image})
    words = ours(loaded, "embed_text", {"text": ids, "text_mask": MASK})
    near("ITC", rows @ words.T, cosines)


@pytest.mark.parametrize("text", [{}, dict(num_attention_heads=8, intermediate_size=50)])
def test_answers(text, tmp_path):
    model = build("BlipForQuestionAnswering", text, dict(hidden_size=32, intermediate_size=60))
    loaded, back = both_ways(model, tmp_path)
    image, pixels = pictures(loaded)
    ids, given, _ = started(DEC + 1)
    answer, answer_given, answer_mask = started(DEC)
    answer, answer_mask = answer[:, :5], answer_mask[:, :5]

    def logits(model):
        """As its forward pass, which gives no logits, on questions without padding: its
        cross-attention loses the mask that it is given."""
        states, found = model.vision_model(pixels).last_hidden_state, []
        for row, count in enumerate(MASK.sum(1)):
            one = slice(row, row + 1)
            how = dict(encoder_hidden_states=states[one])
            read = model.text_encoder(given[one, :count], **how).last_hidden_state
            how = dict(encoder_hidden_states=read)
            out = model.text_decoder(answer_given[one, :5], answer_mask[one], **how)
            found.append(out.logits)
        return torch.cat(found)

    with torch.no_grad():
        wanted, again = logits(model), logits(back)
    real = np.asarray(answer_mask) > 0
    batch = {"image": image, "text": ids, "text_mask": MASK, "answer": answer, "answer_mask": real}
    near("VQA", ours(loaded, "answer_logits", batch)[real], wanted[real])
    near("VQA back", again, wanted)


@pytest.mark.parametrize("how", [{}, {"beams": 3, "min_new": 2}], ids=["greedy", "beams"])
def test_answers_are_those_of_transformers(how, tmp_path):
    """25 random questions of 3 to 9 ids, each without padding in a call of its own there."""
    model = build("BlipForQuestionAnswering", {}, dict(hidden_size=32, intermediate_size=60))
    with torch.no_grad():  # words as sure as a trained model's, of the question, and ends
        for layer in model.text_decoder.bert.encoder.layer:
            layer.crossattention.output.dense.weight.mul_(30)
        model.text_decoder.cls.predictions.transform.LayerNorm.weight.mul_(6)
        model.text_decoder.cls.predictions.bias[2] += 4
        model.text_decoder.cls.predictions.bias[0] -= 99  # padding is no word
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded, count, most = load_model(str(tmp_path / "ours")), 25, 8
    image = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    pixels = np.array(loaded.method.prepare(image, None)).transpose(0, 3, 1, 2)
    lengths = rng.integers(3, 10, count)
    mask = np.arange(9) < lengths[:, None]
    ids = rng.integers(3, DEC, (count, 9)).astype(np.int32) * mask
    ids[:, 0] = DEC + 1
    batch = {"image": image, "text": ids, "text_mask": mask}
    function = loaded.method.functions()["generate_answer"]
    found = jax.jit(lambda v, x: function(v, x, {"max_new": most, **how}))(
        Vars(loaded.params, loaded.extra), Inputs.of(batch)
    )
    names = dict(beams="num_beams", min_new="min_new_tokens")
    given = {names[key]: value for key, value in how.items()}
    same, ended, kinds = 0, 0, set()
    for row, length in enumerate(lengths):
        with torch.no_grad():
            wanted = model.generate(
                input_ids=torch.from_numpy(ids[row : row + 1, :length]).long(),
                pixel_values=torch.from_numpy(pixels[row : row + 1]),
                max_new_tokens=most,
                do_sample=False,
                **given,
            )[0].tolist()
        assert wanted[0] == DEC
        words = wanted[1 : [*wanted, 2].index(2)]
        ours = np.asarray(found["ids"])[row, 0, : int(found["length"][row, 0])].tolist()
        same, ended = same + (ours == words), ended + (len(words) < most)
        kinds.add(tuple(words))
    print(f"{how}: {same} of {count}, {ended} ended, {len(kinds)} different")
    assert ended > 5 and len(kinds) > 5
    assert same == count


def test_likelihoods_are_those_of_the_losses_of_transformers(tmp_path):
    """Answers to questions without padding: the loss of a text without label smoothing is its mean
    over the tokens."""
    model = build("BlipForQuestionAnswering", {}, dict(hidden_size=32, intermediate_size=60))
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    image, pixels = pictures(loaded)
    ids, given, _ = started(DEC + 1)
    answers, real = np.zeros((4, 6, 5), np.int32), np.zeros((4, 6, 5), bool)
    wanted = np.zeros((4, 6))
    for row, length in enumerate(MASK.sum(1)):
        for k in range(6):
            text = [DEC, *rng.integers(3, DEC, rng.integers(1, 4)), 2]
            answers[row, k, : len(text)], real[row, k, : len(text)] = text, True
            with torch.no_grad():
                out = model(
                    input_ids=given[row : row + 1, :length],
                    pixel_values=pixels[row : row + 1],
                    decoder_input_ids=torch.tensor([text]),
                    labels=torch.tensor([text]),
                )
            wanted[row, k] = -float(out.loss.mean()) * (len(text) - 1)
    batch = {"image": image, "text": ids, "text_mask": MASK, "answers": answers}
    found = ours(loaded, "answer_loglik", batch | {"answers_mask": real})
    near("VQA likelihood", found, wanted, 1e-4)


def test_the_defaults_that_we_read_by_are_transformers():
    read = families()["hf_blip"].method
    for kind in ("BlipForConditionalGeneration", "BlipForImageTextRetrieval"):
        said = {"model_type": "blip", "architectures": [kind]}
        whole = transformers.BlipConfig().to_dict() | said
        assert read(said, "x") == read(whole, "x")


def test_pictures_enter_as_through_blips_processor():
    from PIL import Image
    from transformers.models.blip import image_processing_pil_blip as theirs

    from vlp_jax.augment.pictures import normalise
    from vlp_jax.data.decode import frame_picture
    from vlp_jax.data.framing import Framing
    from vlp_jax.interop import preprocess

    processor = theirs.BlipImageProcessorPil()
    said = preprocess.from_hf(processor.to_dict() | {"image_processor_type": None}, "x", "Blip")
    assert said["image_size"] == 384
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    wanted = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    pixels = frame_picture(picture, 384, Framing.of(said))[None]
    found = np.asarray(normalise(pixels, said["mean"], said["std"])[0])
    assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"repetition_penalty": 1.7, "min_new": 3},
        {"beams": 3, "min_new": 2},
        {"beams": 4, "length_penalty": 2.0, "returned": 2},
        {"beams": 2, "length_penalty": -1.0, "early_stopping": True},
    ],
    ids=lambda how: "-".join(how) or "greedy",
)
def test_texts_are_those_of_transformers(how, tmp_path):
    """50 random prompts of one to four tokens, each in a call of its own there."""
    model = build("BlipForConditionalGeneration", dict(max_position_embeddings=16))
    with torch.no_grad():  # words as sure as a trained model's, and ends among them
        model.text_decoder.cls.predictions.transform.LayerNorm.weight.mul_(6)
        model.text_decoder.cls.predictions.bias[2] += 4
        model.text_decoder.cls.predictions.bias[0] -= 99  # padding is no word
    model.save_pretrained(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded, count, most = load_model(str(tmp_path / "ours")), 50, 8
    image = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    pixels = np.array(loaded.method.prepare(image, None)).transpose(0, 3, 1, 2)
    prompts = rng.integers(3, DEC, (count, 4)).astype(np.int32)
    prompts[:, 0], lengths = DEC, rng.integers(1, 5, count)
    mask = np.arange(4) < lengths[:, None]
    function = loaded.method.functions()["generate_text"]
    batch = {"image": image, "prompt": prompts * mask, "prompt_mask": mask}
    found = jax.jit(lambda v, x: function(v, x, {"max_new": most, **how}))(
        Vars(loaded.params, loaded.extra), Inputs.of(batch)
    )
    with torch.no_grad():
        states = model.vision_model(torch.from_numpy(pixels)).last_hidden_state
    names = dict(beams="num_beams", min_new="min_new_tokens", returned="num_return_sequences")
    given = {names.get(key, key): value for key, value in how.items()}
    same, ended = 0, 0
    for row in range(count):
        with torch.no_grad():
            wanted = model.text_decoder.generate(
                input_ids=torch.from_numpy(prompts[row : row + 1, : lengths[row]]).long(),
                encoder_hidden_states=states[row : row + 1],
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
                **given,
            )
        words = []
        for text in np.asarray(wanted.sequences)[:, lengths[row] :]:
            end = [*text, 2].index(2)
            words.append(text[:end].tolist())
        pairs = zip(found["ids"][row], found["length"][row], strict=True)
        ours = [np.asarray(ids)[: int(n)].tolist() for ids, n in pairs]
        same += ours == words
        ended += sum(len(text) < most for text in words)
        if ours == words and "beams" in how:
            np.testing.assert_allclose(
                found["score"][row], np.asarray(wanted.sequences_scores), rtol=1e-4
            )
    print(f"{how}: {same} of {count}, {ended} ended")
    assert ended > 5
    assert same >= (count if "beams" not in how else 0.99 * count), f"{same} of {count}"
