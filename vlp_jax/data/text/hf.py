"""Hugging Face `tokenizer.json` files, and BERT's `vocab.txt`, through the `tokenizers` library.

The file exists so that any released text tower can be fed without transformers and torch. Start and
end are those that the file's own post-processor adds; where it adds none, the end is looked up by
name.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.clean import clean_fn, unchanged, well_formed
from vlp_jax.data.text.tokenizer import Tokenizer
from vlp_jax.data.text.vocab_txt import is_vocabulary, read_vocabulary

_ENDS = ("<|endoftext|>", "</s>", "[SEP]", "<eos>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>")
_PADS = ("<pad>", "[PAD]", "<|pad|>")


def _read(path: str, name: str, below: int | None):
    """The model of a file, and its bytes; see HfTokenizer."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"tokenizer {name!r} needs the tokenizers package: pip install tokenizers"
        ) from None
    if is_vocabulary(path):
        found = read_vocabulary(path)
        return found, found.to_str().encode()
    try:
        with open(path, "rb") as file:
            content = file.read()
        if below is not None:
            content = _without(content, below)
        return tokenizers.Tokenizer.from_buffer(content), content
    except OSError as error:
        raise UserError(f"tokenizer {name!r}: {error.strerror}") from None
    except Exception as error:  # the library raises bare Exception for files it cannot parse
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"tokenizer {name!r} is no tokenizer.json: {first}") from None


def _without(content: bytes, below: int) -> bytes:
    whole = json.loads(content)
    whole["added_tokens"] = [t for t in whole.get("added_tokens") or () if t["id"] < below]
    return json.dumps(whole).encode()


def _named_tokens(path: str) -> dict[str, str]:
    """eos_token and pad_token of the `tokenizer_config.json` beside the file, if any."""
    beside = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8") as file:
            config = json.load(file)
    except ValueError as error:
        raise UserError(f"{beside}: not JSON: {error}") from None
    found = {key: config.get(key) for key in ("eos_token", "pad_token")}
    return {key: v["content"] if isinstance(v, dict) else v for key, v in found.items() if v}


class HfTokenizer(Tokenizer):
    """`PATH/tokenizer.json`, `PATH/vocab.txt` or the folder that holds it.

    clean: see text.clean ('whitespace', as open_clip; 'canonicalize' for SigLIP). pad_id: overrides
    the padding, which is pad_token, else a token named like padding, else 0. end_id: the end where
    the post-processor adds none (language models), else eos_token or a token named like an end.
    below: added tokens with ids from there on are not known (`beyond`). Raises UserError naming the
    file.
    """

    def __init__(
        self,
        name: str,
        context_length: int = 77,
        clean: str = "whitespace",
        pad_id: int | None = None,
        end_id: int | None = None,
        below: int | None = None,
    ):
        said = {"end_id": end_id, "below": below}
        more = {key: value for key, value in said.items() if value is not None}
        super().__init__(name, context_length, clean=clean, pad_id=pad_id, **more)
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            path = os.path.join(path, "vocab.txt" if is_vocabulary(path) else "tokenizer.json")
        self._clean, (self._model, content) = clean_fn(clean), _read(path, name, below)
        self._model.no_padding()
        self._model.no_truncation()
        named = _named_tokens(path)
        self._edges(named.get("eos_token"), end_id)
        known = [
            i for t in (named.get("pad_token"), *_PADS) if t and (i := self._id(t)) is not None
        ]
        self.pad_id = pad_id if pad_id is not None else known[0] if known else 0
        self.vocab_size = max(self._model.get_vocab(with_added_tokens=True).values()) + 1
        for key, one in (("pad_id", self.pad_id), ("end_id", self.eot_id)):
            if not 0 <= one < self.vocab_size:
                inside = f"lies outside [0, {self.vocab_size})"
                raise UserError(f"tokenizer {name!r}: {key}={one} {inside}")
        self._seal(content)

    def _id(self, token: str) -> int | None:
        return self._model.token_to_id(token)

    def _edges(self, end: str | None, end_id: int | None) -> None:
        """Sets prefix and suffix from what the post-processor puts around a text."""
        bare = self._model.encode("a", add_special_tokens=False).ids
        full = self._model.encode("a", add_special_tokens=True).ids
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        self.prefix, self.suffix = tuple(full[:at]), tuple(full[at + len(bare) :])
        if not self.suffix and end_id is not None:
            self.suffix = (end_id,)
        if not self.suffix:
            known = [i for t in (end, *_ENDS) if t and (i := self._id(t)) is not None]
            if not known:
                tried = ", ".join(_ENDS)
                raise UserError(
                    f"tokenizer {self.name!r} has no end token (tried eos_token, {tried})"
                )
            self.suffix = (known[0],)

    def beyond(self, count: int) -> list[str]:
        """The tokens with ids from `count` on, where all of them were added to a vocabulary of so
        many; else []."""
        added = {token["id"]: token["content"] for token in self.content()["added_tokens"]}
        ids = range(count, self.vocab_size)
        return [added[i] for i in ids] if all(i in added for i in ids) else []

    def id_for(self, token: str) -> int:
        """See Tokenizer."""
        found = self._id(token)
        return self.vocab_size if found is None else found

    def among(self, words: Sequence[str]) -> Callable[[str], list[int | str]] | None:
        """See Tokenizer; as transformers' add_tokens, for where a piece begins matters (LLaMA)."""
        if self._clean is not unchanged:
            return None
        from tokenizers import AddedToken

        model = type(self._model).from_str(self._model.to_str())
        model.add_tokens([AddedToken(word, normalized=False) for word in words])
        known = {model.token_to_id(word): word for word in words}

        def split(text: str) -> list[int | str]:
            ids = model.encode(well_formed(text), add_special_tokens=False).ids
            return [known.get(i, i) for i in ids]

        return split

    def content(self) -> dict[str, Any]:
        """What a tokenizer.json of it holds."""
        return json.loads(self._model.to_str())

    def spell(self, token: int) -> str:
        """The text of one id."""
        return self._model.id_to_token(token)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of one text without start and end."""
        text = well_formed(self._clean(text))
        return self._model.encode(text, add_special_tokens=False).ids[:limit]

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end."""
        return self._model.decode(self._body(ids))
