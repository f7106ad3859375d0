"""JSON schemas that llama-server survives badly, recognised before it makes a grammar of them.

Measured on llama.cpp 0.5.0-dev, two cores:

- A ``$ref`` that leads to nothing but itself, below ``allOf``, ends in a stack overflow however large the stack is.
- A name of a property is matched by a recursive regular expression: 100,000 characters are a stack overflow.
- ``$ref`` to ``$ref`` 10,000 times over likewise; 1,000 are survived with 8 MiB of stack.
- At least 5 and at most 2 characters, or items, are an endless loop that takes all memory.
- n optional properties of one object take n cubed: 0.4 s at 512, 2.2 s at 1024, 20 minutes at some 10,000.
- n values of an ``enum`` take n squared: 0.5 s at 10,000, 44 s at 100,000.
"""

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.errors import BadRequest
from supervisor.proxy.grammar_bounds import check_pattern

MAX_NODES = 50_000  # of all schemas of a request: 200 tools of 20 properties have 15,000
MAX_MEMBERS = 512  # of one object
MAX_NAME = 512  # characters of a name; of a reference twice as many
MAX_VALUES = 5_000  # of one list: enum, required, anyOf ...
MAX_REFERENCES = 1_000
# Members of a request that have schemas in them, in the dialects there are.
MEMBERS = ("tools", "functions", "json_schema", "response_format", "text", "output_config", "output_format")
# Where in them a schema begins, and with it its references; below the first of these the name means nothing.
_ROOTS = frozenset({"schema", "parameters", "input_schema"})

NAMES = frozenset(MEMBERS)
COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"))
_INT = 2**32  # a C++ int is made of a larger number by leaving out what is above

Node = dict[str, Any] | list[Any]


def check(asked: Mapping[str, Any], whole: Callable[[str], str]) -> None:
    """``whole``: the text that a member's value stands for, where long ones were left out.

    Raises:
        BadRequest: a schema is too large, too much nested, or refers to itself in vain.
    """
    left = MAX_NODES
    for member in MEMBERS:
        value = asked.get(member)
        if isinstance(value, dict | list):
            left = _walk(member, value, left, whole)


def _walk(member: str, root: Node, left: int, whole: Callable[[str], str]) -> int:
    """Look at every node below; returns how many of ``left`` remain."""
    references: list[tuple[Node, str]] = []
    to_see: list[tuple[Node, Node | None]] = [(root, root if member == "json_schema" else None)]
    while to_see:
        node, base = to_see.pop()
        left -= len(node)
        if left < 0:
            raise _refused(f"the schemas of {member} have too many parts", MAX_NODES)
        if isinstance(node, list):
            if len(node) > MAX_VALUES:
                raise _refused(f"a list in {member} has {len(node)} values", MAX_VALUES)
            to_see += [(one, base) for one in node if isinstance(one, dict | list)]
            continue
        _look(member, node, whole)
        reference = node.get("$ref")
        if isinstance(reference, str):
            references.append((base or root, whole(reference)))
        for name, one in node.items():
            if isinstance(one, dict | list):
                to_see.append((one, one if base is None and whole(name) in _ROOTS else base))
    if len(references) > MAX_REFERENCES:
        raise _refused(f"{member} has {len(references)} references", MAX_REFERENCES)
    _follow(member, references)
    return left


def _look(member: str, node: dict[str, Any], whole: Callable[[str], str]) -> None:
    if len(node) > MAX_MEMBERS:
        raise _refused(f"an object in {member} has {len(node)} members", MAX_MEMBERS)
    for name in node:
        if len(whole(name)) > MAX_NAME:
            raise _refused(f"a name in {member} has {len(whole(name))} characters", MAX_NAME)
    for least, most in COUNTS:
        if least in node and most in node and _as_int(node[least]) > _as_int(node[most]):
            raise BadRequest(
                f"{least} is greater than {most} in {member}",
                hint="exchange them: llama-server would count down for ever",
            )
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        check_pattern(whole(pattern), where=f"a pattern in {member}")


def _as_int(value: object) -> int:
    """As llama-server reads it; what is none it refuses by itself."""
    if not isinstance(value, int):
        return 0
    return (value + _INT // 2) % _INT - _INT // 2


def _follow(member: str, references: list[tuple[Node, str]]) -> None:
    """References that lead to nothing but references lead somewhere in the end."""
    ended: set[tuple[int, str]] = set()
    for base, reference in references:
        passed: set[tuple[int, str]] = set()
        target: str | None = reference
        while target is not None and (id(base), target) not in ended:
            if len(target) > 2 * MAX_NAME:
                raise _refused(f"a reference in {member} has {len(target)} characters", 2 * MAX_NAME)
            if (id(base), target) in passed:
                raise BadRequest(
                    f"{target[:80]!r} in {member} refers to nothing but itself",
                    hint="let it lead to a schema: llama-server would follow it for ever",
                )
            passed.add((id(base), target))
            node = _resolved(base, target)
            onward = node.get("$ref") if isinstance(node, dict) else None
            target = onward if isinstance(onward, str) else None
        ended |= passed


def _resolved(base: object, reference: str) -> object:
    """What a pointer leads to, as llama-server reads it; None: nothing that is here."""
    if not reference.startswith("#/"):
        return None
    node = base
    for part in reference.split("/")[1:]:
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal() and len(part) < 8 and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _refused(what: str, most: int) -> BadRequest:
    return BadRequest(
        f"{what}; the most is {most}", hint="make it smaller: llama-server would stand still over it"
    )
