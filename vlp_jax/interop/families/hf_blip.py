"""Hugging Face BlipForConditionalGeneration, BlipForImageTextRetrieval and BlipForQuestionAnswering
(modeling_blip.py): a ViT, and the decoder, the encoder, or an encoder and a decoder of answers.

The file exists to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.core.schema import typed
from vlp_jax.interop import preprocess
from vlp_jax.interop.blip import (
    DECODER_LM,
    ENCODER,
    TIED,
    WORDS,
    check_tied,
    encoder_rules,
    vision_rules,
    whole_decoder,
)
from vlp_jax.interop.blocks import linear, norm
from vlp_jax.interop.config_values import class_of, filled
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.hf import IGNORED, HuggingFace, read_layers, read_vit, write_layers, write_vit
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State

_TEXT = dict(  # of BlipTextConfig, transformers 5.24
    vocab_size=30524, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=8, max_position_embeddings=512, hidden_act="gelu", layer_norm_eps=1e-12,
    bos_token_id=30522, sep_token_id=102, is_decoder=True,
)  # fmt: skip
_VISION = dict(  # of BlipVisionConfig
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    image_size=384, patch_size=16, hidden_act="gelu", layer_norm_eps=1e-5,
)  # fmt: skip
_IMAGE = dict(  # what BlipVisionModel is, whatever its config says
    pool="none", cls_token=True, pos_embed="learned", pre_norm=False, conv_bias=True,
    weight_init="mae",
)  # fmt: skip
CAPTION, MATCH, ANSWER = (
    f"BlipFor{task}" for task in ("ConditionalGeneration", "ImageTextRetrieval",
                                  "QuestionAnswering")
)  # fmt: skip
_VIT = "vision_model"
_RULES = (
    *vision_rules(_VIT),
    *norm("image/norm_post", f"{_VIT}.post_layernorm"),
    *linear("image_proj/out", "vision_proj"),
    *linear("text_proj/out", "text_proj"),
    *linear("itm/out", "itm_head"),
)


class HfBlip(HuggingFace):
    """One of the three classes."""

    has = (f"{_VIT}.embeddings.class_embedding", f"{_VIT}.encoder.layers.0.self_attn.qkv.weight")
    lacks = ("query_tokens",)  # BLIP-2
    ignored = (*IGNORED, *(name.replace(".", r"\.") for name, _ in TIED))
    archs = "blip"
    release = preprocess.BLIP
    methods = ("blip", "blip_vqa")
    one_tokenizer = True
    title, model_type, processor = CAPTION, "blip", "Blip"

    def table(self, names: Any) -> Table:
        """The names of the class whose tensors, or whose parts of ours, `names` are."""
        head = f"{DECODER_LM}cls.predictions.bias"
        if (f"{ENCODER}{WORDS}" in names and head in names) or "answer/head/bias" in names:
            texts = (*encoder_rules("text"), *whole_decoder("answer"))
        elif head in names or "text/head/bias" in names:
            texts = whole_decoder("text")
        else:
            texts = encoder_rules("text")
        rules, unsaid = (*_RULES, *texts), {"temperature": 0.07}  # salesforce/BLIP's first value
        return Table(f"Hugging Face {self.title}", rules, self.ignored, unsaid=unsaid)

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What transformers builds; {} without a config.

        Raises:
          UserError: another class, an unknown activation, a text side without cross-attention,
            answers beside pictures of another width.
        """
        if not config:
            return {}
        kind = class_of(config, (CAPTION, MATCH, ANSWER), where)
        sides = ("vision_config", _VISION), ("text_config", _TEXT)
        vision, words = (filled(usual, config.get(k) or {}, f"{where}: {k}") for k, usual in sides)
        if not words["is_decoder"]:
            raise UserError(f"{where}: text_config: only is_decoder=true is read")
        eyes, mouth = vision["hidden_size"], words["hidden_size"]
        if kind == ANSWER and eyes != mouth:
            sizes = f"vision_config.hidden_size={eyes} and text_config.hidden_size={mouth}"
            raise UserError(f"{where}: {sizes} must be equal for {kind}")
        end = typed(f"{where}: text_config: sep_token_id", words["sep_token_id"], int)
        if not 0 <= end < words["vocab_size"]:  # then no text would ever end
            need = f"must be an id below vocab_size={words['vocab_size']}"
            raise UserError(f"{where}: text_config: sep_token_id={end}: {need}")
        length = words["max_position_embeddings"]
        shared = {
            "image": read_vit(vision, where) | _IMAGE,
            "dec_id": words["bos_token_id"],
            "end_id": end,
            "text_length": min(30, length),
        }
        text = {"name": "med", **read_layers(words, where), "vocab_size": words["vocab_size"]}
        text |= {"context_length": length, "num_heads": words["num_attention_heads"]}
        encoder, decoder = (text | {"roles": role} for role in ("encoder", "decoder"))
        if kind == ANSWER:
            return {"name": "blip_vqa", **shared, "text": encoder, "answer": decoder}
        if kind == CAPTION:
            return {"name": "blip", **shared, "text": decoder, "losses": ("lm",)}
        size = filled({"image_text_hidden_size": 256}, config, where)["image_text_hidden_size"]
        task = {"losses": ("itc", "itm"), "embed_dim": size}
        return {"name": "blip", **shared, "text": encoder, **task}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Older files hold the word head's matrix once more."""
        check_tied(state, TIED, beside.file or "the weights")
        lacks = "itm" in method.get("losses", ())
        return ["the file holds no temperature; 0.07 is taken"] if lacks else []

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """As of the class that holds these parts."""
        found = super().configs(method, pictures, tokenizer)
        found[self.config_name]["architectures"] = [_class_of(method)]
        return found

    def config_json(self, method: Config, tokenizer: Config | None) -> dict[str, Any]:
        """BlipConfig.

        Raises:
          UserError: see `_class_of`; another image tower.
        """
        _class_of(method)
        image, text = method["image"], method["text"]
        if image["name"] != "vit":
            raise UserError("--to=hf: transformers has no BLIP without a ViT")
        words = write_layers(text, text["num_heads"]) | {
            "model_type": "blip_text_model",
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "encoder_hidden_size": image["width"],
            "bos_token_id": _dec_id(method),
            "sep_token_id": method["end_id"],
            "pad_token_id": 0,
            "is_decoder": True,
        }
        vision = {"model_type": "blip_vision_model", **write_vit(image)}
        size = {"image_text_hidden_size": method["embed_dim"]} if "embed_dim" in method else {}
        return {"text_config": words, "vision_config": vision, **size}


def _dec_id(method: Config) -> int:
    said = method["dec_id"]
    return method["text"]["vocab_size"] - 2 if said < 0 else said


def _class_of(method: Config) -> str:
    """The class that holds a method's parts.

    Raises:
      UserError: an encoder and a decoder in one, which no class is.
    """
    if "answer" in method:
        return ANSWER
    roles, matches = method["text"]["roles"], "itm" in method
    if roles == "decoder" and not matches:
        return CAPTION
    if roles == "encoder" and matches:
        return MATCH
    raise UserError(
        f"--to=hf: {MATCH} is method.text.roles='encoder' with its heads, {CAPTION} is 'decoder' "
        f"without; none holds roles={roles!r} with losses={method['losses']}"
    )


FAMILY = HfBlip()
