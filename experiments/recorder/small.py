"""What is recorded of: every recipe in smoke form, variants of some, data, evaluators, commands.

A case is a recipe under configs/ and changes to it, as on a command line; {made} and {runs} are
folders of the record. The file exists as the one table of cases.
"""

import shlex

Keys = dict[str, str]
Case = tuple[str, Keys]
TRAIN, VAL, TEST = (f"builtin:emoji/noto-{part}" for part in ("train", "val", "test"))


def keys(text: str) -> Keys:
    """'a=1 b.c=2' -> {'a': '1', 'b.c': '2'}"""
    return dict(word.split("=", 1) for word in shlex.split(text))


def flags(changes: Keys) -> str:
    """{'a': '1'} -> '--config.a=1'"""
    return " ".join(f"--config.{key}={shlex.quote(value)}" for key, value in changes.items())


# With this eps a gradient of rounding errors alone (that of the keys' biases) moves nothing.
RUN = keys(f"""
batch_size=8 eval_batch_size=8 steps=10 optim.warmup_steps=1 optim.lr=1e-3 optim.eps=1e-3
method.dtype=float32 data.path={TRAIN} data.workers=0 data.threads=2 data.buckets=()
""")
FAST = keys("optim.lr=0.1")  # LARS and momentum
VIT = keys("image_size=32 method.image.patch_size=8 method.image.width=32")
VIT |= keys("method.image.num_layers=1 method.image.head_width=16")
DEEP = keys("method.image.num_layers=2")
PIECES = VIT | keys("method.image.image_size=16 method.image.patch_size=4 method.hidden=(32,)")
RESNET = keys("image_size=32 method.image.width_multiplier=0.125")
TEXT = keys("method.text.width=32 method.text.num_layers=1 method.text.num_heads=2")
BYTES = keys("""
data.tokenizer=bytes method.text.vocab_size=259 data.context_length=16 method.text.context_length=16
""")
PAIRS = RUN | TEXT | BYTES | keys("method.embed_dim=32")
CLIP, TASK = PAIRS | VIT, RUN | VIT
MAE = TASK | keys("method.decoder.num_layers=1 method.decoder.width=32 method.decoder.num_heads=2")
SIMCLR = RUN | RESNET | keys("method.head.embed_dim=16")
LABELS = keys("data.label=subcategory method.num_classes=99")
CLASSIFY = TASK | LABELS
MODIFIED = PAIRS | keys("image_size=32 method.image.layers=(1,1,1,1) method.image.width=8")
CONTEXT = RUN | PIECES | keys("image_size=64 method.gap=4 method.jitter=2")
JIGSAW = RUN | PIECES | keys("image_size=60 method.tile_width=8 method.permutations=12")
COLOUR, WORDS = TASK | keys("method.widths=(8,)"), TASK | keys("method.words=8")
HOLE = TASK | keys("method.hole=16 method.widths=(8,4) method.critic_widths=(4,8)")
CANVAS = SIMCLR | FAST | keys("method.canvas=40")

RECIPES: dict[str, Case] = {
    "clip_quickstart": ("clip/quickstart.py", CLIP | DEEP),
    "clip_folder": ("clip/folder.py", CLIP | DEEP | keys("method.text.num_layers=2")),
    "clip_openai": ("clip/openai.py", CLIP),
    "clip_openai_RN50": ("clip/openai.py:RN50", MODIFIED),
    "clip_lit": ("clip/lit.py", CLIP),
    "clip_align": ("clip/align.py", CLIP),
    "clip_siglip": ("clip/siglip.py", CLIP),
    "mae_tiny": ("mae/tiny.py", MAE),
    "mae_pretrain": ("mae/pretrain.py", MAE),
    "simclr_tiny": ("simclr/tiny.py", SIMCLR),
    "simclr_cifar": ("simclr/cifar.py", SIMCLR | FAST),
    "simclr_imagenet": ("simclr/imagenet.py", CANVAS),
    "simclr_imagenet_v2": ("simclr/imagenet.py:r50x1+sk,v2", CANVAS),
    "rotation_tiny": ("pretext/rotation.py:tiny", TASK),
    "rotation_full": ("pretext/rotation.py", TASK),
    "rotation_resnet": ("pretext/rotation.py:resnet50", RUN | RESNET),
    "context_tiny": ("pretext/context.py:tiny", CONTEXT),
    "context_full": ("pretext/context.py", CONTEXT),
    "jigsaw_tiny": ("pretext/jigsaw.py:tiny", JIGSAW),
    "jigsaw_full": ("pretext/jigsaw.py", JIGSAW),
    "colorization_tiny": ("pretext/colorization.py:tiny", COLOUR),
    "colorization_full": ("pretext/colorization.py", COLOUR),
    "inpainting_tiny": ("pretext/inpainting.py:tiny", HOLE),
    "inpainting_full": ("pretext/inpainting.py", HOLE),
    "denoising_tiny": ("pretext/denoising.py:tiny", TASK),
    "denoising_full": ("pretext/denoising.py", TASK),
    "bow_tiny": ("pretext/bow.py:tiny", WORDS),
    "bow_full": ("pretext/bow.py", WORDS),
    "classify_tiny": ("classify/tiny.py", CLASSIFY),
    "classify_baselines": ("classify/baselines.py", CLASSIFY),
    "classify_finetune": ("classify/finetune.py", CLASSIFY | DEEP),
    "classify_supervised": ("classify/supervised.py", CLASSIFY | DEEP),
    "classify_linear_probe": ("classify/linear_probe.py", CLASSIFY | FAST),
    "classify_simclr_linear": ("classify/simclr_linear.py:{runs}/simclr", RUN | LABELS | FAST),
    "classify_simclr_finetune": ("classify/simclr_finetune.py:{runs}/simclr", RUN | LABELS | FAST),
    "classify_simclr_v2": ("classify/simclr_finetune.py:{runs}/simclr,v2", RUN | LABELS | FAST),
}


def changed(name: str, text: str) -> Case:
    """A recipe of the table with further changes."""
    spec, own = RECIPES[name]
    return spec, own | keys(text)


OURS = "init_from='{runs}/ours:image/.*' method.embed_dim=24 method.image.width=64 "
OURS += "method.image.head_width=32 method.image.num_layers=2"
DROPOUT = "method.image.dropout=0.1 method.image.patch_dropout=0.5 method.text.dropout=0.1"
BPE = "data.tokenizer=clip method.text.vocab_size=49408 method.text.width=8"
STEPS: dict[str, Case] = RECIPES | {
    "clip_quickstart_accumulate": changed("clip_quickstart", "accumulate=2"),
    "clip_quickstart_bpe": changed("clip_quickstart", BPE),
    "clip_lit_accumulate": changed("clip_lit", "accumulate=2"),
    "clip_lit_init_from": changed("clip_lit", OURS),
    "clip_siglip_accumulate": changed("clip_siglip", "accumulate=2"),
    "clip_folder_ema": changed("clip_folder", "ema_decay=0.9"),
    "clip_folder_freeze": changed("clip_folder", "freeze=\"('text/.*',)\""),
    "clip_folder_buckets": changed("clip_folder", "data.buckets=(6,10,16)"),
    "clip_folder_dropout": changed("clip_folder", DROPOUT),
    "clip_openai_bf16": changed("clip_openai", "method.dtype=bfloat16"),
    "mae_tiny_accumulate": changed("mae_tiny", "accumulate=2"),
    "mae_pretrain_bf16": changed("mae_pretrain", "method.dtype=bfloat16"),
    "simclr_tiny_accumulate": changed("simclr_tiny", "accumulate=2 accumulate_batchnorm=micro"),
    "simclr_imagenet_bf16": changed("simclr_imagenet", "method.dtype=bfloat16"),
}
DEVICES: dict[str, Case] = {  # eight of them
    "clip_quickstart": changed("clip_quickstart", ""),
    "clip_openai_fsdp": changed("clip_openai", "mesh.fsdp=4"),
    "clip_siglip": changed("clip_siglip", ""),
    "mae_tiny_accumulate": changed("mae_tiny", "accumulate=2 batch_size=16"),
    "mae_pretrain_fsdp": changed("mae_pretrain", "mesh.fsdp=4"),
}

LIMIT = 20  # pictures of an evaluation whose batches are kept
TAR, TABLE = "{made}/tar/x-00{0..1}.tar", "{made}/table.csv"
CROPS = ("center", "center_floor", "center_875", "squash", "pad")
CAPTIONS = "data.caption=first data.templates=\"('a {c}', 'the {c}, drawn')\" data.word_dropout=0.3"


def read(path: str, text: str = "", name: str = "clip_folder") -> Case:
    """A recipe on another data set."""
    return changed(name, f"data.path={path} {text}")


BATCHES: dict[str, Case] = {  # of the recipes with their own tokenizers
    **{
        name: (spec, {k: v for k, v in own.items() if k not in {*BYTES, "data.buckets"}})
        for name, (spec, own) in RECIPES.items()
    },
    **{f"tar_{c}": read(TAR, f"data.image.crop={c} data.image.eval_crop={c}") for c in CROPS},
    "tar_random": read(TAR),
    "tar_block": read(TAR, "data.shuffle=block"),
    "tar_drop_alpha": read(TAR, "data.image.alpha=drop data.image.resample=bilinear"),
    "tar_captions": read(TAR, f"{CAPTIONS} data.tokenizer_options.clean=canonicalize"),
    "captions": read("captions:{made}/captions"),
    "csv": read(TABLE),
    "csv_numbers": read(TABLE, "data.label=number method.num_classes=3", "classify_tiny"),
    "mixture": read(f"{TAR},{TABLE}", "data.weights=(3.0,1.0)"),
    "classes": read(
        "classes:{made}/classes", "data.label=label method.num_classes=9", "classify_tiny"
    ),
}


def measured(name: str, **evaluators: str) -> Case:
    """A recipe with those of its evaluators, or others where a `type` is given."""
    named = {f"evals.{n}.{k}": v for n, own in evaluators.items() for k, v in keys(own).items()}
    return RECIPES[name][0], RECIPES[name][1] | named


TASKS = ("rotation", "context", "jigsaw", "colorization", "inpainting", "denoising", "bow")
SET = f"path={VAL} limit=40 "
SETS = f"train={VAL} path={TEST} limit=60 label=category "
EVALS: dict[str, Case] = {
    "clip_quickstart": measured(
        "clip_quickstart",
        cross_style=SET,
        category=SET,
        first=SET + "type=retrieval share_duplicates=true captions=1 prefix='a photo of '",
        several=SET + "type=zeroshot label=category templates=imagenet7",
        knn=SETS + "type=knn",
        probe=SETS + "type=probe iterations=20",
    ),
    "clip_siglip": measured("clip_siglip", retrieval=SET + "type=retrieval"),
    "mae_tiny": measured("mae_tiny", reconstruction=SET, knn=SETS),
    "simclr_tiny": measured("simclr_tiny", neighbours=SET, knn=SETS, probe=SETS + "iterations=20"),
    "classify_tiny": measured("classify_tiny", test=SET),
    "classify_baselines": measured("classify_baselines", pixel_knn=SETS, knn=SETS),
    **{f"{task}_tiny": measured(f"{task}_tiny", task=SET) for task in TASKS},
}

EMBED = "embed --checkpoint={runs}/ours --images={made}/captions --texts={made}/texts.txt --json"
LIMITS = flags(keys("evals.cross_style.limit=40 evals.category.limit=40"))
SMALL = MAE | keys("steps=3 log_every=1 evals.knn.limit=40 evals.reconstruction.limit=40")
SMALL |= keys("init_from={runs}/converted/mae/vlp_jax")
REPORTS = {  # what is written to {runs}/NAME
    "eval": "eval --checkpoint={runs}/ours --out={runs}/eval --config=configs/clip/quickstart.py "
    f"--only=cross_style,category --json {LIMITS}",
    "train": f"train --config=configs/mae/tiny.py --workdir={{runs}}/train --json {flags(SMALL)}",
    "eval_run": "eval --checkpoint={runs}/train --out={runs}/eval_run --json",
}
PLANS = {
    "clip": f"--config=configs/clip/openai.py {flags(CLIP | keys('mesh.fsdp=4'))}",
    "mae": f"--config=configs/mae/tiny.py {flags(MAE)}",
    "siglip": f"--config=configs/clip/siglip.py {flags(CLIP)}",
}
BAD_RUN = f"train --config=configs/clip/folder.py --workdir={{runs}}/bad {flags(CLIP)}"
BAD = keys("""
bacth_size=3 batch_size=0 steps=many accumulate=3 mesh.data=3 sharding=fdsp method.name=clp
method.image.name=vitt method.image.widht=3 method.unroll=perhaps method.image.dropout=2
optim.name=adam optim.lr=-1 optim.schedule=cosin data.tokenizer=clip data.context_length=99
data.path=/no/such/folder data.image.crop=middle data.caption=catgory data.label=kind
freeze="('imgae/.*',)" init_from=/no/such/checkpoint evals.x.type=retreival
evals.retrieval.pth=3 evals.retrieval.path=/no/such/set
""")
MISTAKES = """
trian
train --config=configs/clip/quickstrat.py --workdir={runs}/bad
eval --checkpoint=/no/such/folder
eval --checkpoint={made}/tar
embed --checkpoint={runs}/ours --out={runs}/e.npz
embed --checkpoint={runs}/ours --images=/none --out={runs}/e.npz
convert {made}/clip {runs}/other --arch=ViT-B-23
convert {made}/clip {runs}/other --to=hff
plan --config=configs/clip/folder.py --topology=v5e:16
repro no_such_study
""".strip().splitlines()
