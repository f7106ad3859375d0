"""`proxy.schema_bounds`: schemas that llama-server would die or stand still of are recognised, all others pass."""

from typing import Any

import pytest

from supervisor.errors import BadRequest
from supervisor.proxy import schema_bounds
from supervisor.proxy.schema_bounds import MAX_MEMBERS, MAX_NAME, MAX_NODES, MAX_REFERENCES, MAX_VALUES

Schema = dict[str, Any]


def tool(schema: Schema) -> Schema:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


# Where a schema may be in a request.
PLACES = {
    "json_schema": lambda schema: {"json_schema": schema},
    "object": lambda schema: {"response_format": {"type": "json_object", "schema": schema}},
    "format": lambda schema: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    },
    "tool": tool,
    "anthropic": lambda schema: {"tools": [{"name": "f", "input_schema": schema}]},
    "responses": lambda schema: {"tools": [{"type": "function", "name": "f", "parameters": schema}]},
}
everywhere = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())


def check(asked: Schema) -> None:
    schema_bounds.check(asked, str)


def numbered(count: int, schema: Any = True) -> Schema:
    return {f"p{number}": schema for number in range(count)}


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        },
        "alias": {"$ref": "#/$defs/node"},
    },
}
ORDINARY = [
    {},
    TREE,
    {"$ref": "#"},
    {"$ref": "#/nowhere"},
    {"$ref": "https://example.com/schema.json"},
    {"type": "object", "properties": {"schema": {"type": "string"}, "parameters": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}},
    {"type": "object", "properties": {"$ref": {"type": "string"}}},
    {"type": "string", "pattern": "^[a-z]{1,20}$", "minLength": 3},
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("schema", ORDINARY)
def test_ordinary_schemas_pass(place, schema):
    check(place(schema))


def test_two_hundred_tools_pass():
    schema = {"type": "object", "properties": numbered(20, {"type": "string", "description": "what it is"})}
    check(
        {
            "tools": [
                {"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(200)
            ]
        }
    )


@everywhere
@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"properties": {"schema": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#/allOf/0"}]},
    ],
)
def test_what_refers_to_nothing_but_itself_is_refused(place, schema):
    with pytest.raises(BadRequest, match="refers to nothing but itself"):
        check(place(schema))


def chain(count: int) -> Schema:
    return {"$defs": [{"$ref": f"#/$defs/{i + 1}"} for i in range(count)], "type": "string"}


@everywhere
@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"properties": numbered(MAX_MEMBERS)}, {"properties": numbered(MAX_MEMBERS + 1)}),
        ({"properties": {"!" * MAX_NAME: {}}}, {"properties": {"!" * (MAX_NAME + 1): {}}}),
        ({"$ref": "#/" + "!" * (2 * MAX_NAME - 2)}, {"$ref": "#/" + "!" * (2 * MAX_NAME - 1)}),
        ({"enum": list(range(MAX_VALUES))}, {"enum": list(range(MAX_VALUES + 1))}),
        (chain(MAX_REFERENCES), chain(MAX_REFERENCES + 1)),
        ({"pattern": "a?" * 64}, {"pattern": "a?" * 65}),
        (
            {"allOf": [{"enum": list(range(4000))} for _ in range(MAX_NODES // 4000 - 1)]},
            {"allOf": [{"enum": list(range(4000))} for _ in range(MAX_NODES // 4000 + 1)]},
        ),
    ],
    ids=["members", "name", "reference", "values", "references", "pattern", "nodes"],
)
def test_just_inside_and_just_outside(place, inside, outside):
    check(place(inside))
    with pytest.raises(BadRequest):
        check(place(outside))


def test_texts_that_were_left_out_are_read_where_they_count():
    told = {"short": "!" * (MAX_NAME + 1)}
    with pytest.raises(BadRequest):
        schema_bounds.check({"json_schema": {"properties": {"short": {}}}}, lambda mark: told.get(mark, mark))


@everywhere
@pytest.mark.parametrize(
    "node",
    [
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2**32 + 2},
        {"type": "string", "minLength": 2**32 + 5, "maxLength": 3},
    ],
)
def test_at_least_more_than_at_most_is_refused(place: Any, node: Schema) -> None:
    with pytest.raises(BadRequest, match="is greater than"):
        schema_bounds.check(place({"properties": {"a": node}}), str)


@everywhere
@pytest.mark.parametrize("most", [5, 6, 2**31 - 1, "many"])
def test_ordinary_counts_pass(place: Any, most: object) -> None:
    schema_bounds.check(
        place({"properties": {"a": {"minLength": 5 if most != "many" else 0, "maxLength": most}}}), str
    )
