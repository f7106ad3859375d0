"""The OpenAPI document is true: schemathesis asks what it describes, and checks the answers against it."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings

from supervisor.control import documents, openapi
from supervisor.control.eventlog import KINDS
from supervisor.control.operations import OPERATIONS
from tests.support.overseer import AT, Surface, ask

EXAMPLES = 25
_folder = tempfile.TemporaryDirectory(prefix="ls-")
SURFACE = Surface(Path(_folder.name))
SURFACE.events.add("state", AT, {"model": "demo"})
schema = schemathesis.openapi.from_asgi("/openapi.json", SURFACE.app)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate()


def document() -> dict[str, Any]:
    status, _, body = asyncio.run(ask(SURFACE.app, "GET", "/openapi.json"))
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def test_every_route_is_in_it_and_nothing_else() -> None:
    described = {
        (method.upper(), path) for path, methods in document()["paths"].items() for method in methods
    }
    served = {
        (method, getattr(route, "path", ""))
        for route in SURFACE.app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    described_by_table = {(one.method, one.path) for one in OPERATIONS}
    assert described == described_by_table
    assert described <= served


def test_ids_are_unique_and_everything_has_words() -> None:
    operations = [one for methods in document()["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"].endswith(".") for one in operations)
    assert all(parameter["description"] for one in operations for parameter in one["parameters"])


def test_every_kind_of_event_is_in_it() -> None:
    content = document()["paths"]["/events"]["get"]["responses"]["200"]["content"]
    kinds = content["text/event-stream"]["schema"]["properties"]["event"]["enum"]
    assert set(kinds) == set(KINDS) | {"snapshot", "gap", "lines"}


def test_refusals_are_described_by_one_type() -> None:
    made = openapi.document()
    name = documents.Error.__name__
    for methods in made["paths"].values():
        for one in methods.values():
            assert {"400", "500"} <= set(one["responses"])
            for status, response in one["responses"].items():
                if status != "200":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{name}"}
