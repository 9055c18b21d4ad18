"""Reads the pickle inside a PyTorch archive without the pickle module: nothing can be called.

A pickle is a program; this file interprets the few instructions that build containers, numbers,
strings and tensors and refuses every other instruction or name before anything is built from it.
References: the opcode table of the standard library's `pickletools`;
`torch._utils._rebuild_tensor_v2` for the arguments of a tensor. The file exists because `.pt` files
come from strangers.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from vlp_jax.core.errors import UserError

MAX_BYTES = (
    64 << 20
)  # of the pickle itself; weights lie beside it (a ViT-bigG state dict needs 0.3 MB)

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of items in the archive member data/KEY."""

    key: str
    dtype: str
    numel: int


@dataclasses.dataclass(frozen=True)
class RawTensor:
    """A strided view of a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Module:
    """An inert stand-in for a TorchScript module: a class name and attributes."""

    def __init__(self, name: str):
        self.name = name
        self.attributes: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or function of the pickle. It is a label: nothing is imported."""

    name: str


_MARK = object()
_LABELS = ("pytorch_lightning.",)  # its callbacks' classes are keys in Stable Diffusion's files
_CONTAINERS = {"collections.OrderedDict": dict} | {
    f"{module}.{kind.__name__}": dict if kind is dict else list
    for module in ("builtins", "__builtin__")
    for kind in (dict, list, set)
}
_JIT_LISTS = {f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_DTYPE_NAMES = {
    f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")
}
_PUSHES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",  # Python 2's text, in Latin-1
    "SHORT_BINSTRING",
}


def read_pickle(
    data: bytes | BinaryIO, where: str, allow_modules: bool = False, storages: dict | None = None
) -> Any:
    """Interprets a pickle of tensors and plain containers.

    Args:
      data: the pickle, or a stream in memory that stands at one; it stands behind it afterwards.
      where: the file, for messages.
      storages: gains {key: Storage} of all that are named.
      allow_modules: admit TorchScript classes (`__torch__.*`) as inert `Module`s.

    Returns:
      dicts, lists, tuples, numbers, strings, None, `RawTensor` and, where allowed, `Module`.

    Raises:
      UserError: any other instruction or class (named), or a damaged pickle.
    """
    if isinstance(data, bytes) and len(data) > MAX_BYTES:
        raise UserError(
            f"{where}: its pickle has {len(data)} bytes, more than any state dict needs"
        )
    reader = _Reader(where, allow_modules, {} if storages is None else storages)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return reader.pop()
            reader.step(opcode.name, argument)
    except UserError:
        raise
    except Exception as error:  # a crafted pickle can fail anywhere: one line, whatever it is
        raise UserError(f"{where}: damaged pickle ({type(error).__name__}: {error})") from error
    raise UserError(f"{where}: damaged pickle (no end)")


class _Reader:
    """A stack and a memo; one `_do_*` method per group of instructions."""

    def __init__(self, where: str, allow_modules: bool, storages: dict[str, Storage]):
        self.where = where
        self.allow_modules = allow_modules
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "NONE": lambda _: self.push(None),
            "NEWTRUE": lambda _: self.push(True),
            "NEWFALSE": lambda _: self.push(False),
            "MARK": lambda _: self.push(_MARK),
            "EMPTY_DICT": lambda _: self.push({}),
            "EMPTY_LIST": lambda _: self.push([]),
            "EMPTY_SET": lambda _: self.push([]),
            "EMPTY_TUPLE": lambda _: self.push(()),
            "TUPLE": lambda _: self.push(tuple(self.pop_mark())),
            "LIST": lambda _: self.push(self.pop_mark()),
            "TUPLE1": lambda _: self.tuple_of(1),
            "TUPLE2": lambda _: self.tuple_of(2),
            "TUPLE3": lambda _: self.tuple_of(3),
            "BINPUT": self.put,
            "LONG_BINPUT": self.put,
            "MEMOIZE": lambda _: self.put(len(self.memo)),
            "BINGET": self.get,
            "LONG_BINGET": self.get,
            "GLOBAL": lambda name: self.push(self.admit(name.replace(" ", "."))),
            "STACK_GLOBAL": self.stack_global,
            "BINPERSID": self.persistent,
            "REDUCE": self.reduce,
            "NEWOBJ": self.new_object,
            "BUILD": self.build,
            "SETITEM": lambda _: self.set_items([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self.set_items(self.pop_mark()),
            "APPEND": lambda _: self.append([self.pop()]),
            "APPENDS": lambda _: self.append(self.pop_mark()),
            "ADDITEMS": lambda _: self.append(self.pop_mark()),
        }

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self.push(argument)
        elif name in self.actions:
            self.actions[name](argument)
        else:
            raise UserError(f"{self.where}: the pickle instruction {name} is not admitted")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("mark where a value was expected")
        return value

    def pop_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def admit(self, name: str) -> _Name:
        """Returns a label for a name on the list, refuses the rest."""
        known = name in _CONTAINERS or name in _JIT_LISTS or name in _DTYPE_NAMES
        known = known or name.startswith(_LABELS)
        known = known or name in (
            "torch._utils._rebuild_tensor_v2",
            "torch._utils._rebuild_parameter",
        )
        known = known or name in (
            "torch.jit._pickle.restore_type_tag",
            "torch.Size",
            "torch.device",
        )
        known = known or (name.startswith("torch.") and name.removeprefix("torch.") in STORAGES)
        known = known or (self.allow_modules and name.startswith("__torch__."))
        if not known:
            raise UserError(
                f"{self.where}: refused, its pickle asks for {name!r}; only tensors and plain"
                " containers are admitted (resave the weights as .safetensors)"
            )
        return _Name(name)

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a class name that is not text")
        self.push(self.admit(f"{module}.{name}"))

    def persistent(self, _: Any) -> None:
        kind, storage, key, _, numel, *view = self.pop()  # a view only before PyTorch 1.6
        if (
            view not in ([], [None])
            or kind != "storage"
            or not isinstance(storage, _Name)
            or type(key) is not str
            or type(numel) is not int
            or numel < 0
        ):
            raise ValueError("an unknown persistent id")
        found = Storage(key, STORAGES[storage.name.removeprefix("torch.")], numel)
        if self.storages.setdefault(key, found) != found:
            raise ValueError("two kinds of one storage")
        self.push(found)

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise ValueError("a call of something that is not a name")
        self.push(self.call(function.name, arguments))

    def call(self, name: str, arguments: tuple) -> Any:
        if name == "torch._utils._rebuild_tensor_v2":
            return _tensor(*arguments[:4])
        if (
            name == "torch._utils._rebuild_parameter"
            or name == "torch.jit._pickle.restore_type_tag"
        ):
            return arguments[0]
        if name in _JIT_LISTS or name == "torch.Size":
            return list(arguments[0])
        if name == "torch.device":
            return str(arguments[0])
        if name not in _CONTAINERS:
            raise UserError(f"{self.where}: refused, its pickle calls {name!r}")
        kind = _CONTAINERS[name]
        return kind(arguments[0]) if arguments else kind()

    def new_object(self, _: Any) -> None:
        arguments, cls = self.pop(), self.pop()
        if not isinstance(cls, _Name) or not cls.name.startswith("__torch__.") or arguments != ():
            raise UserError(
                f"{self.where}: refused, its pickle makes a {getattr(cls, 'name', cls)!r}"
            )
        self.push(Module(cls.name))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Module) and type(state) is dict:
            target.attributes.update(state)
        elif type(target) is not dict:  # an OrderedDict's attributes (_metadata) are of no use here
            raise ValueError("state for something that has none")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("items for something that is not a dict")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("items for something that is not a list")
        target.extend(items)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> RawTensor:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor with a wrong storage, offset, shape or stride")
    if len(shape) != len(stride):
        raise ValueError("a tensor whose shape and strides differ in length")
    return RawTensor(storage, offset, tuple(shape), tuple(stride))
