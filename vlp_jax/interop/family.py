"""What a released family of checkpoints is: how it is recognised, its names both ways, what its
config says of our parts and back, its pictures and texts.

A family is one object, FAMILY of interop/families/NAME.py, found by that name. The file exists so
that the next family is one more file, and nothing else knows any of them.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.rules import Table
from vlp_jax.interop.tensors import State
from vlp_jax.interop.weights_file import Arrays, read_safetensors

Config = Mapping[str, Any]
Configs = Mapping[str, Config]  # file -> content


@dataclasses.dataclass(frozen=True)
class Beside:
    """What lies beside the weights.

    Attributes:
      folder: where.
      config: content of the family's config file; {} without one.
      file: its path, or "".
      tokenizer: path of a tokenizer, or "".
      tokenizers: what lies beside each of several, {name: Beside}.
    """

    folder: str = ""
    config: Config = dataclasses.field(default_factory=dict)
    file: str = ""
    tokenizer: str = ""
    tokenizers: "Mapping[str, Beside]" = dataclasses.field(default_factory=dict)


class Family:
    """Base of all families.

    Class attributes, of what is read:
      has, lacks: names of tensors that are all there, and none of them, in a file of this family.
      archive: it comes as a TorchScript archive; None: in either form.
      bare: its own names begin with words that training scripts put around others' (`model.`).
      config_name: its config file, or "".
      archs: the file of models/archs that `--arch` names sizes of.
      release: its preprocessing where its files say nothing (interop/preprocess.py); {} for texts.
      antialias: how its library resizes positions (interop/position.py).
      unresizable: why its positions are not resized, or "".
    Of what is written:
      library: its name, for messages.
      to: the `convert --to=` that writes it, or "" for one that is only read.
      methods: names of our methods that it may hold.
      weights_name: the file of the weights.
      alone: the weights without a config can be loaded.
      centre: the centre crop that its library makes of an odd rest (data/framing.py).
      sees_padding: its text tower gets no mask and reads the padding.
      untold: switches that its config need not say, because the weights do or nobody asks.
      unwritten: parts that training alone needs.
      compared: fields of the method itself that its config must say.
      one_tokenizer: all texts of a method are read by the one beside the weights, further ones
        without its cleaning.
      folders: {name: folder beside the weights} of further tokenizers.
    """

    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    archive: bool | None = None
    bare: bool = False
    config_name: str = ""
    archs: str = ""
    release: Mapping[str, Any] = {}
    antialias: bool = True
    unresizable: str = ""
    library: str = ""
    to: str = ""
    methods: tuple[str, ...] = ()
    weights_name: str = "model.safetensors"
    alone: bool = False
    centre: str = "center"
    sees_padding: bool = False
    untold: tuple[str, ...] = ("image.pos_embed",)  # fixed tables are written as weights
    unwritten: tuple[str, ...] = ()
    compared: tuple[str, ...] = ("image_mean", "image_std")
    one_tokenizer: bool = False
    folders: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2]

    def table(self, names: Any) -> Table:
        """The names of its tensors beside ours, for a file that holds `names`, or a tree of ours
        that does (open_clip stores one projection in two ways)."""
        raise NotImplementedError(self.name)

    def known_names(self, state: State) -> State:
        """The tensors under the names of `table`, where some versions write others."""
        return state

    def further(self, state: State, folder: str, read: Callable[[str], State]) -> State:
        """The tensors of further files of a folder, where one network is released as several; read:
        f(path) -> the tensors of a file, or of the weights in a folder."""
        del state, folder, read
        return {}

    def held(self, state: State, beside: Beside) -> State:
        """The tensors, and the numbers of a config that are weights of ours. Raises UserError for
        a number that is none."""
        del beside
        return state

    def recognises(self, state: State, archive: bool) -> bool:
        """Whether a file is of this family, given its tensors under any of its names."""
        state = self.known_names(state)
        form = self.archive is None or self.archive == archive
        there = all(name in state for name in self.has)
        return form and there and not any(name in state for name in self.lacks)

    def foreign(self, config: Config) -> str:
        """What a config is of where it is not of these weights, else ""."""
        del config
        return ""

    def method(self, config: Config, where: str) -> dict[str, Any]:
        """What the library builds of a config, as config of one of our methods: {name, part:
        {...}}; {} where it says no sizes.

        Raises:
          UserError: a value that our networks have not.
        """
        del config, where
        return {}

    def switches(self, state: State, config: Config) -> dict[str, dict[str, Any]]:
        """{part: {field: value}} of what shapes cannot tell, where the config says no sizes."""
        del state, config
        return {}

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Puts into a method's config what the tensors themselves, or further files, say. Returns
        notes for the user."""
        del method, state, beside
        return []

    def inferred(self, state: State) -> dict[str, Any]:
        """Config of a method of ours that the tensors alone say; {} where they do not."""
        del state
        return {}

    def manifest(self, beside: Beside) -> dict[str, Any]:
        """What else of the release a converted folder carries, for vlp_jax.json."""
        del beside
        return {}

    def pictures(self, beside: Beside) -> Mapping[str, Any]:
        """What the files say of pictures; {} where they say nothing."""
        del beside
        return {}

    def has_clips_vocabulary(self, beside: Beside, vocab_size: int) -> bool | None:
        """Whether the config says that texts are CLIP's ids; None where it says nothing of it."""
        del beside, vocab_size
        return None

    def ends_texts(self, method: Config, tokenizer: str) -> bool:
        """Whether the library's tokenizer of this name puts an end behind every text."""
        del method, tokenizer
        return True

    def text_length(self, beside: Beside, positions: int) -> int:
        """Tokens that texts are cut and padded to, of a network with so many positions."""
        del beside
        return positions

    def tokenizers(self, state: State) -> "dict[str, Beside]":
        """What the tensors say of the tokenizers of several texts, {name: Beside}."""
        del state
        return {}

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """How texts are cleaned and padded (data/text) where that is not the tokenizer's own.
        method: the name of ours that the file became."""
        del beside, file, vocab_size, method
        return {}

    def empty_texts(self, ids: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """What a method's config says of {tokenizer: ids of the empty text, without the last's
        repetitions}, of tokenizers whose texts want it."""
        del ids
        return {}

    def takes(self, method: Config) -> bool:
        """Whether it is the one to write a method (api/switches.py `described`)."""
        return method["name"] in self.methods

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """The config files of a method, {file: content}.

        Args:
          method: {name, ..., part: {name, every field}}; numbers: {path: its lone numbers};
            drawing: how it draws, {} where that is not known; image_token: the id that stands for a
          picture, -1 where none came with it; tokenizers: {name: files of it}.
          pictures: its preprocessing.
          tokenizer: {end: its last id, image: that of <image>, where it has none the first that is
            free, said: what open_clip's text_cfg says of it}, or None.

        Raises:
          UserError: a method that the library has no class for.
        """
        del method, pictures, tokenizer
        return {}

    def files(self, method: Config) -> dict[str, bytes]:
        """Further files of a method that are no configs."""
        del method
        return {}

    def spread(self, state: Arrays) -> dict[str, Arrays]:
        """{file: {name: array}} of the weights."""
        return {self.weights_name: state}

    def reread(self, folder: str) -> State:
        """The tensors of what was written to a folder."""
        return read_safetensors(os.path.join(folder, self.weights_name))

    def tokenizer_folder(self, name: str) -> str:
        """Where the tokenizer of a text, by its field, lies in a folder."""
        return self.folders.get(name, "")

    def rebuilt(self, configs: Configs) -> tuple[dict[str, Any], Mapping[str, Any]] | None:
        """(config of the method that its library builds of `configs`, its preprocessing); None
        where there is no config."""
        del configs
        return None

    def notes(self, method: Config, pictures: Config) -> list[str]:
        """What the user of an export should know."""
        return preprocess.unsaid(pictures, self.centre) if pictures else []

    def loading(self, arch: str, configs: Configs) -> str:
        """How the library loads a weights file of this size without its config."""
        del arch, configs
        return ""


def families() -> dict[str, Family]:
    """All there are, by name."""
    found = dispatch.names("interop.families")
    return {name: dispatch.load("interop.families", name, "family").FAMILY for name in found}


def recognise(state: State, archive: bool, where: str) -> Family:
    """The family of a file's tensors.

    Raises:
      UserError: none, or several.
    """
    found = [family for family in families().values() if family.recognises(state, archive)]
    if len(found) > 1:
        names = " and ".join(family.name for family in found)
        raise UserError(f"{where}: its tensors are those of {names}")
    if not found:
        first = ", ".join(list(state)[:3])
        what = f"(holds {first}){_nearly(state)}; families: {', '.join(families())}"
        raise UserError(
            f"{where}: neither an open_clip nor a Hugging Face model that is known {what}"
        )
    return found[0]


def _nearly(state: State) -> str:
    """What the family lacks of whose marks the most are there; "" where none is."""

    def absent(family: Family) -> list[str]:
        known = family.known_names(state)
        return [name for name in family.has if name not in known]

    some = {f.name: absent(f) for f in families().values() if len(absent(f)) < len(f.has)}
    if not some:
        return ""
    name = min(some, key=lambda name: len(some[name]))
    return f"; for {name} it lacks {', '.join(some[name])}" if some[name] else ""
