"""Pictures per second of `index` over those of clip-retrieval's inference, on the same files.

python experiments/benchmarks/index_rate.py --peer-python=PYTHON [--pairs=2] [--json]

Both sides embed the same folder of JPEGs with the same random ViT-B/32 in float32 and write their
parts: ours by `index`'s own functions (with thumbnails, which clip-retrieval writes none of), the
peer by clip-retrieval's Runner, FilesReader, ClipMapper and NumpyWriter at their defaults (batches
of 256, four workers), its model and preprocessing open_clip's. Loading and compiling count on
neither side. PYTHON has the `[peers]` extra, clip-retrieval (`make test-peers` installs both) and
pandas.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import Worker, serve, timed
from experiments.benchmarks.p4_clip_step import make_weights


def make_pictures(folder: str, count: int) -> None:
    """JPEGs of 640 x 480 smooth noise, about 60 kB each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
        file = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        Path(folder, f"{i:06d}.jpg").write_bytes(file.getvalue())


def ours(args: argparse.Namespace) -> None:
    """`index`'s way of one part."""
    from vlp_jax.api.embed import Batching
    from vlp_jax.api.model import load_model
    from vlp_jax.data.open import open_source
    from vlp_jax.serve.part import Embedding, embed_part, write_part

    model, source = load_model(f"{args.folder}/ours"), open_source(f"{args.folder}/pictures")
    what = Embedding(model, source, 256, False, Batching(args.batch))

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            write_part(embed_part(what, range(len(source))), out, "0000")

    embed_part(what, range(args.batch))  # compiles
    rows = embed_part(what, range(4)).image
    serve({"rows": lambda: {"rows": rows.tolist()}, "step": timed(run)})


def peer(args: argparse.Namespace) -> None:
    """clip-retrieval's way of one partition."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))
    from conftest import declare_torchvision_operators as declare

    library = declare()  # must stay alive
    import importlib.util

    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    model.load_state_dict(torch.load(f"{args.folder}/peer.pt"))
    loaded = model.eval(), preprocess, open_clip.get_tokenizer("ViT-B-32")
    # what its mapper imports and this machine lacks: the loader of models, which only chooses one
    names = {"all_clip": "load_clip", "sentence_transformers": "SentenceTransformer"}
    for name, member in names.items():
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], member, lambda **how: loaded)
    place = importlib.util.find_spec("clip_retrieval").submodule_search_locations[0]
    for name, path in {"": place, ".clip_inference": f"{place}/clip_inference"}.items():
        package = types.ModuleType(f"clip_retrieval{name}")
        package.__path__ = [path]  # without __init__, which imports everything
        sys.modules[package.__name__] = package
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    class Silent:
        start = end = __call__ = lambda self, *said: None

    def mapper(batch: int = 256) -> ClipMapper:
        return ClipMapper(True, False, False, False, "ViT-B/32", False, "", batch)

    def reader(sampler, workers: int = 4, batch: int = 256) -> FilesReader:
        folder = f"{args.folder}/pictures"
        return FilesReader(sampler, preprocess, None, folder, batch, workers, enable_text=False)

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            writer = NumpyWriter(0, out, False, True, False, 1)
            Runner(reader, mapper, lambda i: writer, lambda i: Silent(), 1)(0)

    first = next(iter(reader(lambda keys: keys[:4], 0, 4)))
    rows = mapper()(first)["image_embs"]
    about = {"rows": rows.astype(float).tolist(), "library": str(library)}
    serve({"rows": lambda: about, "step": timed(run)})


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pictures", type=int, default=512)
    p.add_argument("--batch", type=int, default=32, help="of our side")
    p.add_argument("--pairs", type=int, default=2)
    p.add_argument("--python", default=sys.executable, help="interpreter of our side")
    p.add_argument("--peer-python", default=sys.executable)
    p.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    p.add_argument("--folder", help=argparse.SUPPRESS)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    if args.worker:
        {"ours": ours, "peer": peer}[args.worker](args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pictures").mkdir()
        make_pictures(f"{folder}/pictures", args.pictures)
        args.arch = "ViT-B-32"
        make_weights(args, folder)
        start = [f"--folder={folder}", f"--batch={args.batch}"]
        a = Worker(args.python, __file__, ["--worker=ours", *start])
        b = Worker(args.peer_python, __file__, ["--worker=peer", *start])
        found, theirs = (np.array(side.ask("rows")["rows"]) for side in (a, b))
        cosines = (found * theirs).sum(1) / np.linalg.norm(found, axis=1)
        seconds = [[side.ask("step")["seconds"] for side in (a, b)] for _ in range(args.pairs)]
    ratios = [peer / own for own, peer in seconds]
    own, other = (args.pictures / statistics.median(side) for side in zip(*seconds, strict=True))
    report = {"pictures": args.pictures, "pairs": args.pairs, "least_cosine": float(cosines.min())}
    report |= {"per_second_ours": own, "per_second_peer": other}
    report |= {"ratio_least": min(ratios), "ratio_most": max(ratios)}
    report["ratio"] = statistics.median(ratios)
    for key, value in report.items():
        print(f"{key:>20}  {value:.4g}")
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
