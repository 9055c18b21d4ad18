"""Writes one of our tokenizers as the files that open_clip and transformers read.

`bytes` and tokenizer.json files become a tokenizer.json that cleans, cuts, frames and pads as ours
does; CLIP's vocabulary becomes CLIPTokenizer's two files (open_clip has it built in); a
SentencePiece model goes as it is. The file exists because a model without the ids that it was
trained on is no model. What a tokenizer.json cannot say is the repair of broken Unicode and HTML
(clean.py `repair`), which open_clip's reader does and transformers' does not.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.text import Tokenizer, load_tokenizer
from vlp_jax.data.text.clean import clean_fn
from vlp_jax.data.text.clip_bpe import byte_ids, byte_symbols, load_merges

Files = dict[str, str | bytes]  # name -> content, or the path of a file to copy

_SPACES = [
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]
_PUNCTUATION = r"[!-/:-@\[-`{-~]"  # string.punctuation
_BYTES = {0: "<|pad|>", 257: "<|startoftext|>", 258: "<|endoftext|>"}
_CLEAN = {  # data/text/clean.py -> normalizers of tokenizer.json
    "whitespace": _SPACES,
    "lower": [*_SPACES, {"type": "Lowercase"}],
    "canonicalize": [
        {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
        {"type": "Replace", "pattern": {"Regex": _PUNCTUATION}, "content": ""},
        {"type": "Lowercase"},
        *_SPACES,
    ],
    "none": [],
}
_BLIP = {"Regex": r'[.!"()*#:;~]'}  # ids end before the words that its cleaning allows
_CLEAN |= {
    name: [{"type": "Replace", "pattern": _BLIP, "content": put}, {"type": "Lowercase"}, *_SPACES]
    for name, put in (("blip", " "), ("blip_30", " "), ("blip_question", ""))
}


def tokenizer_files(
    spec: Mapping[str, Any], to: str, siglip: bool, ends: bool = True
) -> tuple[Files, dict[str, Any], Tokenizer | None]:
    """The files of a tokenizer for one library.

    Args:
      spec: {name, context_length, options}; name as load_tokenizer takes it, "" for none.
      to: open_clip or hf.
      siglip: for SiglipModel, whose text tower sees the padding and gets no mask.
      ends: it puts the end behind a text; a decoder's goes on from it, however long it is.

    Returns:
      (files, what open_clip's text_cfg says of it, the tokenizer or None).

    Raises:
      UserError: a tokenizer or an option that the library has no class for.
    """
    if not spec.get("name"):
        return {}, {}, None
    options = {k: v for k, v in dict(spec.get("options", {})).items() if v not in ("", -1)}
    tokenizer = load_tokenizer(spec["name"], int(spec["context_length"]), **options)
    clip = spec["name"] == "clip"
    clean = options.get("clean", "lower" if clip else "whitespace")
    if to == "open_clip":
        if clean == "none" or clean.startswith("blip"):
            raise UserError(_refusal(to, f"data.tokenizer_options.clean={clean!r}"))
        said = {} if clean == ("lower" if clip else "whitespace") else {"clean": clean}
        said = {"tokenizer_kwargs": said} if said else {}
        if clip:
            return {}, said, tokenizer
        said["hf_tokenizer_name"] = "."  # `local-dir:` looks into its own folder
        return _files(tokenizer, clean, False), said, tokenizer
    if clip:
        if siglip or clean != "lower":
            what = (
                f"clean={clean!r}" if clean != "lower" else "padding 0, which SigLIP's tower sees"
            )
            raise UserError(_refusal(to, f"data.tokenizer='clip' with {what}"))
        return _clip_files(tokenizer), {}, tokenizer
    if spec["name"].startswith("spm:") and siglip and clean != "canonicalize":
        raise UserError(_refusal(to, f"data.tokenizer_options.clean={clean!r} of SigLIP"))
    return _files(tokenizer, clean, siglip, ends), {}, tokenizer


def _refusal(to: str, what: str) -> str:
    return f"--to={to}: its tokenizers cannot be {what}"


def _files(tokenizer: Tokenizer, clean: str, siglip: bool, ends: bool = True) -> Files:
    if tokenizer.name.startswith("spm:"):
        return _sentencepiece(tokenizer, siglip, ends)
    if tokenizer.name == "bytes":
        content, names = _byte_level(), _BYTES
    else:
        content, names = _read(tokenizer)
    own = content.get("normalizer")
    steps = [*_CLEAN[clean], *([own] if own else [])]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps} if steps else None
    content["post_processor"] = _frame(tokenizer, names, ends)
    content |= {"truncation": None, "padding": None}
    config = _config("PreTrainedTokenizerFast", tokenizer, siglip, ends)
    config |= {"pad_token": names[tokenizer.pad_id], "eos_token": names[tokenizer.eot_id]}
    if tokenizer.prefix:
        config["bos_token"] = names[tokenizer.sot_id]
    config["split_special_tokens"] = not _finds(tokenizer, content, config)
    return {"tokenizer.json": _json(content), "tokenizer_config.json": _json(config)}


def _finds(tokenizer: Tokenizer, content: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether ours takes a special token that a caption spells for that token: those that the file
    itself adds, as BERT's does, where cleaning leaves them as they are. transformers would find
    those that the config names too.
    """
    if tokenizer.name == "bytes":
        return False
    added = {token["content"] for token in content.get("added_tokens", ())}
    named = {config[key] for key in ("pad_token", "eos_token", "bos_token") if key in config}
    clean = clean_fn(tokenizer.options["clean"])
    return named <= added and all(clean(token) == token for token in added)


def _edges(tokenizer: Tokenizer) -> set[int]:
    return {*tokenizer.prefix, *tokenizer.suffix, tokenizer.pad_id}


def _read(tokenizer: Any) -> tuple[dict[str, Any], dict[int, str]]:
    """A tokenizer.json or vocab.txt, and how it spells start, end and padding."""
    return tokenizer.content(), {i: tokenizer.spell(i) for i in _edges(tokenizer)}


def _config(kind: str, tokenizer: Tokenizer, siglip: bool, ends: bool = True) -> dict[str, Any]:
    return {
        "tokenizer_class": kind,
        **({"model_max_length": tokenizer.context_length} if ends else {}),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids"] if siglip else ["input_ids", "attention_mask"],
    }


def _frame(tokenizer: Tokenizer, names: Mapping[int, str], ends: bool) -> dict[str, Any]:
    """Start and, where it ends, end around every text."""
    suffix = tokenizer.suffix if ends else ()
    before, after = (
        [{"SpecialToken": {"id": names[i], "type_id": 0}} for i in ids]
        for ids in (tokenizer.prefix, suffix)
    )
    rows = [
        [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *after]
        for kind, sequence in enumerate("AB")
    ]
    special = {
        names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]}
        for i in (*tokenizer.prefix, *suffix)
    }
    return {
        "type": "TemplateProcessing",
        "single": rows[0],
        "pair": rows[0] + rows[1],
        "special_tokens": special,
    }


def _byte_level() -> dict[str, Any]:
    """tokenizer.json of data/text/bytes.py: one id per byte, nothing to merge."""
    symbols, order = byte_symbols(), byte_ids()
    names = {name: i for i, name in _BYTES.items()}
    vocabulary = names | {symbols[order[byte]]: byte + 1 for byte in range(256)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": True} for name, i in names.items()
        ],
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [],
        },
    }


def _clip_files(tokenizer: Tokenizer) -> Files:
    """CLIP's vocabulary under the names of transformers' CLIPTokenizer."""
    pairs = load_merges()[2].decode().splitlines()
    symbols = byte_symbols()
    spelled = [*symbols, *(f"{s}</w>" for s in symbols), *(p.replace(" ", "") for p in pairs)]
    spelled += ["<|startoftext|>", "<|endoftext|>"]
    config = _config("CLIPTokenizer", tokenizer, siglip=False)
    end = "<|endoftext|>"  # pads too: the causal tower never sees it
    config |= {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end}
    return {
        "vocab.json": _json({piece: i for i, piece in enumerate(spelled)}),
        "merges.txt": "\n".join(["#version: 0.2", *pairs, ""]).encode(),
        "tokenizer_config.json": _json(config),
    }


def _sentencepiece(tokenizer: Tokenizer, siglip: bool, ends: bool) -> Files:
    from sentencepiece import SentencePieceProcessor

    path = os.path.expanduser(tokenizer.name.removeprefix("spm:"))
    spell = SentencePieceProcessor(model_file=path).id_to_piece
    kind = "Llama" if tokenizer.prefix else "Siglip" if siglip else "T5"
    config = _config(f"{kind}Tokenizer", tokenizer, siglip, ends)
    config |= {"pad_token": spell(tokenizer.pad_id), "eos_token": spell(tokenizer.eot_id)}
    config |= {"bos_token": spell(tokenizer.sot_id)} if tokenizer.prefix else {}
    config |= {"extra_ids": 0} if kind == "T5" else {}
    file = "tokenizer.model" if kind == "Llama" else "spiece.model"
    return {file: path, "tokenizer_config.json": _json(config)}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
