"""open_clip's own CLIP: a ViT or ModifiedResNet beside its text tower.

Names as in open_clip 3.3.0 (model.py, transformer.py, modified_resnet.py). The file exists to hold
what is this family's alone.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.interop import open_clip_config, preprocess
from vlp_jax.interop.blocks import blocks, linear, norm, patches
from vlp_jax.interop.family import Beside, Config, Configs, Family
from vlp_jax.interop.resnet import counters, residual_stages
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.tensors import State


def resblocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The stacked blocks of open_clip's own transformer."""
    qkv = ("attn.in_proj_weight", "attn.in_proj_bias")
    norms, mlp = ("ln_1", "ln_2"), ("mlp.c_fc", "mlp.c_proj")
    return blocks(ours, f"{theirs}.resblocks.{{i}}", qkv, "attn.out_proj", norms, mlp)


def text_tower(prefix: str, with_bias: bool, part: str = "text") -> tuple[Rule, ...]:
    """open_clip's text tower under a prefix, as our `part`; its projection is a linear layer where
    it has a bias (`proj_bias`), else a bare matrix.
    """
    name = f"{prefix}text_projection"
    return (
        Rule(f"{part}/token_embed/embedding", f"{prefix}token_embedding.weight"),
        Rule(f"{part}/pos_embed", f"{prefix}positional_embedding"),
        *resblocks(part, f"{prefix}transformer"),
        *norm(f"{part}/norm_post", f"{prefix}ln_final"),
        *(linear(f"{part}/head", name) if with_bias else (Rule(f"{part}/head/kernel", name),)),
    )


_VIT = (
    *patches("image/patch_embed", "visual.conv1"),
    Rule("image/cls_token", "visual.class_embedding"),
    Rule("image/pos_embed", "visual.positional_embedding"),
    *norm("image/norm_pre", "visual.ln_pre"),
    *resblocks("image", "visual.transformer"),
    *norm("image/norm_post", "visual.ln_post"),
    *norm("image/fc_norm", "visual.ln_post"),  # final_ln_after_pool
    Rule("image/head/kernel", "visual.proj"),
)
_RESNET = (
    *residual_stages("visual."),
    Rule("image/attnpool/pos_embed", "visual.attnpool.positional_embedding"),
    *(
        rule
        for name in ("query", "key", "value")
        for rule in (
            Rule(
                f"image/attnpool/{name}/kernel",
                f"visual.attnpool.{name[0]}_proj.weight",
                "(h k) i -> i h k",
            ),
            Rule(
                f"image/attnpool/{name}/bias",
                f"visual.attnpool.{name[0]}_proj.bias",
                "(h k) -> h k",
            ),
        )
    ),
    Rule("image/attnpool/out/kernel", "visual.attnpool.c_proj.weight", "o (h k) -> h k o"),
    Rule("image/attnpool/out/bias", "visual.attnpool.c_proj.bias"),
)
SCALARS = (Rule("logit_scale", "logit_scale"), Rule("logit_bias", "logit_bias"))


class OpenClip(Family):
    """A dual encoder with a text tower of open_clip's own."""

    has = ("visual.conv1.weight",)
    archive = False
    config_name = "open_clip_config.json"
    archs = "clip"
    release = preprocess.OPEN_CLIP
    library = to = "open_clip"
    methods = ("clip", "siglip")
    weights_name = "open_clip_model.safetensors"
    alone = True

    def table(self, names: Any) -> Table:
        """The projection of texts is a linear layer where it has a bias."""
        with_bias = "text_projection.weight" in names or "text/head/bias" in names
        rules = (*_VIT, *_RESNET, *text_tower("", with_bias), *SCALARS)
        unread = (r".*num_batches_tracked", "attn_mask")
        return Table("open_clip", rules, ignored=unread, counters=counters("visual."))

    def known_names(self, state: State) -> State:
        """Custom-text models put the native text tower under `text.`, which is dropped."""
        if not {"visual.conv1.weight", "text.token_embedding.weight"} <= set(state):
            return state
        return {name.removeprefix("text."): tensor for name, tensor in state.items()}

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """See interop/open_clip_config.py; {} for a config that says no towers."""
        model = config.get("model_cfg") or {}
        whole = {"vision_cfg", "text_cfg"} <= set(model)
        return open_clip_config.read(model, where) if whole else {}

    def switches(self, state: State, config: Config) -> dict[str, dict[str, Any]]:
        """QuickGELU, where the config says it."""
        return self.quick(state, bool((config.get("model_cfg") or {}).get("quick_gelu")))

    def quick(self, state: State, on: bool) -> dict[str, dict[str, Any]]:
        """QuickGELU in the towers that have an activation."""
        said = {"activation": "quick_gelu"} if on else {}
        return {"image": said if "visual.class_embedding" in state else {}, "text": said}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """With a bias of the logits it is a SigLIP."""
        method["name"] = "siglip" if "logit_bias" in state else "clip"
        return []

    def pictures(self, beside: Beside) -> Mapping[str, Any]:
        """preprocess_cfg."""
        if not beside.config:
            return {}
        return preprocess.from_open_clip(beside.config.get("preprocess_cfg") or {}, beside.file)

    def has_clips_vocabulary(self, beside: Beside, vocab_size: int) -> bool | None:
        """As open_clip's get_tokenizer decides."""
        if not beside.config:
            return None
        return not _text_cfg(beside.config).get("hf_tokenizer_name") and vocab_size == 49408

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """tokenizer_kwargs."""
        clean = (_text_cfg(beside.config).get("tokenizer_kwargs") or {}).get("clean")
        return {"clean": clean} if clean else {}

    def takes(self, method: Config) -> bool:
        """All image towers but SigLIP's on timm."""
        return super().takes(method) and method["image"].get("pool") != "map"

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """open_clip_config.json."""
        model = open_clip_config.write(method, method["name"] == "siglip")
        model["text_cfg"] |= tokenizer["said"] if tokenizer else {}
        content = {"model_cfg": model, "preprocess_cfg": preprocess.to_open_clip(pictures)}
        return {self.config_name: content}

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """What open_clip builds of the written config."""
        config = configs[self.config_name]
        pictures = preprocess.from_open_clip(config["preprocess_cfg"], self.config_name)
        return self.method(config, self.config_name), pictures

    def loading(self, arch: str, configs: Configs) -> str:
        """By open_clip's name of the size."""
        pictures = configs[self.config_name]["preprocess_cfg"]
        return f"open_clip.create_model({arch!r}, pretrained=FILE), with {pictures}"


def _text_cfg(config: Config) -> Config:
    return (config.get("model_cfg") or {}).get("text_cfg") or {}


FAMILY = OpenClip()
