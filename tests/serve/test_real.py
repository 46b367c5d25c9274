"""A real server on a real port: requests of every kind, 100 MB, and the page in a real browser."""

import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fedkim_core.ask import Advisor
from fedkim_core.serve.app import create_app, listen
from tests.serve.browser import CHROMIUM, open_page


@pytest.fixture(scope="module")
def port(advisor: Advisor) -> Iterator[int]:
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(advisor), ws="none", log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def schema(port: int) -> object:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


interface = schemathesis.pytest.from_fixture("schema")


@interface.parametrize()
@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
def test_every_answer_is_one_that_the_schema_names(case: schemathesis.Case) -> None:
    """Requests that keep the published schema, and others: no 5xx, no other status, type or body
    than the schema has."""
    # That base64 makes a radiograph no schema can say, so what keeps it may be refused.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


def test_a_hundred_megabytes_are_refused_and_the_service_stays_up(port: int) -> None:
    block = b"x" * 2**20
    for chunked in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"content-type": "application/json"}
        if not chunked:
            headers["content-length"] = str(100 * len(block))
        connection.request(
            "POST", "/ask", (block for _ in range(100)), headers, encode_chunked=chunked
        )
        response = connection.getresponse()
        assert response.status == 413
        assert b"larger than 32 MiB" in response.read()
        connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(port: int, files: dict[str, Path], tmp_path: Path) -> None:
    """Choose a task, load a study, see the answer; nothing is fetched from anywhere else."""
    pictures = Path(os.environ.get("FEDKIM_SCREENSHOTS", tmp_path))
    with open_page(f"http://127.0.0.1:{port}/", tmp_path) as page:
        page.until("document.getElementById('task')?.options.length > 0")
        page.until("!document.getElementById('send').disabled")
        assert "not a medical device" in page.value("document.body.innerText")
        choose = "(t => {const s = document.getElementById('task'); s.value = t; "
        choose += "s.dispatchEvent(new Event('change'));})"
        page.value(f"{choose}('covid19')")
        assert page.value("document.getElementById('field-signal').hidden")
        page.choose("#image", files["image"])
        page.value("document.getElementById('send').click()")
        page.until("!document.getElementById('reply').hidden")
        said = page.value("document.getElementById('reply').innerText")
        assert "COVID-19" in said
        assert "Probability of yes:" in said
        assert "Calibration: Unknown" in said
        page.value("window.scrollTo(0, document.body.scrollHeight)")
        page.picture(pictures / "answer.png")

        page.value(f"{choose}('ecg_abnormal')")
        page.choose("#signal", files["header"])
        page.value("document.getElementById('send').click()")
        fault = page.until("document.getElementById('fault').textContent")
        assert fault == "choose the .hea and the .dat file together"
        page.choose("#signal", files["header"], files["data"])
        page.value("document.getElementById('send').click()")
        page.until("!document.getElementById('reply').hidden")
        assert page.value("document.getElementById('fault').textContent") == ""

        page.value(f"{choose}('mortality')")
        page.choose("#tables", files["header"].with_suffix(".dat"))
        page.value("document.getElementById('send').click()")
        fault = page.until("document.getElementById('fault').textContent")
        assert "tables.format" in fault
        page.picture(pictures / "fault.png")
        assert [p for p in page.problems if "status of 422" not in p] == []
