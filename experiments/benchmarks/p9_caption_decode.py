"""P9: captions written for pictures, new tokens/s of ours over transformers' generate.

python experiments/benchmarks/p9_caption_decode.py --peer-python=PYTHON [--arch=base] [--batch=1]
    [--beams=1] [--start=states] [--peer-mode=dynamic] [--json]

Same random weights (converted, an end never the likeliest word), same pictures, a prompt of four
tokens; the ids must be equal before anything is timed. `--start=states` times what follows the
picture's tower on both sides: the context's keys and values, the prompt, the words;
`--start=pictures` the tower too. The peer keeps a growing cache, eager (`dynamic`), or one of fixed
size under torch.compile (`static`): report the faster. `--arch=blip2` is BLIP-2 as captions are
asked of it: pictures, a small eye, Q-Former-base and an OPT-125M. Ours must compile once per length
bucket, which `Model.generate` is asked to show on prompts of 1 to 10 words.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import (
    alternate,
    convert,
    flags,
    handed,
    serve,
    show,
    sides,
    timed,
    transformers_modules,
    weights_of,
)

END = 102
SIZES = {  # of configs/blip/tiny.py, and of the captioning class
    "tiny": dict(image=(96, 128, 4, 4), text=(128, 3, 4, 160)),
    "base": dict(image=(384, 768, 12, 12), text=(768, 12, 12, 30524)),
    "base-224": dict(image=(224, 768, 12, 12), text=(768, 12, 12, 30524)),
    "blip2": dict(image=(224, 384, 4, 6), text=(768, 12, 12, 50272), queries=32),
    "blip2-tiny": dict(image=(32, 32, 2, 2), text=(64, 2, 4, 160), queries=8),
}
MARKS = {  # words of ours that have an id of their own: BLIP's, and of an OPT
    False: {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", END: "[SEP]"},
    True: {0: "[PAD]", 1: "[CLS]", 2: "[SEP]", 3: "[UNK]"},
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PASSED = ("arch", "batch", "beams", "max-new", "start", "peer-mode")  # to the workers


def parser() -> argparse.ArgumentParser:
    """The flags."""
    workers = ("ours", "peer", "weights")
    p = flags(__doc__, "torch and transformers", ("dynamic", "static"), workers)
    p.add_argument("--arch", default="tiny", choices=SIZES)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--beams", type=int, default=1)
    p.add_argument("--max-new", type=int, default=20)
    p.add_argument("--start", default="states", choices=("states", "pictures"))
    return p


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 pictures, and prompts of four tokens that start with [DEC]."""
    rng, size, vocab = np.random.default_rng(0), *SIZES[args.arch]["image"][:1], vocab_of(args)
    images = rng.integers(0, 256, (args.batch, size, size, 3), np.uint8)
    prompts = rng.integers(5, min(vocab, 30000) - 2, (args.batch, 4))
    prompts[:, 0] = vocab - 2
    return images, np.where(prompts == END, 5, prompts)


def vocab_of(args: argparse.Namespace) -> int:
    """[DEC] and [ENC] included."""
    return SIZES[args.arch]["text"][3]


def queries_of(args: argparse.Namespace) -> int:
    """Of a BLIP-2; else 0."""
    return SIZES[args.arch].get("queries", 0)


def weights(args: argparse.Namespace) -> None:
    """transformers' random weights, with words as sure as a trained model's and no ends."""
    build = blip2 if queries_of(args) else blip
    build(args).save_pretrained(f"{args.folder}/peer")


def blip2(args: argparse.Namespace) -> Any:
    """An eye, a Q-Former and an OPT."""
    torch, transformers, _ = transformers_modules()
    size, width, layers, heads = SIZES[args.arch]["image"]
    image = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    image |= dict(num_attention_heads=heads, image_size=size, patch_size=14 if size > 32 else 16)
    wide, deep, heads, vocab = SIZES[args.arch]["text"]
    own = dict(hidden_size=wide, num_hidden_layers=deep, num_attention_heads=heads)
    former = own | dict(intermediate_size=4 * wide, encoder_hidden_size=width)
    text = own | dict(ffn_dim=4 * wide, vocab_size=vocab, word_embed_proj_dim=wide)
    text |= dict(max_position_embeddings=512, eos_token_id=2, pad_token_id=1)
    torch.manual_seed(0)
    config = transformers.Blip2Config(
        vision_config=image,
        qformer_config=former,
        text_config=transformers.OPTConfig(**text).to_dict(),
        num_query_tokens=queries_of(args),
        image_token_index=vocab - 1,
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        for tensor in {id(p): p for p in model.parameters()}.values():
            tensor.add_(0.02 * torch.randn_like(tensor))
        decoder = model.language_model.model.decoder
        decoder.final_layer_norm.weight.mul_(4)
        decoder.embed_tokens.weight[2] = 0
    return model


def blip(args: argparse.Namespace) -> Any:
    """A captioner."""
    torch, transformers, _ = transformers_modules()
    size, width, layers, heads = SIZES[args.arch]["image"]
    image = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    image |= dict(num_attention_heads=heads, image_size=size, patch_size=16, layer_norm_eps=1e-6)
    width, layers, heads, vocab = SIZES[args.arch]["text"]
    text = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    text |= dict(num_attention_heads=heads, vocab_size=vocab, encoder_hidden_size=width)
    text |= dict(max_position_embeddings=64 if args.arch == "tiny" else 512)
    text |= dict(bos_token_id=vocab - 2, sep_token_id=END, pad_token_id=0, eos_token_id=2)
    config = transformers.BlipConfig(text_config=text, vision_config=image)
    torch.manual_seed(0)
    model = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():
        for tensor in {id(p): p for p in model.parameters()}.values():
            tensor.add_(0.02 * torch.randn_like(tensor))
        head = model.text_decoder.cls.predictions
        head.transform.LayerNorm.weight.mul_(6)
        head.bias[[0, END]] -= 1e4
    return model


def ours(args: argparse.Namespace) -> None:
    """Our side: what generate_text runs, as `Model.generate` compiles it."""
    import jax

    from vlp_jax.api.model import load_model
    from vlp_jax.api.placement import for_writing
    from vlp_jax.core.inputs import Inputs, Vars
    from vlp_jax.decoding.how import Writing
    from vlp_jax.nn.cache import States

    model = load_model(f"{args.folder}/ours")
    images, prompts = inputs(args)
    method = model.method
    v = for_writing(method, Vars(model.params, model.extra))
    how = Writing(max_new=args.max_new, beams=args.beams)
    batch = jax.device_put({"image": images, "prompt": prompts.astype(np.int32)})
    functions = method.functions()

    def write(v: Vars, batch: dict, states: Any) -> Any:
        if states is None:
            return functions["generate_text"](v, Inputs.of(batch), how)
        x = Inputs.of(batch)
        writer = method.writer(v, x, "text", method.text_net, States(states))
        return method.written(writer, x, how)

    states = None
    if args.start == "states":
        states = jax.jit(lambda v, x: functions["image_states"](v, x, None))(v, Inputs.of(batch))
    program = jax.jit(write)

    def run() -> Any:
        return jax.block_until_ready(program(v, batch, states))

    def ids() -> dict[str, Any]:
        return {"ids": np.asarray(run()["ids"])[:, 0].tolist(), "programs": programs(model, images)}

    serve({"ids": ids, "step": timed(run)})


def programs(model: Any, images: np.ndarray) -> dict[str, int]:
    """How many programs `Model.generate` compiles for prompts of 1 to 10 words, in one call and in
    a call each."""
    import jax

    count, prompts = [0], [" ".join(["word7"] * number) for number in range(1, 11)]

    def heard(event: str, seconds: float, **_: Any) -> None:
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(heard)
    for prompt in prompts:
        model.generate(images[:1], prompt, max_new=2)
    apart, count[0] = count[0], 0
    for prompt in prompts:
        model.generate(images[:1], prompt, max_new=2)
    return {"prompts": len(prompts), "first": apart, "again": count[0]}


def peer(args: argparse.Namespace) -> None:
    """transformers' side: the decoder's generate, as its captioning class calls it."""
    torch, transformers, library = transformers_modules()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"{'Blip2' if queries_of(args) else 'Blip'}ForConditionalGeneration"
    model = getattr(transformers, name).from_pretrained(f"{args.folder}/peer")
    model = model.to(device).eval()
    images, prompts = inputs(args)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1).to(device) for x in (CLIP_MEAN, CLIP_STD))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    prompts = torch.from_numpy(prompts).to(device)
    normal = lambda: (pixels.float() / 255 - mean) / std  # noqa: E731
    if queries_of(args):
        slots = torch.full((args.batch, queries_of(args)), vocab_of(args) - 1, device=device)
        words = torch.cat([slots, prompts], 1)
        given = dict(input_ids=words, attention_mask=torch.ones_like(words), do_sample=False)
        given |= dict(max_new_tokens=args.max_new, num_beams=args.beams, eos_token_id=None)

        def write() -> Any:
            with torch.inference_mode():
                return model.generate(normal(), **given)

        count = args.max_new
        ids = lambda: {"ids": write()[:, -count:].tolist(), "library": str(library)}  # noqa: E731
        serve({"ids": ids, "step": timed(write)})
        return
    see = lambda: model.vision_model(normal())[0]  # noqa: E731
    how = dict(max_new_tokens=args.max_new, num_beams=args.beams, do_sample=False)
    how |= dict(eos_token_id=END, pad_token_id=0)
    with torch.inference_mode():
        states, count = see() if args.start == "states" else None, see().shape[1]
    cache = None
    if args.peer_mode == "static":
        sizes = args.max_new + 4, count
        kept = (transformers.StaticCache(model.config.text_config, size) for size in sizes)
        cache = how["cache"] = transformers.EncoderDecoderCache(*kept)
        compile_config = transformers.CompileConfig(mode="default", fullgraph=False)
        compile_config._compile_all_devices = True  # else a CPU runs eager
        how["compile_config"] = compile_config

    def run() -> Any:
        with torch.inference_mode():
            if cache is not None:
                cache.reset()
            found = see() if states is None else states
            given = dict(input_ids=prompts, encoder_hidden_states=found)
            return model.text_decoder.generate(**given, **how)

    ids = lambda: {"ids": run()[:, 4:].tolist(), "library": str(library)}  # noqa: E731
    serve({"ids": ids, "step": timed(run)})


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer, "weights": weights}[args.worker](args)
        return 0
    if queries_of(args) and (args.start, args.peer_mode) != ("pictures", "dynamic"):
        raise SystemExit("--arch=blip2: take --start=pictures, --peer-mode=dynamic")
    with tempfile.TemporaryDirectory() as folder:
        start = [*handed(args, *PASSED), f"--folder={folder}"]
        weights_of(args.peer_python, __file__, start)
        blip2 = bool(queries_of(args))
        convert(args.python, folder, vocab_of(args) - 2 * (not blip2), MARKS[blip2])
        a, b = sides(args, __file__, start)
        mine, theirs = a.ask("ids"), b.ask("ids")
        if mine["ids"] != theirs["ids"]:
            raise SystemExit(f"ids differ: ours {mine['ids']}, transformers {theirs['ids']}")
        timing = alternate(a, b, args.pairs)
    report = {"row": "P9", **{key: getattr(args, key.replace("-", "_")) for key in PASSED}}
    report["programs"] = mine["programs"]
    tokens = args.batch * args.max_new
    for side in ("ours", "peer"):
        report[f"tokens_per_s_{side}"] = tokens / timing[f"seconds_{side}"]
    report |= timing
    show(report, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
