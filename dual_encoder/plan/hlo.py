"""Reads the text of a compiled program (optimised HLO): what crosses between devices, and what memory is touched.

The text is that of one device's program; shapes in it are per device. The body of a loop stands there once and runs as
often as the compiler noted (`known_trip_count`); all figures here count every run of it.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
         "ragged-all-to-all")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "call", "conditional",
         "partition-id", "replica-id", "add-dependency", "opt-barrier", "async-start", "async-update"}
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
_CALLED_MANY = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array: number of values, bytes, and whether it lies in main memory (HBM) or on the chip (VMEM, SMEM)."""

    values: int
    bytes: int
    main: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `buffers` are the arrays of its result, `operands` the names of what it reads."""

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    attributes: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of KINDS.
      arrays: (number of values, bytes) of each array on one device: of what all-reduce, reduce-scatter and all-to-all
        take in, of what all-gather gives out, of what a permute sends.
      group: number of devices that take part together.
      times: runs per step.
      source: the operation of the model that it came from, as JAX names it; '' when unknown.
    """

    kind: str
    arrays: tuple[tuple[int, int], ...]
    group: int
    times: int
    source: str

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(size for _, size in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that one device must send per run, at least (ring algorithms; Patarasuk and Yuan 2009, theorem 1)."""
        share = (self.group - 1) / self.group
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


Computation = Mapping[str, Instruction]


def parse(text: str) -> tuple[str, dict[str, Computation]]:
    """Returns the name of the entry computation, and name -> computation; a computation maps names to instructions."""
    entry, computations, current = "", {}, {}
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")) and "(" in line:
            name = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
            computations[name] = current = {}
            entry = name if line.startswith("ENTRY ") else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return entry, computations


def collectives(text: str, devices: int) -> list[Collective]:
    """Returns the collectives of a program on `devices` devices; a start/done pair is one."""
    entry, computations = parse(text)
    found, chains = [], set()
    for computation, instruction, times in _executed(entry, computations, 1, inside_fusions=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # TPU: one asynchronous collective stands in several fusions, a step of it in each.
        if chain := re.search(r'chain_id="(\d+)"', instruction.attributes):
            if chain[1] in chains:
                continue
            chains.add(chain[1])
        group = _group_size(instruction.attributes, devices)
        taken = [buffer for name in instruction.operands for buffer in computation[name].buffers]
        whole = group if kind == "all-gather" else 1
        source = re.search(r'op_name="([^"]*)"', instruction.attributes)
        arrays = tuple((whole * one.values, whole * one.bytes) for one in taken)
        found.append(Collective(kind, arrays, group, times, source[1] if source else ""))
    return found


def memory_traffic(text: str) -> int:
    """Returns the bytes of main memory that one run of the program reads and writes.

    Each instruction reads its operands and writes its result; a fusion is one instruction, and reads only the slices
    that it takes of an operand. Arrays that the compiler keeps on the chip cost nothing.
    """
    entry, computations = parse(text)
    return sum(times * _traffic(instruction, computation, computations)
               for computation, instruction, times in _executed(entry, computations, 1, inside_fusions=False))


def _executed(name: str, computations: Mapping[str, Computation], times: int, inside_fusions: bool
              ) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields (computation, instruction, runs) of all that runs, loops included."""
    for instruction in computations[name].values():
        yield computations[name], instruction, times
        if instruction.opcode.endswith(("-done", "-update")) or (instruction.opcode == "fusion" and not inside_fusions):
            continue
        runs = times * (_trip_count(instruction.attributes) if instruction.opcode == "while" else 1)
        for called in _called(instruction):
            yield from _executed(called, computations, runs, inside_fusions)


def _called(instruction: Instruction) -> Iterator[str]:
    for role, name in _CALLED.findall(instruction.attributes):
        if role != "to_apply" or instruction.opcode == "call":  # elsewhere it is the sum or comparison of a reduction
            yield name
    for names in _CALLED_MANY.findall(instruction.attributes):
        yield from re.findall(r"[\w.-]+", names)


def _trip_count(attributes: str) -> int:
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    return int(found[1]) if found else 1


def _group_size(attributes: str, devices: int) -> int:
    """Reads replica_groups, in its three notations: mesh['x'=8,'y'=2] {'x'}, [32,8]<=[256] and {{0,1},{2,3}}."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        # A part of an axis is written 'x':(1)4: the product of what comes before, and the size of the part.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(size) if size else sizes[axis] for axis, size in parts)
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return found[1].count(",") + 1
    return devices


def _traffic(instruction: Instruction, computation: Computation, computations: Mapping[str, Computation]) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "fusion":
        return _fusion_traffic(instruction, computation, computations)
    read = [_main_bytes(computation[name]) for name in instruction.operands]
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * min(read[0], _main_bytes(instruction)) + sum(read[1:])
    if opcode == "dynamic-update-slice":
        return 2 * read[1]
    if opcode == "slice-start":  # (source, target, context): no more is read than written
        source, target = instruction.buffers[:2]
        return target.bytes * (source.main + target.main)
    if opcode in ("copy-start", "all-gather-start", "collective-permute-start"):  # the result repeats the operands
        return _main_bytes(instruction)
    return sum(read) + _main_bytes(instruction)


def _fusion_traffic(instruction: Instruction, computation: Computation, computations: Mapping[str, Computation]) -> int:
    body = computations[next(_called(instruction))]
    parameters = {one.operands[0]: one.name for one in body.values() if one.opcode == "parameter"}
    users: dict[str, list[Instruction]] = {}
    for one in body.values():
        for name in one.operands:
            users.setdefault(name, []).append(one)
    total, in_place = 0, 0
    for number, name in enumerate(instruction.operands):
        using = users.get(parameters[str(number)], [])
        read = _main_bytes(computation[name])
        if using and all(one.opcode in ("dynamic-slice", "slice", "gather") for one in using):
            read = min(read, sum(buffer.bytes for one in using for buffer in one.buffers))
        elif using and all(one.opcode == "dynamic-update-slice" and one.operands[0] == parameters[str(number)]
                           for one in using):
            written = sum(body[one.operands[1]].buffers[0].bytes for one in using)
            in_place += max(read - written, 0)  # the rest of the target stays where it is
            read = 0
        total += read
    return total + max(_main_bytes(instruction) - in_place, 0)


def _main_bytes(instruction: Instruction) -> int:
    return sum(buffer.bytes for buffer in instruction.buffers if buffer.main)


def _instruction(line: str) -> Instruction:
    """Reads '  ROOT %name = shape opcode(operands), attributes'."""
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    shape_end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    opcode, rest_of = rest[shape_end:].lstrip().split("(", 1)
    operands_end = _closing("(" + rest_of) - 1
    operands, attributes = rest_of[:operands_end - 1], rest_of[operands_end:]
    names = (operands.strip(),) if opcode == "parameter" else tuple(re.findall(r"%([\w.-]+)", operands))
    return Instruction(name.lstrip("%"), opcode, _buffers(rest[:shape_end]), names, attributes)


def _closing(text: str) -> int:
    """Returns the position after the bracket that closes the first one of `text`."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced brackets in '{text[:80]}'")


def _buffers(shape: str) -> tuple[Buffer, ...]:
    """Reads 'f32[16,8]{1,0:T(8,128)S(1)}' or a tuple of such; S(1) and up are memories on the chip."""
    found = []
    for dtype, sizes, layout in _SHAPE.findall(shape):
        bits = {"pred": 8, "token": 0, "opaque": 0}.get(dtype)
        bits = int(re.search(r"\d+", dtype)[0]) if bits is None else bits  # 'bf16', 'f8e4m3fn', 'c64', 's4'
        values = math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        found.append(Buffer(values, -(-values * bits // 8), not re.search(r"S\([1-9]", layout)))
    return tuple(found)
