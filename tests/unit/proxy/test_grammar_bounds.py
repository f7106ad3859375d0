"""`proxy.grammar_bounds`: grammars that llama-server would die or stand still of are recognised, all others pass."""

from pathlib import Path

import pytest

from supervisor.errors import BadRequest
from supervisor.proxy.grammar_bounds import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_GRAMMAR_BYTES,
    MAX_LOOSE,
    MAX_PATTERN_BYTES,
    MAX_SPAN,
    MAX_WIDE,
    check_grammar,
    check_pattern,
)

GRAMMARS = sorted((Path(__file__).parents[3] / "vendor/llama.cpp/grammars").glob("*.gbnf"))

ORDINARY = {
    "a choice": 'root ::= "yes" | "no"',
    "of json_schema_to_grammar.py": 'root ::= "{" space a-kv ( "," space ( b-kv b-rest | c-kv ) )? "}" space\n'
    'b-rest ::= ( "," space c-kv )?\na-kv ::= "\\"a\\"" space ":" space char{1,40}\nb-kv ::= "b"\nc-kv ::= "c"\n'
    'char ::= [^"\\\\\\x7F\\x00-\\x1F] | [\\\\] (["\\\\bfnrt] | "u" [0-9a-fA-F]{4})\nspace ::= | " " | "\\n"{1,2} [ \\t]{0,20}',
    "right recursion behind what may be absent": "root ::= item ws root?\nws ::= [ \\t\\n]*\nitem ::= [a-z]+ ws",
    "a long text": "root ::= [a-z ]{0,2000}",
    "two lengths": "root ::= [a-z]{0,200} [0-9]{0,200}",
    "many optional ones, apart": "root ::= " + '"a"? "b" ' * 400,
    "parentheses in texts and sets": "root ::= " + '"((((" [)((] ' * 300,
    "comments": "# " + "(" * 1000 + '\nroot ::= "a"',
    "nothing that parses": "?{3}) ) ::= | *",
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY.keys())
def test_ordinary_grammars_pass(text):
    check_grammar(text)


@pytest.mark.skipif(not GRAMMARS, reason="llama.cpp has not been fetched")
def test_those_of_llama_cpp_pass():
    for path in GRAMMARS:
        check_grammar(path.read_text())


def depth(n: int) -> str:
    return "root ::= " + "(" * n + '"a"' + ")" * n


def chain(n: int) -> str:
    return "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(n)) + f'r{n} ::= "a"'


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (depth(MAX_DEPTH - 1), depth(MAX_DEPTH)),
        (chain(MAX_DEPTH - 2), chain(MAX_DEPTH)),
        ('root ::= "' + "a" * (MAX_ELEMENTS // 2000 - 1) + '"{2000}', 'root ::= "' + "a" * (MAX_ELEMENTS // 2000) + '"{2000}'),
        ("root ::= " + '"a"? ' * MAX_LOOSE, "root ::= " + '"a"? ' * (MAX_LOOSE + 1)),
        ("root ::= " + "[a-z]* " * MAX_LOOSE, "root ::= " + "[a-z]* " * (MAX_LOOSE + 1)),
        ("root ::= " + "r " * MAX_LOOSE + '\nr ::= "a"?', "root ::= " + "r " * (MAX_LOOSE + 1) + '\nr ::= "a" | ""'),
        ("root ::= [a-z]{0,512} [a-z]{0,512}", "root ::= [a-z]{0,512} [a-z]{0,513}"),
        ("root ::= [a-z]{1,513} [a-z]{1,513}", "root ::= [a-z]{1,513} [a-z]{1,514}"),
        ("root ::= ([a-z]{0,512}) ([a-z]{0,512})", "root ::= ([a-z]{0,512}) ([a-z]{0,513})"),
        (f'root ::= "a"{{0,{MAX_SPAN}}}', f'root ::= ("a"?){{0,{MAX_LOOSE + 1}}}'),
        ('root ::= "' + "a" * (MAX_GRAMMAR_BYTES - 11) + '"', 'root ::= "' + "a" * (MAX_GRAMMAR_BYTES - 10) + '"'),
    ],
    ids=["depth", "rules", "elements", "optional", "stars", "named", "counted", "least", "groups", "repeated", "size"],
)  # fmt: skip
def test_just_inside_and_just_outside(inside, outside):
    check_grammar(inside)
    with pytest.raises(BadRequest, match="the most is"):
        check_grammar(outside)


def test_doubt_is_counted_through_rules():
    doubling = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(9)) + "r9 ::= [a-z]?"
    with pytest.raises(BadRequest, match="in a row"):
        check_grammar(doubling)


def alike(n: int, begin: str) -> str:
    return "root ::= (" + " | ".join(f'{begin} "{one}"' for one in range(n)) + ")+"


@pytest.mark.parametrize("begin", [".", "[^0]", "[a-z]", "any", '(any | "x")', "space any", "space ."])
def test_alternatives_that_any_character_may_begin_are_few(begin):
    rules = '\nany ::= [^"]\nspace ::= "\\n"?'
    check_grammar(alike(MAX_WIDE, begin) + rules)
    with pytest.raises(BadRequest, match="any character may begin"):
        check_grammar(alike(MAX_WIDE + 1, begin) + rules)


def test_alternatives_that_begin_with_a_text_may_be_many():
    check_grammar(alike(2000, '"x"'))
    check_grammar(alike(2000, "[x]"))


def test_rules_that_refer_to_themselves_end():
    check_grammar("root ::= root | a\na ::= b? a\nb ::= a b")


PATTERNS = [
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,10}$",
    r"^[\w.]{1,64}@[\w]{1,255}\.[a-z]{2,10}$",
    r"^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T)?([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?$",
    r"^\(\(\(\?\?\?\?$",
    "^" + "[(((]" * 100 + "$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ordinary_patterns_pass(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "^" + "(" * MAX_DEPTH + ")" * MAX_DEPTH + "$",
        "^" + "a?" * (MAX_LOOSE + 1) + "$",
        "^(a?){300}$",
        "^" + "(a{0,200})" * 30 + "$",
        "a" * (MAX_PATTERN_BYTES + 1),
    ],
)
def test_patterns_are_held_to_the_same(pattern):
    with pytest.raises(BadRequest):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "braces",
    ["{5,2}", "{ 5 , 2 }", "{5,0}", "{\n5,2}", "{ # a\n5 # b # c\n, # d\n2}", "{#\r5,2}", "{1999,3}"],
)
def test_at_least_more_than_at_most_is_refused(braces):
    """llama-server counts down from below nothing, and takes all memory there is."""
    with pytest.raises(BadRequest, match="at least"):
        check_grammar(f'root ::= "a"{braces}')


@pytest.mark.parametrize("braces", ["{5,2}", "{ 5 , 2 }", "{5x,2y}", "{+5,+2}", "{5,2 }"])
def test_so_it_is_in_a_pattern(braces):
    with pytest.raises(BadRequest, match="at least"):
        check_pattern(f"^a{braces}$")


@pytest.mark.parametrize("braces", ["{2,5}", "{5}", "{5,}", "{0,5}", "{5,5}", "{,5}", "{999,1000000000}"])
def test_ordinary_repetitions_pass(braces):
    check_pattern(f"^a{braces}$")
    check_grammar(f'root ::= "a"{braces}')


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_comment_ends_where_llama_server_ends_it(end):
    """130,000 groups behind a carriage return were taken for a comment, and brought it down."""
    with pytest.raises(BadRequest, match="nested"):
        check_grammar(f"root ::= # words{end}" + "(" * (MAX_DEPTH + 1))
    check_grammar("root ::= # " + "(" * (MAX_DEPTH + 1) + f'{end}"a"')


def test_comments_within_braces_are_read_in_one_go():
    check_grammar('root ::= "a"{' + "#" * 100_000 + "\n")
