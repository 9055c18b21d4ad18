"""What is recorded of: every recipe in smoke form, variants of some, data sets, evaluators.

A case is (recipe, changes) as on a command line: `--config=configs/RECIPE --config.KEY=VALUE`;
{made} and {runs} are folders of the record. The file exists as the one table of cases.
"""

import shlex

Case = tuple[str, dict[str, str]]
TRAIN, VAL, TEST = (f"builtin:emoji/noto-{part}" for part in ("train", "val", "test"))

RUN = {"batch_size": "8", "steps": "10", "optim.warmup_steps": "1", "optim.lr": "1e-3"}
RUN |= {"optim.eps": "1e-3"}  # a gradient of rounding errors alone (keys' biases) moves nothing
RUN |= {"data.path": TRAIN, "data.workers": "0", "data.threads": "2", "data.buckets": "()"}
RUN |= {"method.dtype": "float32", "eval_batch_size": "8"}
FAST = {"optim.lr": "0.1"}  # LARS and momentum
VIT = {"image_size": "32", "method.image.patch_size": "8", "method.image.width": "32"}
VIT |= {"method.image.num_layers": "1", "method.image.head_width": "16"}
PIECES = {"method.image.image_size": "16", "method.image.patch_size": "4"}  # and more of them
PIECES |= {"method.image.width": "32", "method.image.num_layers": "1"}
PIECES |= {"method.image.head_width": "16"}
RESNET = {"image_size": "32", "method.image.width_multiplier": "0.125"}
TEXT = {"method.text.width": "32", "method.text.num_layers": "1", "method.text.num_heads": "2"}
DEEP = {"method.image.num_layers": "2"}
BYTES = {"data.tokenizer": "bytes", "method.text.vocab_size": "259"}
BYTES |= {"data.context_length": "16", "method.text.context_length": "16"}
CLIP = RUN | VIT | TEXT | BYTES | {"method.embed_dim": "32"}
MAE = RUN | VIT | {"method.decoder.num_layers": "1", "method.decoder.width": "32"}
MAE |= {"method.decoder.num_heads": "2"}
SIMCLR = RUN | RESNET | {"method.head.embed_dim": "16"}
CLASSIFY = RUN | VIT | {"data.label": "subcategory", "method.num_classes": "99"}
TASK = RUN | VIT
HOLE = {"method.hole": "16", "method.widths": "(8,4)", "method.critic_widths": "(4,8)"}
CONTEXT = RUN | PIECES | {"image_size": "64", "method.hidden": "(32,)", "method.gap": "4"}
CONTEXT |= {"method.jitter": "2"}
JIGSAW = RUN | PIECES | {"image_size": "60", "method.hidden": "(32,)", "method.tile_width": "8"}
JIGSAW |= {"method.permutations": "12"}
LINEAR = {key: CLASSIFY[key] for key in (*RUN, "data.label", "method.num_classes")} | FAST

RECIPES: dict[str, Case] = {
    "clip_quickstart": ("clip/quickstart.py", CLIP | DEEP),
    "clip_folder": ("clip/folder.py", CLIP | DEEP | {"method.text.num_layers": "2"}),
    "clip_openai": ("clip/openai.py", CLIP),
    "clip_openai_RN50": (
        "clip/openai.py:RN50",
        {key: value for key, value in CLIP.items() if key not in VIT}
        | {"image_size": "32", "method.image.layers": "(1,1,1,1)", "method.image.width": "8"},
    ),
    "clip_lit": ("clip/lit.py", CLIP),
    "clip_align": ("clip/align.py", CLIP),
    "clip_siglip": ("clip/siglip.py", CLIP),
    "mae_tiny": ("mae/tiny.py", MAE),
    "mae_pretrain": ("mae/pretrain.py", MAE),
    "simclr_tiny": ("simclr/tiny.py", SIMCLR),
    "simclr_cifar": ("simclr/cifar.py", SIMCLR | FAST),
    "simclr_imagenet": ("simclr/imagenet.py", SIMCLR | FAST | {"method.canvas": "40"}),
    "simclr_imagenet_v2": (
        "simclr/imagenet.py:r50x1+sk,v2",
        SIMCLR | FAST | {"method.canvas": "40"},
    ),
    "rotation_tiny": ("pretext/rotation.py:tiny", TASK),
    "rotation_full": ("pretext/rotation.py", TASK),
    "rotation_resnet": ("pretext/rotation.py:resnet50", RUN | RESNET),
    "context_tiny": ("pretext/context.py:tiny", CONTEXT),
    "context_full": ("pretext/context.py", CONTEXT),
    "jigsaw_tiny": ("pretext/jigsaw.py:tiny", JIGSAW),
    "jigsaw_full": ("pretext/jigsaw.py", JIGSAW),
    "colorization_tiny": ("pretext/colorization.py:tiny", TASK | {"method.widths": "(8,)"}),
    "colorization_full": ("pretext/colorization.py", TASK | {"method.widths": "(8,)"}),
    "inpainting_tiny": ("pretext/inpainting.py:tiny", TASK | HOLE),
    "inpainting_full": ("pretext/inpainting.py", TASK | HOLE),
    "denoising_tiny": ("pretext/denoising.py:tiny", TASK),
    "denoising_full": ("pretext/denoising.py", TASK),
    "bow_tiny": ("pretext/bow.py:tiny", TASK | {"method.words": "8"}),
    "bow_full": ("pretext/bow.py", TASK | {"method.words": "8"}),
    "classify_tiny": ("classify/tiny.py", CLASSIFY),
    "classify_baselines": ("classify/baselines.py", CLASSIFY),
    "classify_finetune": ("classify/finetune.py", CLASSIFY | DEEP),
    "classify_supervised": ("classify/supervised.py", CLASSIFY | DEEP),
    "classify_linear_probe": ("classify/linear_probe.py", CLASSIFY | FAST),
    "classify_simclr_linear": ("classify/simclr_linear.py:{runs}/simclr", LINEAR),
    "classify_simclr_finetune": ("classify/simclr_finetune.py:{runs}/simclr", LINEAR),
    "classify_simclr_finetune_v2": ("classify/simclr_finetune.py:{runs}/simclr,v2", LINEAR),
}


def changed(name: str, **changes: str) -> Case:
    """A recipe with further changes; `__` in a key is a dot."""
    spec, keys = RECIPES[name]
    return spec, keys | {key.replace("__", "."): value for key, value in changes.items()}


WORDS = {"data.caption": "first", "data.templates": "('a {c}', 'the {c}, drawn')"}
WORDS |= {"data.word_dropout": "0.3", "data.tokenizer_options.clean": "canonicalize"}
BPE = {"data.tokenizer": "clip", "method.text.vocab_size": "49408", "method.text.width": "8"}
STEPS: dict[str, Case] = RECIPES | {
    "clip_quickstart_accumulate": changed("clip_quickstart", accumulate="2"),
    "clip_quickstart_bpe": ("clip/quickstart.py", CLIP | BPE),
    "clip_lit_accumulate": changed("clip_lit", accumulate="2"),
    "clip_lit_init_from": changed(
        "clip_lit",
        init_from="{runs}/ours:image/.*",
        method__embed_dim="24",
        method__image__width="64",
        method__image__head_width="32",
        method__image__num_layers="2",
    ),
    "clip_siglip_accumulate": changed("clip_siglip", accumulate="2"),
    "clip_folder_ema": changed("clip_folder", ema_decay="0.9"),
    "clip_folder_freeze": changed("clip_folder", freeze="('text/.*',)"),
    "clip_folder_buckets": changed("clip_folder", data__buckets="(6,10,16)"),
    "clip_folder_dropout": changed(
        "clip_folder",
        method__image__dropout="0.1",
        method__image__patch_dropout="0.5",
        method__text__dropout="0.1",
    ),
    "clip_openai_bf16": changed("clip_openai", method__dtype="bfloat16"),
    "mae_tiny_accumulate": changed("mae_tiny", accumulate="2"),
    "mae_pretrain_bf16": changed("mae_pretrain", method__dtype="bfloat16"),
    "simclr_tiny_accumulate": changed("simclr_tiny", accumulate="2", accumulate_batchnorm="micro"),
    "simclr_imagenet_bf16": changed("simclr_imagenet", method__dtype="bfloat16"),
}
DEVICES: dict[str, Case] = {  # eight of them
    "clip_quickstart": changed("clip_quickstart"),
    "clip_openai_fsdp": changed("clip_openai", mesh__fsdp="4"),
    "clip_siglip": changed("clip_siglip"),
    "mae_tiny_accumulate": changed("mae_tiny", accumulate="2", batch_size="16"),
    "mae_pretrain_fsdp": changed("mae_pretrain", mesh__fsdp="4"),
}

LIMIT = 20  # pictures of an evaluation whose batches are kept
ARCHIVES, TABLE = "{made}/tar/x-00{0..1}.tar", "{made}/table.csv"
OWN = {key: value for key, value in CLIP.items() if key not in BYTES and key != "data.buckets"}
BATCHES: dict[str, Case] = {  # with the tokenizers of the recipes
    **{
        name: (spec, {k: v for k, v in keys.items() if k not in BYTES and k != "data.buckets"})
        for name, (spec, keys) in RECIPES.items()
    },
    **{
        f"tar_{crop}": changed(
            "clip_folder",
            data__path=ARCHIVES,
            data__image__crop=crop,
            data__image__eval_crop="center" if crop == "random" else crop,
        )
        for crop in ("random", "center", "center_floor", "center_875", "squash", "pad")
    },
    "tar_drop_alpha": changed("clip_folder", data__path=ARCHIVES, data__image__alpha="drop"),
    "tar_words": ("clip/folder.py", CLIP | WORDS | {"data.path": ARCHIVES}),
    "tar_block": changed("clip_folder", data__path=ARCHIVES, data__shuffle="block"),
    "captions": changed("clip_folder", data__path="captions:{made}/captions"),
    "csv": changed("clip_folder", data__path=TABLE),
    "mixture": changed("clip_folder", data__path=f"{ARCHIVES},{TABLE}", data__weights="(3.0,1.0)"),
    "classes": changed(
        "classify_tiny",
        data__path="classes:{made}/classes",
        data__label="label",
        method__num_classes="9",
    ),
    "csv_numbers": changed(
        "classify_tiny", data__path=TABLE, data__label="number", method__num_classes="3"
    ),
}


def evaluated(name: str, **evals: dict[str, str]) -> Case:
    """A recipe with these of its evaluators, or others of a `type`."""
    keys = {f"evals.{n}.{k}": v for n, own in evals.items() for k, v in own.items()}
    return RECIPES[name][0], RECIPES[name][1] | keys


TASKS = ("rotation", "context", "jigsaw", "colorization", "inpainting", "denoising", "bow")
SET = {"path": VAL, "limit": "40"}
SETS = {"train": VAL, "path": TEST, "limit": "60", "label": "category"}
FEW = {"type": "retrieval", "share_duplicates": "True", "captions": "1", "prefix": "a photo of "}
ZERO = SET | {"type": "zeroshot", "label": "category", "templates": "imagenet7"}
EVALS: dict[str, Case] = {
    "clip_quickstart": evaluated(
        "clip_quickstart",
        cross_style=SET,
        category=SET,
        few=SET | FEW,
        several=ZERO,
        knn=SETS | {"type": "knn"},
        probe=SETS | {"type": "probe", "iterations": "20"},
    ),
    "clip_siglip": evaluated("clip_siglip", retrieval=SET | {"type": "retrieval"}),
    "mae_tiny": evaluated("mae_tiny", reconstruction=SET, knn=SETS),
    "simclr_tiny": evaluated(
        "simclr_tiny", neighbours=SET, knn=SETS, probe=SETS | {"iterations": "20"}
    ),
    "classify_tiny": evaluated("classify_tiny", test=SET),
    "classify_baselines": evaluated("classify_baselines", pixel_knn=SETS, knn=SETS),
    **{f"{task}_tiny": evaluated(f"{task}_tiny", task=SET) for task in TASKS},
}


def flags(keys: dict[str, str]) -> str:
    """Changes as on a command line."""
    return " ".join(f"--config.{key}={shlex.quote(value)}" for key, value in keys.items())


EMBED = "embed --checkpoint={runs}/ours --images={made}/captions --texts={made}/texts.txt --json"
EVALUATE = "eval --config=configs/clip/quickstart.py --checkpoint={runs}/ours --out={runs}/eval"
LIMITS = {f"evals.{name}.limit": "40" for name in ("cross_style", "category")}
REPORTS = {
    "eval": f"{EVALUATE} --only=cross_style,category --json {flags(LIMITS)}",
    "train": "train --config=configs/mae/tiny.py --workdir={runs}/train --json "
    + flags(MAE | {"init_from": "{runs}/converted/mae/vlp_jax", "steps": "3", "log_every": "1"})
    + f" {flags({'evals.knn.limit': '40', 'evals.reconstruction.limit': '40'})}",
    "eval_run": "eval --checkpoint={runs}/train --out={runs}/eval_run --json",
}
PLANS = {
    "clip": f"--config=configs/clip/openai.py {flags(CLIP | {'mesh.fsdp': '4'})}",
    "mae": f"--config=configs/mae/tiny.py {flags(MAE)}",
    "siglip": f"--config=configs/clip/siglip.py {flags(CLIP)}",
}
BAD_RUN = f"train --config=configs/clip/folder.py --workdir={{runs}}/bad {flags(CLIP)}"
BAD = shlex.split("""
bacth_size=3 batch_size=0 batch_size=many steps=-1 mesh.data=3 sharding=fdsp method.name=clp
method.image.name=vitt method.image.widht=3 method.unroll=perhaps optim.name=adam
optim.lr=-1 optim.schedule=cosin data.tokenizer=clip data.context_length=99
data.path=/no/such/folder data.image.crop=middle data.caption=catgory data.label=kind
"freeze=('imgae/.*',)" init_from=/no/such/checkpoint evals.x.type=retreival
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
