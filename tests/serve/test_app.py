"""The HTTP interface: what it answers, what it refuses, what it writes down."""

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fedkim_core.ask import Advisor
from fedkim_core.data.study import read_study
from fedkim_core.errors import UserError
from fedkim_core.serve.app import Bounds, create_app, listen

URL = "http://127.0.0.1"
SECRET = "mueller-1947"


@pytest.fixture(scope="module")
def client(advisor: Advisor) -> Iterator[TestClient]:
    with TestClient(create_app(advisor), base_url=URL) as made:
        yield made


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def detail(response: object, status: int = 400) -> str:
    assert response.status_code == status, response.text
    text = response.json()["detail"]
    return text if isinstance(text, str) else json.dumps(text)


def test_answers_as_the_model_does(
    client: TestClient, advisor: Advisor, parts: dict, files: dict[str, Path]
) -> None:
    local = {
        "image": {"image": files["image"]},
        "signal": {"signal": files["header"]},
        "tables": {"tables": files["tables"]},
    }
    asked = {"covid19": "image", "ecg_abnormal": "signal", "mortality": "tables"}
    for task, kind in asked.items():
        reply = client.post("/ask", json={"task": task, kind: parts[kind]})
        assert reply.status_code == 200, reply.text
        hours = advisor.model.cards[task].hours
        features = read_study(advisor.readable(task), hours=hours, image_size=32, **local[kind])
        (want,) = advisor.answer([advisor.example(task, features)])
        assert reply.json()["probability"] == pytest.approx(want.probability, abs=1e-6)
        assert reply.json()["answer"] == want.answer in ("yes", "no")
        assert reply.json()["given"] == list(features)
    words = {"task": "med_vqa_rad", "image": parts["image"], "note": "Cough.", "question": "Where?"}
    reply = client.post("/ask", json=words).json()
    assert reply["probability"] is None
    assert reply["given"] == ["image", "text"]
    assert reply["question"] == "Where?"


def test_health_tasks_page_and_schema(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok"
    tasks = {task["name"]: task for task in client.get("/tasks").json()}
    assert tasks["mortality"]["readable"] == ["vitals", "labs", "inputs", "outputs"]
    page = client.get("/")
    assert "not a medical device" in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/health", "/tasks", "/ask"}
    assert schema["components"]["schemas"]["Request"]["properties"]["task"]["enum"] == list(tasks)
    assert client.get("/docs").status_code == 404


def test_what_cannot_be_used_is_one_line(client: TestClient, parts: dict) -> None:
    no_image = {"format": "png", "data": base64_of(b"\x89PNG no image")}
    cut = {"format": parts["image"]["format"], "data": parts["image"]["data"][:400]}
    other = {"format": "png", "data": base64_of(b"x" * 3000)}
    cases = [
        ({"task": "flu"}, "task flu: not one of this run"),
        ({"task": "covid19"}, "covid19: nothing to read"),
        ({"task": "covid19", "image": no_image}, "image: "),
        ({"task": "covid19", "image": cut}, "image: "),
        ({"task": "covid19", "image": other}, "image: "),
        ({"task": "covid19", "image": {"format": "png", "data": "%%%%"}}, "image: its data are"),
        ({"task": "covid19", "signal": parts["signal"]}, "signal: this task reads image"),
        ({"task": "covid19", "image": parts["image"], "note": "x"}, "note: covid19 reads none"),
        (
            {"task": "ecg_abnormal", "signal": {**parts["signal"], "header": base64_of(b"../x 1")}},
            "signal: the header does not begin with a record's name",
        ),
        (
            {"task": "ecg_abnormal", "signal": {**parts["signal"], "data": "AAAA"}},
            "signal: ",
        ),
        (
            {"task": "mortality", "tables": {"format": "csv", "data": base64_of(b"a,b\n1,2\n")}},
            "tables: column ",
        ),
    ]
    for body, message in cases:
        text = detail(client.post("/ask", json=body))
        assert text.startswith(message), text
        assert "\n" not in text
        assert "/tmp" not in text
    assert client.post("/ask", json={"task": "covid19", "image": parts["image"]}).is_success


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"task": 3},
        {"task": "covid19", "image": "x"},
        {"task": "covid19", "image": {"format": "gif", "data": "AAAA"}},
        {"task": "covid19", "patient": SECRET},
        {"task": "covid19", "note": SECRET * 1000},
    ],
)
def test_wrong_types_are_named_without_the_value(client: TestClient, body: object) -> None:
    assert SECRET not in detail(client.post("/ask", json=body), 422)


def test_no_json_is_refused(client: TestClient) -> None:
    for content, kind in [(b"{", "application/json"), (b"task=covid19", "text/plain")]:
        response = client.post("/ask", content=content, headers={"content-type": kind})
        assert response.status_code == 422
    assert client.get("/ask").status_code == 405
    assert client.post("/ask", json={}, headers={"host": "evil.example"}).status_code == 400


def test_a_large_body_is_refused_while_it_arrives(advisor: Advisor) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 20_000

    app = create_app(advisor, Bounds(megabytes=0.1))
    with TestClient(app, base_url=URL) as small:
        response = small.post("/ask", content=body(), headers={"content-type": "application/json"})
        assert "larger than 0.1 MiB" in detail(response, 413)
        assert small.get("/health").is_success


def test_a_body_that_never_ends_is_given_up(advisor: Advisor) -> None:
    app = create_app(advisor, Bounds(seconds=0.05))
    sent: list[dict] = []

    async def silence() -> dict:
        await asyncio.sleep(60)
        return {}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/ask", "headers": []}
    asyncio.run(app(scope, silence, send))
    assert sent[0]["status"] == 408


def test_an_answer_that_takes_too_long_is_given_up(advisor: Advisor, parts: dict) -> None:
    class Slow(Advisor):
        def answer(self, examples: object) -> list:
            import time

            time.sleep(0.5)
            return super().answer(examples)

    slow = Slow(advisor.model, advisor.config, None, {})
    with TestClient(create_app(slow, Bounds(seconds=0.1)), base_url=URL) as client:
        response = client.post("/ask", json={"task": "covid19", "image": parts["image"]})
        assert detail(response, 503) == "too busy; ask again"
        assert response.headers["retry-after"] == "5"


def test_a_fault_of_ours_keeps_its_text_out_of_the_log(
    advisor: Advisor, parts: dict, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Advisor):
        def answer(self, examples: object) -> list:
            raise RuntimeError(SECRET)

    caplog.set_level(logging.DEBUG)
    app = create_app(Broken(advisor.model, advisor.config, None, {}))
    with TestClient(app, base_url=URL) as client:
        response = client.post("/ask", json={"task": "covid19", "image": parts["image"]})
        assert response.status_code == 500
        assert SECRET not in response.text
        assert client.get("/health").is_success
    assert SECRET not in caplog.text
    assert "RuntimeError at test_app.py" in caplog.text


def test_nothing_of_a_patient_is_logged(
    client: TestClient, parts: dict, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    row = f"hour,modality,variable,value,unit\n0,vitals,{SECRET},1947.5,x\n".encode()
    bodies = [
        {"task": "med_vqa_rad", "image": parts["image"], "note": SECRET, "question": SECRET},
        {"task": "covid19", "image": {"format": "dcm", "data": base64_of(SECRET.encode())}},
        {"task": "mortality", "tables": {"format": "csv", "data": base64_of(row)}},
        {"task": SECRET},
    ]
    for body in bodies:
        client.post("/ask", json=body)
    client.get(f"/ask?name={SECRET}")
    client.get(f"/{SECRET}")
    own = [r.getMessage() for r in caplog.records if not r.name.startswith("httpx")]
    assert any(line.startswith("POST /ask 200") for line in own)
    assert any(line.startswith("GET (other) 404") for line in own)
    for secret in (SECRET, "1947.5", parts["image"]["data"][:30]):
        assert not [line for line in own if secret in line]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\ud800": [None]}, [[]]])
def test_what_json_libraries_write_beyond_json_breaks_nothing(
    client: TestClient, value: object
) -> None:
    """NaN, infinity and half a character, alone and in every place of a request."""
    for body in (value, *({"task": "covid19", key: value} for key in ("task", "image", "note"))):
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        kind = {"content-type": "application/json"}
        response = client.post("/ask", content=content, headers=kind)
        assert response.status_code in (400, 422), response.text


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_break_nothing(client: TestClient, parts: dict, data: st.DataObject) -> None:
    task, kind, key = data.draw(
        st.sampled_from(
            [
                ("covid19", "image", "data"),
                ("ecg_abnormal", "signal", "header"),
                ("ecg_abnormal", "signal", "data"),
                ("mortality", "tables", "data"),
            ]
        )
    )
    content = bytearray(base64.b64decode(parts[kind][key]))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(
            st.integers(0, 255)
        )
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    body = {"task": task, kind: {**parts[kind], key: base64_of(bytes(content))}}
    response = client.post("/ask", json=body)
    assert response.status_code in (200, 400), response.text


def test_a_taken_port_is_one_line() -> None:
    bound = listen("127.0.0.1", 0)
    port = bound.getsockname()[1]
    with pytest.raises(UserError, match=f"--port {port}: cannot listen there"):
        listen("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen there"):
        listen("no-such-host.invalid", 0)
    bound.close()
