"""Reads the text of a compiled program (optimised HLO): its collectives between devices, and its memory traffic.

The text is the program of one device; its shapes are per device. It contains the body of a loop once. The compiler
notes how often the body runs (`known_trip_count`), and all figures here count every run.
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
    """One array of the program.

    Attributes:
      values: number of values.
      bytes: size.
      main: whether it is in main memory (HBM), not in a memory on the chip (VMEM, SMEM).
    """

    values: int
    bytes: int
    main: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction, which is one line of the text.

    Attributes:
      name: its name in the computation.
      opcode: the operation, such as 'fusion'.
      buffers: the arrays of its result.
      operands: the names of the instructions whose results it reads; of a parameter, its number.
      attributes: the rest of the line.
    """

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
      arrays: (number of values, bytes) of each array on one device: of the inputs of all-reduce, reduce-scatter and
        all-to-all, of the output of all-gather, and of the arrays that a permute sends.
      group: number of devices that take part together.
      times: runs per step.
      source: JAX's name for the operation of the model that caused it; '' if unknown.
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
        """The least bytes that one device must send per run (ring algorithms; Patarasuk and Yuan 2009, theorem 1)."""
        share = (self.group - 1) / self.group
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


Computation = Mapping[str, Instruction]


def parse(text: str) -> tuple[str, dict[str, Computation]]:
    """Returns the name of the entry computation, and name -> computation; a computation maps names to instructions."""
    entry = ""
    computations: dict[str, Computation] = {}
    current: dict[str, Instruction] = {}
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
    """Returns the collectives of a program on `devices` devices; a start and its done count as one."""
    entry, computations = parse(text)
    found, chains = [], set()
    for computation, instruction, times in _executed(entry, computations, 1, inside_fusions=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # On a TPU several fusions can each contain one step of the same asynchronous collective.
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

    Each instruction reads its operands and writes its result. A fusion counts as one instruction; if it uses only
    slices of an operand, it reads only these. Arrays that the compiler keeps on the chip are not counted.
    """
    entry, computations = parse(text)
    return sum(times * _traffic(instruction, computation, computations)
               for computation, instruction, times in _executed(entry, computations, 1, inside_fusions=False))


def _executed(name: str, computations: Mapping[str, Computation], times: int, inside_fusions: bool
              ) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields (computation, instruction, runs) for every instruction that runs, also in loops."""
    for instruction in computations[name].values():
        yield computations[name], instruction, times
        if instruction.opcode.endswith(("-done", "-update")) or (instruction.opcode == "fusion" and not inside_fusions):
            continue
        runs = times * (_trip_count(instruction.attributes) if instruction.opcode == "while" else 1)
        for called in _called(instruction):
            yield from _executed(called, computations, runs, inside_fusions)


def _called(instruction: Instruction) -> Iterator[str]:
    for role, name in _CALLED.findall(instruction.attributes):
        if role != "to_apply" or instruction.opcode == "call":  # otherwise it is the sum or comparison of a reduction
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
        # A part of an axis is written 'x':(1)4: the product of the parts before it, and its size.
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
    if opcode == "slice-start":  # (source, target, context): it reads as much as it writes
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
    """Reads 'f32[16,8]{1,0:T(8,128)S(1)}' or a tuple of such shapes; S(1) and up are memories on the chip."""
    found = []
    for dtype, sizes, layout in _SHAPE.findall(shape):
        values = math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        found.append(Buffer(values, -(-values * _bits(dtype) // 8), not re.search(r"S\([1-9]", layout)))
    return tuple(found)


def _bits(dtype: str) -> int:
    """Returns the bits of one value of 'pred', 'bf16', 'f8e4m3fn', 'c64', 's4', ...; 0 for a value without data."""
    if number := re.search(r"\d+", dtype):
        return int(number[0])
    return {"pred": 8, "token": 0, "opaque": 0}[dtype]
