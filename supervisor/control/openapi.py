"""The OpenAPI 3.1 document, made from the table of operations and the types of the documents."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from supervisor import __version__
from supervisor.control import documents
from supervisor.control.eventlog import KINDS
from supervisor.control.operations import OPERATIONS, Operation
from supervisor.control.parameters import Parameter
from supervisor.control.streams import PASSING

VERSION = "3.1.0"
_REFUSALS = {
    400: "a parameter is unknown, missing or not what was expected",
    404: "there is no such model or request",
    409: "several things are meant by that name",
    422: "the configuration is wrong; all is as it was",
    500: "llmsup failed",
    503: "not now: it stops, or too many streams are open",
}


def document(operations: Iterable[Operation] = OPERATIONS) -> dict[str, Any]:
    chosen = tuple(operations)
    kinds = [documents.Error, *dict.fromkeys(one.document for one in chosen)]
    refs, shared = TypeAdapter.json_schemas(
        [(kind, "serialization", TypeAdapter(kind)) for kind in kinds],
        ref_template="#/components/schemas/{model}",
    )
    schemas = dict(shared.get("$defs", {}))
    paths: dict[str, dict[str, Any]] = {}
    for operation in chosen:
        answer = refs[operation.document, "serialization"]
        failure = refs[documents.Error, "serialization"]
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(
            operation, answer, failure
        )
    return {
        "openapi": VERSION,
        "info": {
            "title": "llmsup control",
            "version": __version__,
            "description": "On the UNIX socket `<state_dir>/run/control.sock`, and for admin keys under `/llmsup` on the port.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _described(operation: Operation, answer: Any, failure: Any) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media: {"schema": answer}}
    if operation.streams:
        content["text/event-stream"] = {"schema": _event()}
    statuses = (400, *operation.may_fail, *((422,) if operation.path == "/reload" else ()), 500)
    return {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {
            "200": {"description": "done" if operation.method == "POST" else "as it is", "content": content}
        }
        | {
            str(status): {
                "description": _REFUSALS[status],
                "content": {"application/json": {"schema": failure}},
            }
            for status in sorted(statuses)
        },
    }


def _event() -> dict[str, Any]:
    """Of each server-sent event, its fields."""
    kinds = {**KINDS, **PASSING}
    return {
        "type": "object",
        "description": "; ".join(f"`{kind}`: {when}" for kind, when in kinds.items()),
        "properties": {
            "event": {"type": "string", "enum": list(kinds)},
            "data": {"type": "string", "description": "JSON"},
            "id": {"type": "string", "description": "for Last-Event-ID"},
        },
        "required": ["event", "data"],
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.summary,
        "required": parameter.required,
        "schema": dict(parameter.schema),
    }
