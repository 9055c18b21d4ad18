"""P21: a language model behind a picture's tokens: 576 of them and a prompt of 64 words are read,
then 64 words written, tokens/s of ours over transformers' generate.

python experiments/benchmarks/p21_prefill_decode.py --peer-python=PYTHON [--size=300M]
    [--part=prefill] [--batch=1] [--peer-mode=dynamic] [--json]

A LLaMA of 0.37 billion random weights (converted, words as sure as a trained model's); the ids must
be equal before anything is timed. `--part=prefill` times the reading to the first logits; `decode`
the whole, of which the reading's median is taken off on each side. The peer keeps a growing cache,
eager (`dynamic`), or one of fixed size under torch.compile (`static`): report the faster.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import (
    Worker,
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

# name -> width, layers, heads, hidden, words, (picture's tokens, words of the prompt, new words)
SIZES = {
    "300M": (1024, 24, 16, 2816, 32000, (576, 64, 64)),
    "tiny": (64, 2, 4, 128, 256, (24, 8, 8)),
}
PASSED = ("size", "batch", "peer-mode")  # to the workers


def parser() -> argparse.ArgumentParser:
    """The flags."""
    workers = ("ours", "peer", "weights")
    p = flags(__doc__, "torch and transformers", ("dynamic", "static"), workers)
    p.add_argument("--size", default="300M", choices=SIZES)
    p.add_argument("--part", default="prefill", choices=("prefill", "decode"))
    p.add_argument("--batch", type=int, default=1)
    return p


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """A picture's tokens, float32[B, N, D], as large as words, and int32[B, T] of the prompt."""
    rng, (width, *_, vocab, (seen, words, _)) = np.random.default_rng(0), SIZES[args.size]
    shown = 0.02 * rng.standard_normal((args.batch, seen, width), np.float32)
    return shown, rng.integers(3, vocab, (args.batch, words)).astype(np.int32)


def weights(args: argparse.Namespace) -> None:
    """transformers' random weights; no end is ever the likeliest word."""
    torch, transformers, _ = transformers_modules()
    width, layers, heads, hidden, vocab, lengths = SIZES[args.size]
    said = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
    said |= dict(intermediate_size=hidden, vocab_size=vocab, eos_token_id=2)
    said |= dict(max_position_embeddings=max(1024, sum(lengths)), tie_word_embeddings=False)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**said))
    with torch.no_grad():
        model.model.norm.weight.mul_(4)
        model.lm_head.weight[2] = 0
    model.save_pretrained(f"{args.folder}/peer")


def ours(args: argparse.Namespace) -> None:
    """Our side: the writer of the methods that speak, behind a prefix."""
    import jax
    import jax.numpy as jnp

    from vlp_jax.api.model import load_model
    from vlp_jax.api.placement import for_writing
    from vlp_jax.core.inputs import Inputs, Vars
    from vlp_jax.decoding.how import Writing
    from vlp_jax.methods.kits.writing import after_words, caller, write

    model = load_model(f"{args.folder}/ours")
    method = model.method
    v = for_writing(method, Vars(model.params, model.extra))
    shown, prompt = jax.device_put(inputs(args))
    most = SIZES[args.size][-1][2]
    how = Writing(max_new=most)

    def writer(v: Vars, shown: Any, prompt: Any) -> tuple[Any, Inputs]:
        x = Inputs.of({"prompt": prompt})
        return after_words(*caller(method, v, x, "lm", method.net), shown), x

    @jax.jit
    def read(v: Vars, shown: Any, prompt: Any) -> Any:
        begin = writer(v, shown, prompt)[0].begin
        return begin(prompt, jnp.ones(prompt.shape, bool), most)[1:]

    @jax.jit
    def whole(v: Vars, shown: Any, prompt: Any) -> Any:
        speaker, x = writer(v, shown, prompt)
        return write(speaker, prompt, None, how, (), x.rng).ids

    run = lambda program: jax.block_until_ready(program(v, shown, prompt))  # noqa: E731
    ids = lambda: {"ids": np.asarray(run(whole))[:, 0].tolist()}  # noqa: E731
    serve({"ids": ids, "prefill": timed(lambda: run(read)), "decode": timed(lambda: run(whole))})


def peer(args: argparse.Namespace) -> None:
    """transformers' side: the model's forward pass, and generate from embeddings."""
    torch, transformers, library = transformers_modules()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.LlamaForCausalLM.from_pretrained(f"{args.folder}/peer")
    model = model.to(device).eval()
    model.kept = library  # must stay alive
    shown, prompt = (torch.from_numpy(array).to(device) for array in inputs(args))
    most = SIZES[args.size][-1][2]
    how = dict(max_new_tokens=most, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.inference_mode():
        seen = torch.cat([shown, model.get_input_embeddings()(prompt.long())], 1)
    cache = None
    forward = model
    if args.peer_mode == "static":
        cache = transformers.StaticCache(model.config, seen.shape[1] + most)
        how["past_key_values"] = cache
        compile_config = transformers.CompileConfig(mode="default", fullgraph=False)
        compile_config._compile_all_devices = True  # else a CPU runs eager
        how["compile_config"] = compile_config
        forward = torch.compile(model)

    def read() -> Any:
        with torch.inference_mode():
            given = dict(inputs_embeds=seen, logits_to_keep=1, use_cache=True)
            return forward(**given).logits.sum().item()

    def whole() -> Any:
        with torch.inference_mode():
            if cache is not None:
                cache.reset()
            mask = torch.ones(seen.shape[:2], dtype=torch.long, device=device)
            return model.generate(inputs_embeds=seen, attention_mask=mask, **how)

    ids = lambda: {"ids": whole().tolist()}  # noqa: E731
    serve({"ids": ids, "prefill": timed(read), "decode": timed(whole)})


class Part:
    """A worker whose step is one part."""

    def __init__(self, worker: Worker, part: str):
        self._worker, self._part = worker, part

    def ask(self, word: str) -> dict[str, Any]:
        """As the worker does."""
        return self._worker.ask(self._part if word == "step" else word)


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer, "weights": weights}[args.worker](args)
        return 0
    *_, (seen, words, new) = SIZES[args.size]
    with tempfile.TemporaryDirectory() as folder:
        start = [*handed(args, *PASSED), f"--folder={folder}"]
        weights_of(args.peer_python, __file__, start)
        marks = dict(enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]")))
        convert(args.python, folder, SIZES[args.size][4], marks)
        both = sides(args, __file__, start)
        mine, theirs = (side.ask("ids")["ids"] for side in both)
        if mine != theirs:
            raise SystemExit(f"ids differ: ours {mine}, transformers {theirs}")
        report = {"row": "P21", **{key: getattr(args, key.replace("-", "_")) for key in PASSED}}
        report["part"], count = args.part, new if args.part == "decode" else seen + words
        timing = alternate(*(Part(side, args.part) for side in both), args.pairs)
        if args.part == "decode":
            took = [taken_off(side) for side in both]
            names = ("seconds_ours", "seconds_peer")
            for name, off in zip(names, took, strict=True):
                report[f"whole_{name}"], timing[name] = timing[name], timing[name] - off
            report["ratio_of_the_whole"] = timing["ratio"]
            timing["ratio"] = timing["seconds_peer"] / timing["seconds_ours"]
    for side in ("ours", "peer"):
        report[f"tokens_per_s_{side}"] = args.batch * count / timing[f"seconds_{side}"]
    show(report | timing, args.json)
    return 0


def taken_off(side: Worker) -> float:
    """Seconds of reading, the median of three after two."""
    times = [side.ask("prefill")["seconds"] for _ in range(5)]
    return statistics.median(times[2:])


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
