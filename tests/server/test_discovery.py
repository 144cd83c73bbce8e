"""The server of a campaign: what is said is durable when it is acknowledged, and what cannot be used gets one line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="serving is an extra")
from fastapi.testclient import TestClient

from everlearn.discovery import Campaign, CampaignConfig
from everlearn.errors import SettingError
from everlearn.runs.database import SQLite
from everlearn.server.discovery_app import create_discovery_app
from everlearn.server.discovery_words import reasons_in
from everlearn.server.security import Tokens
from everlearn.server.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def run(tmp_path):
    """A campaign of 40 recipes, every third one measured; none proposed yet."""
    rows = [f"{t},{f'{-((t - 25) ** 2)} mV' if t % 3 == 0 else ''}" for t in range(40)]
    (tmp_path / "pool.csv").write_text("\n".join(["temperature,y", *rows]))
    config = CampaignConfig.of({"targets": [{"name": "y"}], "inputs": "columns", "batch": 3})
    Campaign.create(tmp_path / "run", tmp_path / "pool.csv", config).close()
    return tmp_path / "run"


@pytest.fixture
def client(run):
    with TestClient(create_discovery_app(Settings(run)), base_url="http://127.0.0.1") as client:
        yield client


def batch(client):
    """The batch, once it is worked out."""
    for _ in range(600):
        found = client.get("/api/v1/batch").json()
        if not found["working"]:
            assert found["fault"] is None
            return found
        time.sleep(0.1)
    raise AssertionError("no batch within a minute")


def shown(client, path):
    """A page; the session that comes with it is dropped, as it would ask for its word with every request."""
    text = client.get(path).text
    client.cookies.clear()
    return text


def tell(client, candidate, value, key="0123456789"):
    return client.post("/api/v1/results", json={"candidate": candidate, "values": {"y": value}, "key": key})


def test_from_the_first_batch_to_the_second(client, run):
    first = batch(client)
    names = [each["name"] for each in first["proposals"]]
    assert first["number"] == 1 and len(names) == 3
    assert client.post("/api/v1/decisions", json={"candidate": names[0], "verdict": "accept"}).status_code == 201
    rejected = {"candidate": names[1], "verdict": "reject", "note": "melts"}
    assert client.post("/api/v1/decisions", json=rejected).json() == rejected | {"by": "local"}
    assert tell(client, names[2], "-1.5 mV").json() == {"candidate": names[2], "again": False, "repeat": False}
    assert tell(client, names[2], "-1.5 mV").json()["again"]
    other = tell(client, names[2], "-2.5 mV")
    assert other.status_code == 409 and "told already with other results" in other.json()["detail"]
    page = shown(client, "/")
    assert "melts" in page and "accepted" in page and "-1.5" in page
    assert client.post("/api/v1/batch").status_code == 202
    second = batch(client)
    assert second["number"] == 2
    assert not {each["name"] for each in second["proposals"]} & set(names)
    page = shown(client, "/")
    assert "Accepted earlier" in page and "Rejected: not proposed again" in page
    assert client.post("/api/v1/decisions", json={"candidate": names[1], "verdict": "undo"}).json()["verdict"] is None


def test_what_a_candidate_tells_is_said_in_korean_too(client):
    (first, *_) = batch(client)["proposals"]
    assert first["why"] == "improve"
    plain, telling = (reasons_in("ko", first | {"why": why}, {"y": "mV"}) for why in ("improve", "learn"))
    assert plain.startswith("예상 y") and telling.endswith(plain) and telling.startswith("그 자체의 값이 아니라")


def test_a_result_can_be_taken_back(client):
    name = batch(client)["proposals"][0]["name"]
    tell(client, name, "-9 mV")
    (line,) = client.get("/api/v1/results").json()
    assert line["results"] == [[name, [-9.0]]] and line["source"] == "page, local"
    assert name in shown(client, "/results")
    assert client.delete(f"/api/v1/results/{line['number']}").json() == []
    assert client.delete(f"/api/v1/results/{line['number']}").status_code == 404
    assert client.app.state.desk.values().get(name) is None


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({"candidate": "row 99", "values": {"y": "1 mV"}}, 404, "there is no candidate 'row 99' in the pool"),
        ({"candidate": "row 3", "values": {"y": "1 V"}}, 422, "y: '1 V' is in V, expected mV as most rows"),
        ({"candidate": "row 3", "values": {"y": "<3 mV"}}, 422, "y: '<3 mV' is a bound, expected a number"),
        ({"candidate": "row 3", "values": {"y": " "}}, 422, "no value is given; expected a number for y"),
        ({"candidate": "row 3", "values": {"z": "1"}}, 404, "there is no target 'z'; expected y"),
    ],
)
def test_what_cannot_be_used_gets_one_line(client, body, status, line):
    answer = client.post("/api/v1/results", json=body | {"key": "0123456789"})
    assert (answer.status_code, answer.json()["detail"]) == (status, line)
    assert client.app.state.desk.campaign.told == []


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("no such\n  formula"), "no such formula"), (MemoryError(), "MemoryError")],
)
def test_whatever_keeps_a_batch_from_being_worked_out_is_said(run, monkeypatch, error, line):
    def fail(self, n=None):
        raise error

    monkeypatch.setattr(Campaign, "ask", fail)
    with TestClient(create_discovery_app(Settings(run)), base_url="http://127.0.0.1") as client:
        client.app.state.desk._thread.join()
        assert client.get("/api/v1/batch").json()["fault"] == line
        assert client.get("/api/v1/health").json()["status"] == "degraded"
        page = shown(client, "/")
        assert line in page and "Nothing left" not in page


def test_beyond_this_machine_it_asks_for_a_token(run):
    with pytest.raises(SettingError, match="the run has no token"):
        create_discovery_app(Settings(run, host="0.0.0.0"))
    viewer = Tokens(SQLite(run / "journal.sqlite")).create("visitor", "viewer")
    with TestClient(create_discovery_app(Settings(run, host="0.0.0.0")), base_url="http://lab:8420") as client:
        assert client.get("/api/v1/batch").status_code == 401
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        client.headers["authorization"] = f"Bearer {viewer}"
        name = batch(client)["proposals"][0]["name"]
        assert tell(client, name, "1 mV").status_code == 403
        assert "data-result" not in client.get("/").text
        foreign = client.post("/api/v1/batch", headers={"origin": "http://elsewhere"})
        assert foreign.status_code == 403


@contextmanager
def serving(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "everlearn.cli", "serve", str(run), "--port", str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"{address}/api/v1/health", timeout=5) as answer:
                    if not json.load(answer)["working"]:
                        break
            except OSError:
                assert server.poll() is None
            time.sleep(0.1)
        yield address, server
    finally:
        if server.poll() is None:
            server.terminate()
        server.wait(timeout=60)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page in")
def test_in_a_browser_and_killed(run):
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    with serving(run) as (address, server), sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(address)
        cards = page.locator(".proposal")
        assert cards.count() == 3
        names = [cards.nth(i).get_attribute("data-candidate") for i in range(3)]
        cards.nth(0).locator("button[value=accept]").click()
        page.locator(".proposal.accepted").wait_for()
        cards.nth(1).locator("input[name=note]").fill("smells")
        cards.nth(1).locator("button[value=reject]").click()
        page.locator(".proposal.rejected").wait_for()
        assert faults == []
        cards.nth(2).locator("[data-target=y]").fill("7 kV")  # refused: the browser's console says so, too
        cards.nth(2).get_by_text("Save result").click()
        page.get_by_text("is in kV, expected mV").wait_for()
        faults.clear()
        cards.nth(2).locator("[data-target=y]").fill("-0.5 mV")
        cards.nth(2).get_by_text("Save result").click()
        page.locator(".proposal.measured").wait_for()
        server.send_signal(signal.SIGKILL)
        server.wait()
        with Campaign.open(run) as campaign:
            assert {name: d.verdict for name, d in campaign.decisions.items()} == {
                names[0]: "accept",
                names[1]: "reject",
            }
            assert [each.candidate for telling in campaign.told for each in telling.results] == [names[2]]
        browser.close()
    with serving(run) as (address, _), sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(locale="ko-KR")
        page.set_default_timeout(60_000)
        page.goto(address)
        assert [card.get_attribute("data-candidate") for card in page.locator(".proposal").all()] == names
        page.locator("#propose").click()
        page.get_by_text("다음에 측정할 후보: 2차").wait_for()
        page.wait_for_function("document.querySelectorAll('.proposal').length === 3")
        shown = {card.get_attribute("data-candidate") for card in page.locator(".proposal").all()}
        assert not shown & set(names)
        if os.environ.get("EVERLEARN_SHOTS"):
            page.screenshot(path=f"{os.environ['EVERLEARN_SHOTS']}/campaign.png", full_page=True)
        browser.close()
