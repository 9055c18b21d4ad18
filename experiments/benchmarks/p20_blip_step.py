"""P20: a BLIP pre-training step (contrast with teacher and queue, matching on mined negatives,
captions; backward, AdamW on every weight), pairs/s of ours over transformers' modules'.

python experiments/benchmarks/p20_blip_step.py --peer-python=PYTHON [--arch=tiny] [--batch=64]
    [--peer-mode=eager] [--json]

Same weights (converted), queue, random pictures and texts, no dropout; contrast and captions must
agree to 1e-4 before anything is timed, matching draws its negatives. transformers has no such step:
its BlipForImageTextRetrieval and a BlipTextLMHeadModel that shares all but self-attention with it
run the passes of salesforce/BLIP (B right pairs, then 2 B wrong ones), beside a copy of what the
teacher holds. The peer runs eager or compiled, whichever --peer-mode says (report the faster).
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.benchmarks.duel import (
    alternate,
    flags,
    handed,
    serve,
    show,
    sides,
    timed,
    transformers_modules,
    weights_of,
)

ROOT = Path(__file__).resolve().parents[2]
MOMENTUM, ALPHA, RATE, DECAY = 0.995, 0.4, 1e-5, 0.05
FLOOR = 1e-4  # of a negative's weight
SMOOTHING = 0.1
LOSSES = ("itc", "lm")  # that are compared
SIZES = {"tiny": (24, 64, 1024), "base": (30, 256, 57_600)}  # tokens, width of contrast, queue


def parser() -> argparse.ArgumentParser:
    """The flags."""
    workers = ("ours", "peer", "weights")
    p = flags(__doc__, "torch and transformers", ("eager", "compile"), workers)
    p.add_argument("--arch", default="tiny", choices=SIZES)
    p.add_argument("--batch", type=int, default=64)
    return p


def method_of(args: argparse.Namespace) -> Any:
    """configs/blip/tiny.py's or pretrain.py's method without augmentation and dropout."""
    import jax

    from configs.blip.tiny import END, small_towers
    from vlp_jax.methods.base import make_method
    from vlp_jax.models.archs.blip import blip_towers

    length, width, queue = SIZES[args.arch]
    towers = small_towers() if args.arch == "tiny" else blip_towers("base", 224)
    towers["image"]["stem"] = ()  # transformers has one patch embedding
    towers["image"] |= dict(pos_embed="learned", patch_dropout=0.0)
    how = dict(text_length=length, embed_dim=width, queue=queue, momentum=MOMENTUM, alpha=ALPHA)
    how |= dict(negative_floor=FLOOR, label_smoothing=SMOOTHING)
    how |= dict(end_id=END) if args.arch == "tiny" else {}
    return make_method({"name": "blip", **towers, **how, "unroll": jax.default_backend() == "cpu"})


def inputs(batch: int, size: int, length: int, vocab: int) -> dict[str, np.ndarray]:
    """Random uint8 pictures, and texts of half the length to all of it."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, min(vocab, 30000) - 2, (batch, length))
    mask = np.arange(length) < rng.integers(length // 2, length + 1, batch)[:, None]
    image = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    return {"image": image, "text": np.where(mask, ids, 0).astype(np.int32), "text_mask": mask}


def weights(args: argparse.Namespace) -> None:
    """A state's weights and queue as both sides read them; biases and gains away from 0 and 1."""
    import jax

    from vlp_jax.api.switches import described
    from vlp_jax.core.pytree import flatten
    from vlp_jax.interop.blip import decoder_rules
    from vlp_jax.interop.family import families
    from vlp_jax.interop.rules import Table, to_theirs

    method = method_of(args)
    v = jax.jit(method.fresh)(jax.random.key(0))
    rng, flat = np.random.default_rng(1), {}
    for path, leaf in flatten(jax.device_get(v.params)).items():
        moved = leaf if path == "temperature" else leaf + 0.02 * rng.standard_normal(leaf.shape)
        flat[path] = np.float32(moved)
    np.savez(f"{args.folder}/ours.npz", **flat)
    family, said = families()["hf_blip"], described(method)
    rules = (*family.table(()).rules, *decoder_rules("text"))
    table = Table("both classes", rules, (), unsaid={"temperature": 0.07})
    np.savez(f"{args.folder}/peer.npz", **to_theirs(table, flat))
    queue = {name: np.asarray(v.extra["queue"][name]) for name in ("image", "text")}
    np.savez(f"{args.folder}/queue.npz", **queue)
    encoder = {**said, "text": {**said["text"], "roles": "encoder"}}
    config = family.config_json(encoder, None)
    tower = method.image_tower
    shapes = [args.batch, tower.image_size, method.text_length, method.text_net.vocab_size]
    told = {"config": config, "inputs": shapes, "marks": method.marks}
    told |= {"mean": method.image_mean, "std": method.image_std}
    Path(args.folder, "told.json").write_text(json.dumps(told))


def ours(args: argparse.Namespace) -> None:
    """Our side: the trainer's own step."""
    import jax

    from vlp_jax.core.pytree import unflatten
    from vlp_jax.optim.optimizer import lr_factors, make_optimizer
    from vlp_jax.optim.schedules import make_schedule
    from vlp_jax.train.state import Recipe, init_state, restate
    from vlp_jax.train.step import make_step

    method = method_of(args)
    optim = dict(name="adamw", lr=RATE, weight_decay=DECAY, eps=1e-8, clip_norm=0.0, no_decay=())
    tx, recipe = make_optimizer(optim), Recipe(seed=0, batch_size=args.batch)
    state, frozen = jax.jit(lambda: init_state(method, tx, recipe))()
    queue = dict(np.load(f"{args.folder}/queue.npz"))
    state["params"] = jax.tree.map(
        jax.numpy.array, unflatten(dict(np.load(f"{args.folder}/ours.npz")))
    )
    state |= jax.jit(lambda state: restate(method, recipe, state, frozen))(state)
    state["extra"]["queue"] |= jax.device_put(queue)
    factors = lr_factors(optim, state["params"])
    how = make_schedule("constant", RATE, 10, 0), factors, recipe
    step = jax.jit(make_step(method, tx, *how), donate_argnums=0)
    told = json.loads(Path(args.folder, "told.json").read_text())
    batch, box = jax.device_put(inputs(*told["inputs"])), [state]

    def run() -> dict[str, Any]:
        box[0], metrics = step(box[0], frozen, batch)
        jax.block_until_ready(box[0])
        return {name: float(metrics[name]) for name in (*LOSSES, "itm")}

    flops = 3 * method.flops() * args.batch
    serve({"loss": lambda: {**run(), "flops": flops}, "step": timed(run)})


def build(torch: Any, transformers: Any, folder: str, told: dict[str, Any]) -> tuple[Any, Any]:
    """transformers' modules with our weights, and the teacher."""
    config = transformers.BlipConfig(**told["config"])
    config.text_config.label_smoothing = SMOOTHING
    model = transformers.BlipForImageTextRetrieval(config)
    decoder, encoder = transformers.BlipTextLMHeadModel(config.text_config), model.text_encoder
    decoder.bert.embeddings = encoder.embeddings
    for own, layer in zip(decoder.bert.encoder.layer, encoder.encoder.layer, strict=True):
        for name in ("crossattention", "intermediate", "output"):
            setattr(own, name, getattr(layer, name))
    words = decoder.cls.predictions
    words.decoder.weight, words.decoder.bias = encoder.embeddings.word_embeddings.weight, words.bias
    model.text_decoder = decoder
    found = {k: torch.from_numpy(a) for k, a in np.load(f"{folder}/peer.npz").items()}
    _, unknown = model.load_state_dict(found, strict=False)
    mine = {id(p) for name, p in model.named_parameters() if name in found}
    lost = [name for name, p in model.named_parameters() if id(p) not in mine]
    if unknown or lost:
        raise SystemExit(f"weights differ: lost {lost}, unknown {unknown}")
    model.temperature = torch.nn.Parameter(torch.tensor(0.07))
    names = ("vision_model", "text_encoder", "vision_proj", "text_proj")
    teacher = torch.nn.ModuleDict({name: copy.deepcopy(getattr(model, name)) for name in names})
    for layer in teacher["text_encoder"].encoder.layer:
        del layer.crossattention
    return model.train(), teacher.requires_grad_(False)


class Losses:
    """The passes of salesforce/BLIP over transformers' modules."""

    def __init__(self, torch: Any, model: Any, teacher: Any, folder: str, told: dict[str, Any]):
        self.torch, self.model, self.teacher, device = torch, model, teacher, model.device
        batch = {k: torch.from_numpy(a) for k, a in inputs(*told["inputs"]).items()}
        self.images = batch["image"].permute(0, 3, 1, 2).contiguous().to(device)
        self.mean, self.std = (
            torch.tensor(told[name]).view(1, 3, 1, 1).to(device) for name in ("mean", "std")
        )
        self.mask = batch["text_mask"].long().to(device)
        ids = batch["text"].long().to(device)
        self.ids = {"text": ids, **{mode: ids.clone() for mode in told["marks"]}}
        for mode, mark in told["marks"].items():
            self.ids[mode][:, 0] = mark
        queue = np.load(f"{folder}/queue.npz")
        self.queue = {name: torch.from_numpy(queue[name]).to(device) for name in queue}
        self.at = 0

    def vectors(self, of: Any, pixels: Any) -> tuple[Any, Any, Any]:
        """(tokens, picture's vector, text's vector) by a model or its teacher."""
        unit = self.torch.nn.functional.normalize
        tokens = of["vision_model"](pixels).last_hidden_state
        words = of["text_encoder"](self.ids["text"], self.mask).last_hidden_state
        image, text = of["vision_proj"](tokens[:, 0]), of["text_proj"](words[:, 0])
        return tokens, unit(image, dim=-1), unit(text, dim=-1)

    def forward(self) -> tuple[Any, ...]:
        """(itc, itm, lm, the teacher's vectors of pictures, of texts)."""
        torch, model = self.torch, self.model
        pixels = (self.images.float() / 255 - self.mean) / self.std
        own = {name: getattr(model, name) for name in self.teacher}
        tokens, image, text = self.vectors(own, pixels)
        with torch.no_grad():
            _, her_image, her_text = self.vectors(self.teacher, pixels)
            keys = {"image": torch.cat([her_image, self.queue["image"]])}
            keys["text"] = torch.cat([her_text, self.queue["text"]])
        scale, losses = 1 / model.temperature, []
        truth = torch.arange(len(image), device=image.device)
        for mine, hers, other in ((image, her_image, "text"), (text, her_text, "image")):
            with torch.no_grad():
                soft = (scale * hers @ keys[other].T).softmax(1) * ALPHA
                soft[truth, truth] += 1 - ALPHA
            logits = scale * mine @ keys[other].T
            losses.append(-(soft * logits.log_softmax(1)).sum(1).mean())
        itm = self.match(tokens, image.detach(), text.detach(), her_image, her_text)
        labels = self.ids["decode"].masked_fill(self.mask == 0, -100)
        how = dict(encoder_hidden_states=tokens, labels=labels)
        lm = model.text_decoder(self.ids["decode"], self.mask, **how).loss
        return sum(losses) / 2, itm, lm, her_image, her_text

    def match(self, tokens: Any, image: Any, text: Any, her_image: Any, her_text: Any) -> Any:
        """The matching loss on right pairs and on two drawn wrong ones of each."""
        torch, model, ids, mask = self.torch, self.model, self.ids["ground"], self.mask
        with torch.no_grad():
            drawn = []
            for mine, hers in ((text, her_image), (image, her_text)):
                weight = (mine @ hers.T / model.temperature).softmax(1) + FLOOR
                drawn.append(torch.multinomial(weight.fill_diagonal_(0), 1)[:, 0])
        (pictures, texts), count = drawn, len(ids)
        right = model.text_encoder(ids, mask, encoder_hidden_states=tokens).last_hidden_state
        states = torch.cat([tokens[pictures], tokens])
        both, masks = torch.cat([ids, ids[texts]]), torch.cat([mask, mask[texts]])
        wrong = model.text_encoder(both, masks, encoder_hidden_states=states).last_hidden_state
        logits = model.itm_head(torch.cat([right[:, 0], wrong[:, 0]]))
        truth = torch.arange(3 * count, device=logits.device) < count
        return torch.nn.functional.cross_entropy(logits, truth.long())

    def enqueue(self, **rows: Any) -> None:
        """The queue takes the teacher's vectors."""
        count = len(rows["image"])
        for name, new in rows.items():
            self.queue[name][self.at : self.at + count] = new
        self.at = (self.at + count) % len(self.queue["image"])


def peer(args: argparse.Namespace) -> None:
    """transformers' side, with torch's fused AdamW and one fused update of the teacher."""
    torch, transformers, library = transformers_modules()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    told = json.loads(Path(args.folder, "told.json").read_text())
    model, teacher = (m.to(device) for m in build(torch, transformers, args.folder, told))
    losses = Losses(torch, model, teacher, args.folder, told)
    parameters = list(model.parameters())
    opt = torch.optim.AdamW(parameters, lr=RATE, eps=1e-8, weight_decay=DECAY, fused=True)
    mine = dict(model.named_parameters())
    hers = dict(teacher.named_parameters())
    followed = [mine[name].detach() for name in hers]
    compiled = torch.compile(losses.forward) if args.peer_mode == "compile" else losses.forward

    def run() -> dict[str, float]:
        opt.zero_grad(set_to_none=True)
        itc, itm, lm, image, text = compiled()
        (itc + itm + lm).backward()
        opt.step()
        with torch.no_grad():
            model.temperature.clamp_(0.001, 0.5)
            losses.enqueue(image=image, text=text)
            torch._foreach_lerp_(list(hers.values()), followed, 1 - MOMENTUM)
        return {"itc": itc.item(), "itm": itm.item(), "lm": lm.item()}

    serve({"loss": lambda: {**run(), "library": str(library)}, "step": timed(run)})


def main() -> int:
    """Runs the row."""
    args = parser().parse_args()
    if args.worker:
        {"ours": ours, "peer": peer, "weights": weights}[args.worker](args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        start = [*handed(args, "arch", "batch", "peer-mode"), f"--folder={folder}"]
        weights_of(args.python, __file__, start)
        a, b = sides(args, __file__, start)
        first, theirs = a.ask("loss"), b.ask("loss")
        for name in LOSSES:
            if abs(first[name] - theirs[name]) > 1e-4:
                said = f"ours {first[name]:.6f}, transformers {theirs[name]:.6f}"
                raise SystemExit(f"{name} losses differ: {said}")
        report = {"row": "P20", "arch": args.arch, "batch": args.batch, "peer": args.peer_mode}
        for side, found in (("ours", first), ("peer", theirs)):
            report |= {f"{name}_{side}": found[name] for name in (*LOSSES, "itm")}
        timing = alternate(a, b, args.pairs)
        report["gflops_per_s_ours"] = first["flops"] / timing["seconds_ours"] / 1e9
        report |= timing
    show(report, args.json)
    return 0


if __name__ == "__main__":
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    sys.exit(main())
