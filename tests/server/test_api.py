"""The API as a client uses it, on a real server with a real writer."""

import asyncio
import base64
import io
import json
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="serving is an extra")
import httpx
from fastapi.testclient import TestClient

from everlearn.errors import RunError, SettingError
from everlearn.server import Settings, create_app
from everlearn.server import served as served_module
from everlearn.server.bounds import HEADERS


@pytest.fixture(scope="module")
def served(learned_run, tmp_path_factory):
    """One server for the module's tests that do not mind each other."""
    import shutil

    path = shutil.copytree(learned_run, tmp_path_factory.mktemp("served") / "run")
    with TestClient(create_app(Settings(path, margin=1.0, max_bytes=200_000)), base_url="http://127.0.0.1") as client:
        client.run = path
        yield client


def png(picture):
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)[0]).save(file, "PNG")
    return file.getvalue()


def learned(client, number):
    for _ in range(600):
        row = client.get(f"/api/v1/reviews/{number}").json()
        if row["in_service"]:
            return row
        time.sleep(0.1)
    raise AssertionError(client.get("/api/v1/metrics").json())


def test_predict_explain_review_learn_undo(served, pictures):
    inputs = pictures[0]
    files = [("files", ("a.png", png(inputs[i]))) for i in range(2)]
    found = served.post("/api/v1/predict", files=files).json()
    assert len(found["predictions"]) == 2 and found["version"] >= 1
    assert sum(found["predictions"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)

    why = served.post(
        "/api/v1/explain", files={"file": png(inputs[0])}, data={"target": "1", "method": "grad_cam"}
    ).json()
    assert why["label"] == "1" and len(why["map"]) == 8 and why["verdict"] in ("supported", "weak", "not supported")

    case = served.post("/api/v1/cases", files={"file": png(inputs[0])}).json()
    assert (
        case["id"].startswith("u")
        and case["id"] == served.post("/api/v1/cases", files={"file": png(inputs[0])}).json()["id"]
    )
    row = served.post(
        "/api/v1/reviews", json={"case_id": case["id"], "verdict": "correct", "label": "a cat", "key": "12345678"}
    )
    assert row.status_code == 201
    again = served.post(
        "/api/v1/reviews", json={"case_id": case["id"], "verdict": "correct", "label": "a cat", "key": "12345678"}
    )
    assert again.json()["number"] == row.json()["number"]
    learned(served, row.json()["number"])
    now = served.get(f"/api/v1/cases/{case['id']}").json()
    assert now["score"]["label"] == "a cat" and now["score"]["version"] > found["version"]

    assert served.delete(f"/api/v1/reviews/{row.json()['number']}").json()["status"] == "withdrawn"
    for _ in range(600):
        if "a cat" not in served.post("/api/v1/predict", files=files).json()["predictions"][0]["probabilities"]:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the class that was taken back is still predicted")


def written(client):
    """The log of predictions, once all of it is in the journal."""
    desk = client.app.state.desk
    for _ in range(600):
        if desk.db.value("SELECT COUNT(*) FROM predictions") == desk.log.count:
            break
        time.sleep(0.1)
    return [tuple(row) for row in desk.db.rows("SELECT what, version, label FROM predictions ORDER BY number")]


def test_each_prediction_records_its_version(served, pictures):
    before, file = len(written(served)), png(pictures[0][4])
    case = served.post("/api/v1/cases", files={"file": file}).json()
    asked = [
        (case["id"], case["score"]),
        ("sent", served.post("/api/v1/predict", files={"files": file}).json()),
        ("sent", served.post("/api/v1/explain", files={"file": file}, data={"method": "grad_cam"}).json()),
        (case["id"], served.get(f"/api/v1/cases/{case['id']}").json()["score"]),
        (case["id"], served.get(f"/api/v1/cases/{case['id']}/explanation?method=grad_cam").json()),
    ]
    said = [
        (what, found["version"], (found["predictions"][0] if "predictions" in found else found)["label"])
        for what, found in asked
    ]
    assert written(served)[before:] == said


def test_the_lists_and_figures(served):
    for order in ("novelty", "doubt"):
        for _ in range(600):
            cases = served.get("/api/v1/worklist", params={"order": order, "limit": 1000}).json()["cases"]
            if all(case["score"] for case in cases):
                break
            time.sleep(0.1)
        values = [case["score"][order] for case in cases]
        assert len(set(values)) > 3 and values == sorted(values, reverse=True)
    page = served.get("/api/v1/memory", params={"label": "1", "limit": 5}).json()
    assert {line["label"] for line in page["samples"]} == {"1"}
    picture = served.get(f"/api/v1/memory/{page['samples'][0]['id']}/picture")
    assert Image.open(io.BytesIO(picture.content)).size == (8, 8)
    assert served.get("/api/v1/versions").json()[-1]["number"] == 1
    assert served.get("/api/v1/metrics").json()["queue"] >= 0
    assert served.get("/api/v1/audit/verify").json()["fault"] is None
    assert served.get("/api/v1/health").json()["status"] == "ok"
    schema = served.get("/api/v1/openapi.json").json()
    assert all(f"/api/v1/{name}" in schema["paths"] for name in ("predict", "explain", "worklist", "reviews", "memory"))


@pytest.mark.parametrize(
    "method, path, sent, status, line",
    [
        ("get", "/cases/s99999999", {}, 404, "there is no case"),
        ("get", "/cases/..%2f..%2fetc", {}, 404, "Not Found"),
        ("get", "/cases/x1", {}, 422, "string should match"),
        ("get", "/cases/s01", {}, 422, "string should match"),
        ("get", "/reviews?case_id=u0", {}, 422, "string should match"),
        ("post", "/reviews", {"json": {"case_id": "u\u0661", "verdict": "unsure"}}, 422, "string should match"),
        ("get", "/reviews/999999", {}, 404, "there is no such review"),
        ("get", "/reviews/99999999999999999999999", {}, 422, "less than"),
        ("get", "/worklist?order=sideways", {}, 422, "expected doubt, novelty, arrival"),
        ("post", "/reviews", {"json": {"case_id": "s99999999", "verdict": "accept"}}, 404, "there is no case"),
        ("post", "/reviews", {"json": {"case_id": "s1", "verdict": "perhaps"}}, 422, "input should be"),
        ("post", "/predict", {"files": {"files": b"no picture"}}, 422, "not a picture"),
        ("post", "/predict", {"files": {"files": b""}}, 422, "file is empty"),
        ("post", "/predict", {"files": {"files": b"x" * 300_000}}, 413, "larger than 200,000 bytes"),
        ("post", "/predict", {}, 422, "field required"),
        ("delete", "/memory/999999999", {}, 202, None),
    ],
)
def test_bad_requests_get_one_line(served, method, path, sent, status, line):
    answer = getattr(served, method)("/api/v1" + path, **sent)
    assert answer.status_code == status, answer.text
    if line:
        assert line in answer.json()["detail"] and "\n" not in answer.json()["detail"]
        assert str(served.run) not in answer.text


def test_a_bomb_is_refused_before_it_unfolds(served):
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    assert len(file.getvalue()) < 200_000
    answer = served.post("/api/v1/predict", files={"files": file.getvalue()})
    assert answer.status_code == 422 and "limit is 50,000,000 pixels" in answer.json()["detail"]


def test_pages_bring_a_strict_policy_and_refuse_other_sites(served):
    page = served.get("/")
    assert page.status_code == 200 and "Worklist" in page.text
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    assert "style=" not in page.text and "<script>" not in page.text and "onclick" not in page.text
    foreign = {"origin": "https://elsewhere.example"}
    assert served.post("/api/v1/reviews", json={}, headers=foreign).status_code == 403
    assert served.post("/api/v1/reviews", json={}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert served.get("/", headers={"host": "rebound.example"}).status_code == 421
    # a browser's session must bring its word; the client has the cookie of the page by now
    answer = served.post("/api/v1/reviews", json={"case_id": "s1", "verdict": "unsure"})
    assert answer.status_code == 403 and "load it again" in answer.json()["detail"]
    served.cookies.clear()


def test_the_word_of_a_form_is_no_session(served):
    word = re.search(r'name="csrf" content="(\w+)"', served.get("/").text)[1]
    session = json.loads(base64.urlsafe_b64decode(served.cookies["everlearn"].rpartition(".")[0]))["id"]
    served.cookies.clear()
    answer = served.get("/api/v1/metrics", headers={"cookie": f'everlearn="csrf {session}.{word}"'})
    assert answer.status_code == 200  # as without a cookie
    gate = served.app.state.desk.gate
    for text in ("csrf x", "e30", base64.b64encode(b"\xff").decode(), base64.b64encode(b"[1]").decode()):
        for purpose in ("session", "csrf"):
            cookie = f"{text}.{gate._sign(purpose, text)}"
            assert served.get("/api/v1/metrics", headers={"cookie": f'everlearn="{cookie}"'}).status_code == 200
            served.cookies.clear()


def test_explanations_leave_threads_for_everything_else(served, pictures, monkeypatch):
    go, explain, file = threading.Event(), served_module.explain, png(pictures[0][0])
    monkeypatch.setattr(served_module, "explain", lambda *a, **k: explain(*a, **k) if go.wait(60) else None)
    why = {"files": {"file": file}, "data": {"method": "grad_cam"}}

    async def ask():
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            asked = [asyncio.create_task(client.post("/api/v1/explain", **why)) for _ in range(45)]
            await asyncio.sleep(0)
            others = [await client.get("/api/v1/health"), await client.post("/api/v1/predict", files={"files": file})]
            others.append(await client.post("/api/v1/reviews", json={"case_id": "s99", "verdict": "unsure"}))
            while sum(task.done() for task in asked) < 45 - 8:
                await asyncio.sleep(0.05)
            assert [each.status_code for each in others] == [200, 200, 404] and not go.is_set()
            go.set()
            return await asyncio.gather(*asked)

    try:
        answers = asyncio.run(asyncio.wait_for(ask(), 100))
    finally:
        go.set()
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 45 - 8 and {answer.status_code for answer in answers} == {200, 503}
    assert {answer.headers["retry-after"] for answer in refused} == {"5"}
    assert refused[0].json()["detail"] == "8 explanations are asked for already; ask again in 5 s"
    assert served.post("/api/v1/explain", **why).status_code == 200


def test_names_that_are_no_text_are_shown(served, pictures, tmp_path):
    good, bad = (tmp_path / name.decode(errors="surrogateescape") for name in (b"caf\xe9.png", b"cut\xe9.png"))
    try:
        good.write_bytes(png(pictures[0][0]))
    except OSError:
        pytest.skip("this file system holds text alone")
    bad.write_bytes(b"no picture")
    app = create_app(Settings(served.run, learns=False, cases=str(tmp_path)))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        lines = client.get("/api/v1/worklist", params={"order": "arrival"}).json()["cases"]
        assert lines[-1 if "cut" not in lines[-1]["name"] else -2]["name"] == "caf\ufffd.png"
        answer = client.get("/api/v1/cases/s1")
        assert answer.status_code == 422 and "cut\ufffd.png: not a picture" in answer.json()["detail"]
        for path in ("/", "/case/s0", "/dashboard"):
            page = client.get(path)
            assert page.status_code == 200 and "\ufffd.png" in page.text


def test_korean(served):
    assert "판독 목록" in served.get("/", headers={"accept-language": "ko-KR"}).text
    served.cookies.clear()


def test_a_second_server_is_refused_in_one_line(served, monkeypatch):
    monkeypatch.setattr("everlearn.server.writer.Writer._spawn", _impatient)
    with pytest.raises(RunError, match="is in use by another process"):
        create_app(Settings(served.run))


def _impatient(self):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from everlearn.runs import writer; writer._LOCK_PATIENCE = 0; "
        "writer.main(Path(sys.argv[1]), 0.0)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(self.run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_beyond_loopback_roles_decide(served):
    with pytest.raises(SettingError, match="has no token"):
        create_app(Settings(served.run, host="0.0.0.0", learns=False))
    make = served.app.state.desk.gate.tokens.create
    tokens = {role: make(f"the {role}", role) for role in ("viewer", "reviewer", "admin")}
    with TestClient(create_app(Settings(served.run, host="0.0.0.0", learns=False, rate=30))) as client:

        def status(method, path, role, **sent):
            headers = {"authorization": f"Bearer {tokens[role]}"} if role else {}
            return getattr(client, method)(path, headers=headers, **sent).status_code

        assert status("get", "/api/v1/health", None) == 200
        assert status("get", "/api/v1/worklist", None) == 401
        assert client.get("/api/v1/worklist", headers={"authorization": "Bearer guessed"}).status_code == 401
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        viewer = {"authorization": f"Bearer {tokens['viewer']}"}
        case = client.get("/api/v1/worklist", headers=viewer).json()["cases"][0]["id"]
        verdict = {"case_id": case, "verdict": "unsure"}
        assert status("post", "/api/v1/reviews", "viewer", json=verdict) == 403
        assert status("post", "/api/v1/reviews", "reviewer", json=verdict) == 201
        assert status("post", "/api/v1/versions/1/serve", "reviewer") == 403
        assert status("get", "/api/v1/audit", "admin") == 200
        assert client.post("/login", data={"token": "wrong"}).status_code == 401
        assert "the reviewer" in client.post("/login", data={"token": tokens["reviewer"]}).text
        assert [status("get", "/api/v1/health", None) for _ in range(30)][-1] == 429
