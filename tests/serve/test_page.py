"""The page by a browser: Chromium, driven by Playwright."""

import io
import os
import shutil
from pathlib import Path

import httpx
import pytest
from PIL import Image

from impasto.pictures import read_settings, save_png
from tests.serve.running import process

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SECONDS = 120_000.0  # ms, on a busy machine
PICTURES = Path(__file__).parents[2] / "docs/images"
KEEP = os.environ.get("IMPASTO_SCREENSHOTS")  # set: the screenshots go into docs/images

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with process(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield opened
        opened.close()


def visit(browser, server, width: int, height: int):
    """The page, and the hosts that it asked."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(SECONDS)
    hosts, errors = set(), []
    page.on(
        "request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else "data")
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.get_by_role("button", name="Draw", exact=True).wait_for()
    return page, hosts, errors


def shown(page, selector: str, count: int) -> None:
    """Wait for pictures that have arrived."""
    page.wait_for_function(
        "([selector, count]) => [...document.querySelectorAll(selector)]"
        ".filter(image => image.complete && image.naturalWidth > 0).length >= count",
        arg=[f"{selector} img", count],
    )


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def keep(page, name: str) -> None:
    page.wait_for_timeout(500)
    taken = page.screenshot(full_page=True)
    assert Image.open(io.BytesIO(taken)).width > 300
    if KEEP:
        (PICTURES / f"page-{name}.png").write_bytes(taken)


def to_tab(page, name: str) -> None:
    """Narrow pages keep the last tabs behind a button of dots."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator("button.overflow-menu, .overflow-menu button").first.click()
        page.get_by_text(name, exact=True).last.click()
        return
    tab.click()


def upload(page, picture: Path) -> None:
    """Give the open tab a picture."""
    field = page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first
    field.set_input_files(str(picture))
    page.get_by_role("tabpanel").locator("img").last.wait_for()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_prompt_is_drawn_walked_and_looked_into(browser, server, width, height):
    page, hosts, errors = visit(browser, server, width, height)
    page.fill("#prompt textarea", "a blue square on a gray background")
    page.press("#prompt textarea", "Enter")
    shown(page, "#gallery", 4)
    with page.expect_download() as download:
        page.locator(".files a[download]").first.click()
    settings = read_settings(Path(download.value.path()))
    assert settings["prompt"] == "a blue square on a gray background" and settings["seed"] == 7
    assert fits(page)
    keep(page, f"draw-{width}")
    to_tab(page, "Walk")
    page.click("#walk-button")
    shown(page, "#walk-picture", 1)
    first, slider = page.locator("#walk-picture img").get_attribute("src"), page.locator("#walk-step")
    box = slider.locator("input[type=range]").bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "before => document.querySelector('#walk-picture img')?.getAttribute('src') !== before", arg=first
    )
    assert slider.locator("input[type=number]").input_value() not in ("0", "12") and fits(page)
    keep(page, f"walk-{width}")
    to_tab(page, "Inside")
    page.click("#inside-button")
    shown(page, "#experts", 1)
    shown(page, "#levels", 4)
    assert "expert 3" in page.locator(".shares").first.inner_text() and fits(page)
    keep(page, f"inside-{width}")
    assert hosts <= {server.url.removeprefix("http://"), "data"} and not errors


@pytest.mark.long
def test_by_keyboard_alone_mars_draws_row_by_row_and_describes(browser, server, tmp_path):
    page, _, errors = visit(browser, server, 1280, 900)
    page.get_by_label("mars-scenes").focus()
    page.keyboard.press("Space")
    page.get_by_label("Temperature").first.wait_for()  # its own settings have come
    page.focus("#prompt textarea")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "draw-button"
    page.keyboard.press("Enter")
    shown(page, "#gallery", 4)
    page.locator(".files a[download*='mars-scenes-7.png']").wait_for()
    assert not errors
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "gray").save(picture)
    page.get_by_role("tab", name="Describe").focus()
    page.keyboard.press("Enter")
    upload(page, picture)
    page.click("#describe-button")
    page.wait_for_function("document.querySelector('#description textarea').value.length > 3")


def test_a_picture_is_enlarged_and_keeps_its_settings(browser, server, tmp_path):
    page, _, errors = visit(browser, server, 1280, 900)
    save_png(Image.new("RGB", (24, 16), (200, 30, 30)), tmp_path / "small.png", {"prompt": "a red wall"})
    to_tab(page, "Enlarge")
    page.click("#enlarge-button")
    page.get_by_text("choose a picture first").wait_for()
    upload(page, tmp_path / "small.png")
    page.click("#enlarge-button")
    shown(page, "#enlarged", 1)
    address = page.locator("#enlarged img").get_attribute("src")
    (tmp_path / "large.png").write_bytes(httpx.get(address).content)
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (96, 64)
        assert all(abs(a - b) < 20 for a, b in zip(large.getpixel((48, 32)), (200, 30, 30), strict=True))
    assert read_settings(tmp_path / "large.png")["prompt"] == "a red wall"
    assert fits(page) and not errors


def test_what_is_served_names_no_other_place_to_load_from(server):
    answer = httpx.get(server.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    for tag in ("<script", "<link", "<img", "<iframe"):
        for part in answer.text.split(tag)[1:]:
            opening = part.split(">")[0]
            assert "https://" not in opening and "//" not in opening.replace("./", ""), opening
    assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "aurora-scenes-32"
