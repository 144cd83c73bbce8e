"""The page in a real Chromium: look, correct, see it learned; every control."""

import io
import json
import math
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="serving is an extra")

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium to open the page in", allow_module_level=True)
QUIET = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)


@pytest.fixture(scope="module")
def address(learned_run, tmp_path_factory):
    path = shutil.copytree(learned_run, tmp_path_factory.mktemp("page") / "run")
    with serving(path, margin=1) as address:
        yield address


@contextmanager
def serving(path, margin):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "everlearn.cli", "serve", str(path), "--port", str(port), "--margin", str(margin)]
    )
    try:
        for _ in range(5000):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def page(address):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: dialog.accept())
        yield page
        browser.close()


def first_case(page, address):
    page.goto(address + "/?order=arrival")
    page.locator("a.case-link").first.click()
    page.wait_for_selector("#why:not([aria-busy]) .pill")


def drag(page, button):
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down(button=button)
    page.mouse.move(box["x"] + 140, box["y"] + 120)
    page.mouse.up(button=button)


def pixels(page):
    return page.evaluate("document.getElementById('view').toDataURL()")


def test_correct_and_see_it_learned(page, address):
    first_case(page, address)
    page.fill("#new-label", "something new")
    page.fill("#note", "a note")
    page.check("#box-on")
    box = page.locator("#stage").bounding_box()
    side = min(box["width"], box["height"])  # the square picture lies in the middle of the stage
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    page.mouse.move(left + 0.25 * side, top + 0.25 * side)
    page.mouse.down()
    page.mouse.move(left + 0.75 * side, top + 0.5 * side)
    page.mouse.up()
    drawn = [float(page.input_value(f"#box-{name}")) for name in ("x", "y", "width", "height")]
    assert all(abs(found - wanted) < 1 for found, wanted in zip(drawn, (25, 25, 50, 25)))
    page.click("#teach")
    page.wait_for_selector("#said-back.good")
    assert "something new" in page.inner_text("#said-back") and page.inner_text("#said") == "something new"
    page.keyboard.press("Escape")
    page.keyboard.press("z")
    playwright.expect(page.locator("#said-back")).to_contain_text("taken back", timeout=60_000)
    assert page.faults == []


def test_the_page_waits_where_others_are_explained_first(page, address):
    busy = [True]

    def answer(route):
        if busy:
            headers = {"retry-after": "1", "content-type": "application/json"}
            route.fulfill(status=503, headers=headers, body='{"detail": "ask again in 1 s"}')
        else:
            route.continue_()

    page.route("**/why*", answer)
    page.goto(address + "/?order=arrival")
    page.locator("a.case-link").first.click()
    playwright.expect(page.locator("#why[aria-busy]")).to_have_text("ask again in 1 s")
    busy.clear()
    page.wait_for_selector("#why:not([aria-busy]) .pill")
    page.unroute("**/why*")
    assert all("503" in fault for fault in page.faults)
    page.faults.clear()


def test_every_control_changes_the_picture(page, address):
    first_case(page, address)
    page.keyboard.press("Escape")
    seen = {pixels(page)}
    for act in (
        lambda: page.keyboard.press("h"),
        lambda: page.keyboard.press("h") or page.locator("#opacity").fill("90"),
        lambda: page.locator("#contours").check(),
        lambda: page.locator("#window").fill("100"),
        lambda: page.locator("#level").fill("60"),
        lambda: page.locator("#invert").check(),
        lambda: page.locator("#zoom").fill("300"),
        lambda: page.locator("#stage").focus() or page.keyboard.press("ArrowLeft"),
        lambda: drag(page, "right"),
        lambda: drag(page, "left"),
    ):
        act()
        now = pixels(page)
        assert now not in seen
        seen.add(now)
    assert page.input_value("#window") != "100" and page.input_value("#level") != "60"  # the right button's work
    page.locator("#cutoff").fill("100")
    assert "Below the probability" in page.inner_text("#stage-said")
    page.click("#reset")
    page.select_option("#target", index=2)
    page.wait_for_selector("#why:not([aria-busy]) .pill")
    assert page.inner_text("#why").count("Asked about") + page.inner_text("#why").count("Predicted") == 1
    assert page.faults == []


def test_keys_work_through_the_list(page, address):
    first_case(page, address)
    before = page.url
    page.keyboard.press("u")
    page.wait_for_selector("#said-back.good")
    page.keyboard.press("2")  # classes that are digits are chosen by their names
    assert page.input_value("#label") == "2"
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.wait_for_url(lambda url: url != before)
    page.wait_for_selector("#why:not([aria-busy]) .pill")
    page.keyboard.press("a")
    page.wait_for_selector("#said-back.good")
    assert page.faults == []


def test_every_key_and_the_buttons_beside(page, address):
    first_case(page, address)
    page.keyboard.press("Escape")
    for key, focused in (("c", "label"), ("w", "new-label"), ("t", "note"), ("2", "label")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == focused
        page.keyboard.press("Escape")
    for key, box in (("b", "#box-on"), ("k", "#contours"), ("i", "#invert"), ("h", "#heat-on")):
        before = page.is_checked(box)
        page.keyboard.press(key)
        assert page.is_checked(box) != before
    plain = pixels(page)
    for side, value in (("x", 10), ("y", 20), ("width", 30), ("height", 200)):
        page.fill(f"#box-{side}", str(value))
    page.keyboard.press("Escape")
    drawn = pixels(page)
    page.click("#box-clear")
    assert plain == pixels(page) != drawn and page.input_value("#box-x") == ""
    page.keyboard.press("+")
    assert page.input_value("#zoom") == "125"
    page.keyboard.press("-")
    page.locator("#stage").hover()
    page.mouse.wheel(0, -100)
    playwright.expect(page.locator("#zoom")).to_have_value("115")
    page.keyboard.press("?")
    assert page.locator(".keys").get_attribute("open") is not None
    page.click("#unsure")
    page.wait_for_selector("#said-back.good")
    assert "unsure" in page.inner_text("#said-back")
    page.click("#undo")
    playwright.expect(page.locator("#said-back")).to_contain_text("taken back")
    assert page.faults == []


def test_a_picture_is_added_accepted_sorted_and_rolled_back(page, address, pictures):
    file = io.BytesIO()
    Image.fromarray(pictures[0][3][0].numpy()).save(file, "PNG")
    page.goto(address)
    page.set_input_files("#send-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("#send-said.bad")
    assert "not a picture" in page.inner_text("#send-said")
    assert len(page.faults) == 1 and "422" in page.faults.pop()
    page.set_input_files("#send-file", {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_url("**/case/u*")
    page.wait_for_selector("#why:not([aria-busy]) .pill")
    before = int(page.inner_text("#version"))
    page.click("#accept")
    page.wait_for_selector("#said-back.good")
    assert "kept for checking" in page.inner_text("#said-back") or int(page.inner_text("#version")) > before
    page.goto(address)
    assert page.locator("a.case-link", has_text="sent 1").count() == 0
    page.select_option("select[name=show]", "all")
    page.wait_for_url("**show=all*")
    assert "Accept" in page.locator("tr", has_text="sent 1").inner_text()
    for order, column in (("novelty", 5), ("doubt", 4)):
        page.select_option("select[name=order]", order)
        page.wait_for_url(f"**order={order}*")
        shown = page.locator(f"tbody td:nth-child({column})").all_inner_texts()
        values = [float(text) for text in shown if text.strip()]  # empty where it is not scored yet
        assert values and values == sorted(values, reverse=True)
    page.goto(address + "/dashboard")
    first = page.locator("[data-serve]").last.get_attribute("data-serve")
    page.locator("[data-serve]").last.click()
    playwright.expect(page.locator("tr.in-service td:first-child")).to_have_text(first, timeout=60_000)
    page.wait_for_load_state("load")
    assert page.inner_text("#version") == first
    assert page.faults == []


def test_memory_dashboard_language_and_theme(page, address):
    page.goto(address + "/memory")
    name = page.locator("figcaption").first.inner_text().splitlines()[1]
    page.fill("input[type=search]", name)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("[data-remove]")).to_have_count(1)
    assert name in page.inner_text("figcaption")
    page.goto(address + "/memory")
    count = page.locator("[data-remove]").count()
    page.locator("[data-remove]").first.click()
    page.wait_for_load_state("load")
    playwright.expect(page.locator("[data-remove]")).not_to_have_count(count, timeout=60_000)
    page.goto(address + "/dashboard")
    assert page.locator("svg.chart").count() >= 3
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.click("[data-language=ko]")
    page.wait_for_selector("html[lang=ko]")
    assert page.inner_text("h1") == "현황판" and "개 삭제" in page.inner_text("tr.in-service .why")
    page.click("[data-language=en]")
    page.wait_for_selector("html[lang=en]")
    assert page.faults == []


def test_the_page_says_why_a_version_is_held_back(page, run_path, mislead, opened):
    desk = opened(margin=0.0, publish_after=math.inf)  # what waits goes into one version
    before = mislead(desk)
    assert desk.reviews.in_service()["number"] == before
    desk.close()
    with serving(run_path, margin=0) as address:
        first_case(page, address)
        said, other = page.inner_text("#said"), {"0": "1", "1": "2", "2": "0"}[page.inner_text("#said")]
        page.select_option("#label", other)
        page.click("#correct")
        page.wait_for_selector("#said-back.bad")
        assert "not put in service" in page.inner_text("#said-back")
        assert f"fewer right than version {before}; at most 0% are allowed" in page.inner_text("#said-back")
        assert page.inner_text("#said") == said and page.inner_text("#version") == str(before)
        page.goto(address + "/dashboard")
        assert "was not put in service: of" in page.inner_text(".alarms")
        assert page.locator("tr.refused").count() and page.inner_text("tr.in-service td:first-child") == str(before)
        assert page.locator("circle.refused").count()
        assert json.load(urllib.request.urlopen(address + "/api/v1/health"))["version"] == before
    assert page.faults == []


def test_every_control_has_a_name_for_a_screen_reader(page, address):
    first_case(page, address)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a')]
        .filter((e) => !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label'))
        .filter((e) => e.getAttribute('aria-hidden') !== 'true').map((e) => e.outerHTML)"""
    )
    assert unnamed == []
