"""Grammars and patterns that llama-server survives badly, recognised before it sees them.

Measured on llama.cpp 0.5.0-dev, two cores, a vocabulary of 533 tokens:

- Nested 19,000 deep its parser ends in a stack overflow (SIGSEGV), with 8 MiB of stack; 147,000 with 64 MiB.
- ``"a"{5,2}`` is an endless loop that takes all memory: it counts from 2 - 5 as a number without a sign.
- A repetition is written out: 30,000 characters 2,000 times over are 1 GiB.
- Items in a row that may all be absent, or end anywhere, leave it in as many states at once, compared each with each, at
  every token of the vocabulary: 100 times ``"a"?`` take 56 ms a token, 200 take 0.6 s, in which nobody's answer
  gets on. Alternatives that begin with different characters do not.

So a text is read once, group by group, and three things are counted: depth, elements and *doubt*: of a row of loose
items (absent or of open length), how many places the next character could belong to.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from supervisor.errors import BadRequest
from supervisor.types import KIB

MAX_GRAMMAR_BYTES = 128 * KIB  # takes 50 ms here; generated ones of large schemas have 20 KiB
MAX_PATTERN_BYTES = 4 * KIB  # of a schema; the longest in use, for IPv6 addresses, have 1 KiB
MAX_DEPTH = 200  # of groups and of rules within rules; llama-server dies at 19,000
MAX_ELEMENTS = 1_000_000  # with all repetitions written out: 56 MiB
MAX_LOOSE = 64  # in a row: 16 ms a token
MAX_WIDE = 128  # alternatives that begin with any character or a set of them: 8,000 took 0.8 s a token
MAX_SPAN = 1024  # lengths that the counted ones of a row may have together: 20 ms a token

# Comments may be within braces too. A carriage return ends them, as in llama-server: what follows is read.
_GAP = r"(?:\s|#[^\r\n]*+)*+"
_GBNF = re.compile(
    r"""#[^\r\n]*|"(?P<text>(?:[^"\\]|\\.)*)"?|\[(?P<set>(?:[^\]\\]|\\.)*)\]?"""
    r"""|(?P<rule>[\w-]+)\s*::=|(?P<name>[\w-]+)|(?P<token>!?<[^>]*>?)"""
    rf"""|\{{{_GAP}(?P<least>\d+){_GAP}(?P<comma>,)?{_GAP}(?P<most>\d*){_GAP}\}}|(?P<mark>[()|?*+.])""",
    re.DOTALL,
)
_PATTERN = re.compile(
    r"""\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|\[(?P<set>(?:[^\]\\]|\\.)*)\]?"""
    # std::stoi reads the digits that a count begins with, and does not mind what follows
    r"""|\{\s*\+?(?P<least>\d*)[^,}]*(?P<comma>,)?\s*\+?(?P<most>\d*)[^}]*\}|(?P<mark>[()|?*+.])|(?P<text>.)""",
    re.DOTALL,
)


@dataclass(slots=True)
class _Item:
    """``size``: its elements; ``calls``: the rule it stands for; ``times``: how often it is written out at most;
    ``span``: how many lengths a counted one may have; ``wide``: it is any character, or one of a set.
    """

    size: int = 1
    calls: str | None = None
    optional: bool = False
    times: int = 1
    span: int = 0
    wide: bool = False


@dataclass(slots=True)
class _Rule:
    """Alternatives, each a row of items. ``nullable``, ``doubt`` and ``span`` once they are known."""

    rows: list[list[_Item]] = field(default_factory=lambda: [[]])
    state: int = 0  # 1: being looked at, 2: known
    nullable: bool = False
    doubt: int = 1  # places where its first character may belong
    span: int = 0  # lengths that its counted repetitions may have, if it may be absent
    wide: int = 0  # ways to begin that almost any character may go


def check_grammar(text: str, *, where: str = "grammar") -> None:
    """Raises BadRequest: too large, too deep, too often repeated, or in doubt for too long."""
    if len(text) > MAX_GRAMMAR_BYTES:
        raise _refused(where, f"is {len(text)} characters long", f"{MAX_GRAMMAR_BYTES}")
    _judge(_rules(_GBNF.finditer(text), where), where)


def check_pattern(text: str, *, where: str = "pattern") -> None:
    """A regular expression of a schema, which llama-server makes a grammar of. Raises as `check_grammar`."""
    if len(text) > MAX_PATTERN_BYTES:
        raise _refused(where, f"is {len(text)} characters long", f"{MAX_PATTERN_BYTES}")
    _judge(_rules(_PATTERN.finditer(text), where), where)


def _rules(tokens: Iterator[re.Match[str]], where: str) -> dict[str, _Rule]:
    """Each group as a rule of its own, as llama-server makes it."""
    top = _Rule()
    rules: dict[str, _Rule] = {"": top}
    open_: list[_Rule] = [top]
    elements = 0
    for token in tokens:
        kind = token.lastgroup
        row = open_[-1].rows[-1]
        if kind == "mark":
            mark = token["mark"]
            if mark == "(":
                group = _Rule()
                name = f"({len(rules)}"
                rules[name] = group
                row.append(_Item(calls=name))
                open_.append(group)
                if len(open_) > MAX_DEPTH:
                    raise _refused(where, f"is nested more than {MAX_DEPTH} deep", f"{MAX_DEPTH}")
            elif mark == ")":
                if len(open_) > 1:
                    open_.pop()
            elif mark == "|":
                open_[-1].rows.append([])
            elif mark == ".":
                row.append(_Item(wide=True))
            elif row:
                row[-1].optional |= mark != "+"
        elif kind in {"least", "comma", "most"}:
            if row:
                elements += _repeat(row[-1], token, where)
        elif kind == "rule":
            del open_[1:]
            open_[0] = rules.setdefault(token["rule"], _Rule())
            open_[0].rows.append([])
        elif kind is None:  # a comment, or an escaped character
            if token[0][0] == "\\":
                row.append(_Item())
        else:
            item = _Item(size=max(1, len(token[kind])), calls=token["name"] if kind == "name" else None)
            item.optional = kind == "text" and not token["text"]
            item.wide = kind == "set" and len(token["set"]) > 1
            row.append(item)
            elements += item.size if item.calls is None else 1
        if elements > MAX_ELEMENTS:
            raise _refused(
                where, "repeats too much", f"{MAX_ELEMENTS} elements, with repetitions written out"
            )
    return rules


def _repeat(item: _Item, token: re.Match[str], where: str) -> int:
    """Note what ``{2,5}`` makes of the item before it. Returns how many elements that adds."""
    least = int(token["least"][:6] or 0)
    if token["comma"] is None:
        most = least
    elif token["most"]:
        most = int(token["most"][:6])
    else:
        most = least
    if most < least and len(token["most"]) <= len(token["least"]):
        raise BadRequest(
            f"{where} repeats something at least {least} and at most {most} times",
            hint="put the smaller number first: llama-server would count down for ever",
        )
    item.optional |= least == 0
    item.span += max(0, most - least)
    item.times *= max(1, least, most)
    return item.size * max(least, most)


def _judge(rules: dict[str, _Rule], where: str) -> None:
    for name in rules:
        _look(rules, name, where, 0)


def _look(rules: dict[str, _Rule], name: str, where: str, depth: int) -> _Rule | None:
    """The rule, with its doubt known; None: there is none, or it is being looked at (it refers to itself)."""
    rule = rules.get(name)
    if rule is None or rule.state == 1:
        return None
    if rule.state == 2:
        return rule
    if depth > MAX_DEPTH:
        raise _refused(where, f"has rules within rules more than {MAX_DEPTH} deep", f"{MAX_DEPTH}")
    rule.state = 1
    for row in rule.rows:
        found = _row(rules, row, where, depth)
        rule.nullable |= found.nullable
        rule.doubt = max(rule.doubt, found.doubt)
        rule.span = max(rule.span, found.span)
        rule.wide += found.wide
        if rule.wide > MAX_WIDE:
            raise _refused(
                where, "has too many alternatives that any character may begin", f"{MAX_WIDE} of one rule"
            )
    rule.state = 2
    return rule


def _row(rules: dict[str, _Rule], row: list[_Item], where: str, depth: int) -> _Rule:
    """What is known of one alternative. Raises BadRequest."""
    run = span = spans = 0
    found = _Rule(nullable=True, doubt=0)
    for item in row:
        called = _look(rules, item.calls, where, depth + 1) if item.calls is not None else None
        nullable, doubt, own = item.optional, 1, item.span
        if called is not None:
            nullable, doubt = nullable or called.nullable, called.doubt
            own += called.span * item.times
            if called.nullable:
                doubt *= item.times
        if found.nullable:
            found.doubt += doubt
            found.wide += item.wide if called is None else called.wide
        found.nullable = found.nullable and nullable
        spans += own
        if not (nullable or own):
            run = span = 0
            continue
        run, span = run + doubt, span + own
        if run > MAX_LOOSE:
            raise _refused(
                where, "has too many items in a row that may be absent or of any length", f"{MAX_LOOSE}"
            )
        if span > MAX_SPAN and span > item.span:
            raise _refused(where, f"allows {span} lengths in a row of counted repetitions", f"{MAX_SPAN}")
    found.span = spans if found.nullable else 0
    found.doubt = max(1, found.doubt)
    return found


def _refused(where: str, what: str, most: str) -> BadRequest:
    return BadRequest(
        f"{where} {what}; the most is {most}", hint="make it simpler: llama-server would stand still over it"
    )
