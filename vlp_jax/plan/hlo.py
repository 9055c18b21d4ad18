"""Collectives of a compiled program, read from its HLO text.

XLA's cost analysis counts a loop body once and gives no collectives; the text has both the trip
counts and the calls. The file exists to turn that text into a short list: kind, axis, count, bytes.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_BITS = re.compile(r"[a-z]+(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|\bbranch_computations=\{([^}]*)\}"
)
_LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_GROUPS = re.compile(
    r"replica_groups=(?:\{\{(?P<listed>[\d,]+)\}"
    r"|\[(?P<shape>[\d,]+)\]<=\[(?P<base>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?"
    r"|mesh\[(?P<mesh>[^\]]*)\] \{(?P<names>[^}]*)\})"
)
# A TPU spreads a collective over fusions: async-collective-start, compute that advances it, -done.
_CONTINUED = re.compile(r"^async-collective-done|\bcalls=%?async_collective_fusion")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


class Instruction(NamedTuple):
    """One line of HLO: its name, result type, operation and the rest of the line."""

    name: str
    type: str
    op: str
    rest: str


class Collective(NamedTuple):
    """Collectives of one kind over the same mesh axes.

    count: executions per step, loop trips included. bytes: of the whole (gathered, reduced or not
    yet scattered) arrays, per device and step.
    """

    kind: str
    axis: str
    count: int
    bytes: int


def _closing(text: str) -> int:
    """Position after the bracket that closes the first one; layouts hold parentheses as well."""
    depths = itertools.accumulate((c == "(") - (c == ")") for c in text)
    return next((place + 1 for place, depth in enumerate(depths) if not depth), len(text))


def _instruction(line: str) -> Instruction | None:
    name, found, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not found:
        return None
    end = rest.find(" ") if not rest.startswith("(") else _closing(rest)
    op, found, arguments = rest[end:].strip().partition("(")
    return Instruction(name.lstrip("%"), rest[:end], op, arguments) if found else None


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Splits HLO text into {computation: instructions} and the entry's name."""
    found: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head and not line.startswith(" "):
            current = head[1]
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (instruction := _instruction(line)):
            found[current].append(instruction)
    return found, entry


def array_bytes(type_text: str) -> list[int]:
    """Bytes of every array in a type, in order: 'f32[2,3]{1,0}' -> [24]."""
    sizes = []
    for kind, shape in _ARRAY.findall(type_text):
        bits = 8 if kind == "pred" else int(_BITS.match(kind)[1])
        count = math.prod(int(n) for n in shape.split(",") if n)
        sizes.append((count * bits + 7) // 8)
    return sizes


def _group(rest: str, sizes: Mapping[str, int]) -> tuple[str, int]:
    """(axes of the first replica group, its size); a permutation's is its first pair."""
    total = math.prod(sizes.values())
    found, pair = _GROUPS.search(rest), _PAIRS.search(rest)
    if found and found["mesh"]:
        own = dict(re.findall(r"'(\w+)'=(\d+)", found["mesh"]))
        ids = np.arange(math.prod(map(int, own.values()))).reshape([*map(int, own.values())])
        inside = [f"'{name}'" in found["names"] for name in own]
        members = ids[tuple(slice(None) if within else 0 for within in inside)].ravel().tolist()
    elif found and found["listed"]:
        members = [int(i) for i in found["listed"].split(",")]
    elif found:
        base = [int(i) for i in found["base"].split(",")]
        ids = np.arange(math.prod(base)).reshape(base)
        if found["order"]:
            ids = ids.transpose([int(i) for i in found["order"].split(",")])
        members = ids.reshape([int(i) for i in found["shape"].split(",")])[0].tolist()
    elif pair:
        members = [int(pair[1]), int(pair[2])]
    else:
        members = list(range(total))
    return _axes(members, sizes), len(members)


def _axes(members: list[int], sizes: Mapping[str, int]) -> str:
    """Names of the mesh axes along which the members' coordinates differ."""
    if max(members) >= math.prod(sizes.values()):
        return "unknown"
    places = np.stack(np.unravel_index(members, tuple(sizes.values())))
    differ = [name for name, row in zip(sizes, places, strict=True) if len(set(row.tolist())) > 1]
    return "+".join(differ) or "none"


def _payload(instruction: Instruction, kind: str, members: int) -> int:
    """Bytes of the whole arrays of a collective."""
    sizes = array_bytes(instruction.type)
    if instruction.op.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
        sizes = sizes[1:2] if kind == "collective-permute" else sizes[len(sizes) // 2 :]
    return sum(sizes) * (members if kind == "reduce-scatter" else 1)


def _constants(computation: list[Instruction]) -> dict[str, int]:
    found = {i.name: re.match(r"(-?\d+)\)", i.rest) for i in computation if i.op == "constant"}
    return {name: int(match[1]) for name, match in found.items() if match}


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.partition(")")[0])


def _trips(rest: str, condition: list[Instruction], body: list[Instruction]) -> int:
    """Trip count of a loop: as annotated, or what its counter, from 0, is compared with over what
    the body adds to it; 1 where neither can be read.
    """
    known = _TRIPS.search(rest)
    if known:
        return int(known[1])
    limits, compare = _constants(condition), [i for i in condition if i.op == "compare"]
    if len(compare) != 1 or "direction=LT" not in compare[0].rest:
        return 1
    counter, limit = _operands(compare[0])
    places = [re.search(r"index=(\d+)", i.rest)[1] for i in condition if i.name == counter]
    if limit not in limits or not places:
        return 1
    constants, steps = _constants(body), []
    names = {i.name for i in body if i.op == "get-tuple-element" and f"index={places[0]}" in i.rest}
    for instruction in body:
        operands = _operands(instruction) if instruction.op == "add" else []
        if len(operands) == 2 and operands[0] in names:
            steps.append(constants.get(operands[1], 1))
    # Unrolled bodies add several times; the largest single addition is the body's.
    return -(-limits[limit] // max([1, *steps]))


def _called(instruction: Instruction, program: Mapping) -> Iterator[tuple[str, int]]:
    """(computation, times) that an instruction runs."""
    if instruction.op.endswith(("-done", "-update")) or _CONTINUED.search(
        f"{instruction.name} {instruction.rest}"
    ):
        return  # its start has been counted
    loop = _LOOP.search(instruction.rest)
    if loop:
        condition, body = (program.get(name, []) for name in loop.groups())
        yield loop[2], _trips(instruction.rest, condition, body)
    for one, many in _CALLED.findall(instruction.rest):
        for name in (one, *many.split(",")):
            if name.strip(" %"):
                yield name.strip(" %"), 1


def collectives(text: str, sizes: Mapping[str, int]) -> list[Collective]:
    """All collectives that one run of a program executes, the largest first.

    Args:
      text: compiled HLO.
      sizes: mesh axes and their sizes, in the order of the devices.

    Returns:
      one entry per kind and axes.
    """
    program, entry = computations(text)
    counts: Counter = Counter()
    volume: dict[tuple[str, str], int] = defaultdict(int)

    def visit(name: str, times: int, scattered: bool) -> None:
        for instruction in program.get(name, ()):
            kind = instruction.op.removesuffix("-start")
            if kind in KINDS and not instruction.op.endswith("-done"):
                axis, members = _group(instruction.rest, sizes)
                whole = _payload(instruction, kind, members)
                # A TPU's reduce-scatter is a fusion around an all-reduce of the whole array.
                kind = "reduce-scatter" if scattered and kind == "all-reduce" else kind
                counts[kind, axis] += times
                volume[kind, axis] += times * whole
            for called, trips in _called(instruction, program):
                inside = scattered or "all-reduce-scatter" in f"{instruction.name} {called}"
                visit(called, times * trips, inside)

    visit(entry, 1, False)
    found = [Collective(*key, counts[key], volume[key]) for key in counts if key[1] != "none"]
    return sorted(found, key=lambda c: -c.bytes)


def wire_bytes(found: list[Collective], sizes: Mapping[str, int]) -> float:
    """Bytes that a device sends in ring algorithms: 2 (n - 1) / n of an all-reduce, half of that
    for a gather or scatter, all of a permutation.
    """
    total = 0.0
    for collective in found:
        ways = math.prod(sizes.get(name, 1) for name in collective.axis.split("+"))
        share = (ways - 1) / ways if ways > 1 else 1.0
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(collective.kind, share)
        total += factor * collective.bytes
    return total


def largest(text: str, count: int = 10) -> list[tuple[str, int, str]]:
    """(kind, bytes, source line) of the largest single collectives, to see where they come from."""
    program, _ = computations(text)
    rows = []
    for instruction in itertools.chain.from_iterable(program.values()):
        kind = instruction.op.removesuffix("-start")
        if kind in KINDS:
            source = re.search(r'op_name="([^"]*)"', instruction.rest)
            rows.append((kind, sum(array_bytes(instruction.type)), source[1] if source else ""))
    return sorted(rows, key=lambda row: -row[1])[:count]
