"""Schemathesis: whatever the description allows, and what it does not, gets an answer that the
description names, and never a crash."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.http_server import Server, server_process
from voices.uploads import MOST_CONSENT, NAME

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_process(tmp_path_factory.mktemp("openapi"), OPENAI_INPUT_LIMIT="200") as one:
        yield one


OPERATIONS = [
    "POST /v1/audio/speech",
    "POST /v1/audio/speech/plan",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "GET /v1/audio/voices",
    "POST /v1/audio/voices",
    "DELETE /v1/audio/voices/{name}",
    "GET /v1/models",
    "GET /v1/audio/models",
    "GET /v1/models/{name}",
    "POST /v1/models/{name}/load",
    "POST /v1/models/{name}/unload",
    "GET /v1/capabilities",
    "GET /ping",
    "GET /health",
    "GET /metrics",
]
CHECKS: list[Any] = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, GenerationMode.POSITIVE) for name in OPERATIONS),
        *(
            (name, GenerationMode.NEGATIVE)
            for name in OPERATIONS
            if name.startswith("POST /v1/audio")  # the others have no body
        ),
    ],
)
def test_every_answer_is_one_that_the_description_names(
    server: Server, name: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    method, path = name.split()
    operation = schema[path][method]

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        answer = case.call(timeout=120)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            error = json.loads(answer.content)["error"]
            assert set(error) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]

    holds()


def test_the_description_names_every_route_that_is_tested(server: Server) -> None:
    paths = server.call("GET", "/openapi.json").json["paths"]
    named = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    assert named == set(OPERATIONS)


def test_the_description_is_a_page_at_docs_that_needs_nothing_else(server: Server) -> None:
    answer = server.call("GET", "/docs")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    files = re.findall(r'(?:src|href)="([^"]+)"', answer.body.decode())
    assert files == ["docs/swagger-ui.css", "data:,", "docs/swagger-ui-bundle.js"]
    for name in (files[0], files[2]):
        assert len(server.call("GET", f"/{name}").body) > 100_000
    assert server.call("GET", "/docs/../core.py").status == 404


def test_the_form_of_an_upload_is_described(server: Server) -> None:
    description = server.call("GET", "/openapi.json").json
    body = description["paths"]["/v1/audio/voices"]["post"]["requestBody"]
    (named,) = body["content"]["multipart/form-data"]["schema"].values()
    form = description["components"]["schemas"][named.rpartition("/")[2]]
    assert form["required"] == ["name", "consent", "audio_sample"]
    assert form["properties"]["name"]["pattern"] == f"^{NAME.pattern}$"
    assert form["properties"]["consent"]["maxLength"] == MOST_CONSENT
