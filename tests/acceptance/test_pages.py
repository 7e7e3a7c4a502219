"""The pages in a real browser, at two widths, light and dark: whole, readable, and alone.

The bucket holds values that would run as a script if any page let them.
"""

import csv
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

pytestmark = pytest.mark.xdist_group("pages")  # one installation for all

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
CATEGORIES = (HOSTILE, "\u202e</style></svg><svg onload=alert(3)>", "W" * 150, " ")
"""What stands for the category c: scripts, a turn of the writing, no place to break, nothing."""
LARGEST = 1_500_000
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
PAGES = ("report", "explore")


@pytest.fixture(scope="module")
def installation(install: Callable, tmp_path_factory: pytest.TempPathFactory):
    """A trained project whose clients have hostile categories."""
    bucket = tmp_path_factory.mktemp("pages") / "bucket"
    installation = install("clients", source=bucket)
    installation.run("sample", str(bucket), "--customers", "3000", "--months", "3")
    profiles = bucket / "customer_profiles.csv"
    with profiles.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    place = header.index("attr_b")
    for number, row in enumerate(rows):
        if row[place] == "c":
            row[place] = CATEGORIES[number % len(CATEGORIES)]
    with profiles.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    installation.run("run")
    return installation


@pytest.fixture(scope="module")
def files(installation) -> dict[str, Path]:
    """Where the pages lie."""
    printed = installation.run("explore").strip().splitlines()[-1]
    version = json.loads(installation.run("models", "--json"))[0]["version"]
    return {
        "explore": Path(printed),
        "report": installation.home / "bundles" / version / "report.html",
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "The pages are looked at in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page that is open, and what it did meanwhile."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Seen]]:
    """Opens an address in a window of its own, without a network unless it is said."""
    contexts = []

    def call(address: str, *, width: int, scheme: str = "light", offline: bool = True) -> Seen:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=offline
        )
        contexts.append(context)
        seen = Seen(page=context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.complaints.append(f"dialog {dialog.message}"))
        seen.page.goto(address)
        return seen

    yield call
    for context in contexts:
        context.close()


# Everything that is written, with its colour and the first background behind it.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (colour.startsWith("rgb(")) return numbers(colour);
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("title, style")) continue;
    const style = getComputedStyle(element);
    const drawn = element.closest("svg") ? style.fill : style.color;
    const [one, other] = [light(numbers(drawn)), light(behind(element))].sort((a, b) => b - a);
    found.push([Math.round(100 * (one + 0.05) / (other + 0.05)) / 100, text.slice(0, 40)]);
  }
  return found;
}"""

# What sticks out of the page, of a card or of a chart, or is too small to read.
MISPLACED = """() => {
  const found = [];
  const wide = document.documentElement.clientWidth;
  const outside = (box, frame) => box.left < frame.left - 2 || box.right > frame.right + 2
    || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
  for (const element of document.querySelectorAll("main *, header *")) {
    const box = element.getBoundingClientRect();
    if (!box.width || !element.checkVisibility() || element.closest("thead")) continue;
    const name = element.tagName + " " + element.textContent.trim().slice(0, 40);
    if (box.right > wide + 1 || box.left < -1) found.push(["page", name]);
    const card = element.closest(".card");
    if (card && card !== element && outside(box, card.getBoundingClientRect())) {
      found.push(["card", name]);
    }
    const chart = element.closest("svg.chart");
    if (chart && element.tagName === "text") {
      if (outside(box, chart.getBoundingClientRect())) found.push(["chart", name]);
      const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
      if (parseFloat(getComputedStyle(element).fontSize) * scale < 9.5) found.push(["small", name]);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_readable_and_alone(visit, files, name, width, scheme) -> None:
    address = files[name].as_uri()
    seen = visit(address, width=width, scheme=scheme)
    page = seen.page
    assert page.locator("h1").bounding_box()["y"] < 200
    for state in ("as it opens", "with everything unfolded"):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert page.evaluate(MISPLACED) == [], state
        faint = [(ratio, text) for ratio, text in page.evaluate(CONTRASTS) if ratio < 4.5]
        assert faint == [], state
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert seen.requests == [address]
    assert seen.complaints == []
    assert page.locator("script, img, iframe, link").count() == 0
    assert page.locator("[onload], [onerror]").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small_and_shows_hostile_values_as_they_are(visit, files, name) -> None:
    assert files[name].stat().st_size < LARGEST
    page = visit(files[name].as_uri(), width=1280).page
    assert page.get_by_text(HOSTILE, exact=True).count() > 0


def test_the_report_lies_beside_the_run_in_mlflow_too(installation, files) -> None:
    (artifact,) = (installation.home / "mlflow").rglob("report.html")
    assert artifact.read_bytes() == files["report"].read_bytes()


def test_the_verdict_is_read_at_once(visit, files) -> None:
    for width in WIDTHS:
        page = visit(files["report"].as_uri(), width=width).page
        heading = page.locator("h1")
        assert heading.inner_text().startswith(("Promote", "Refuse", "Cannot tell"))
        assert "AUC 0." in heading.inner_text()
        box = heading.bounding_box()
        assert box["y"] + box["height"] < 400


def test_all_can_be_reached_by_keyboard_and_heard(visit, files) -> None:
    page = visit(files["report"].as_uri(), width=1280).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A"
    for number in range(page.locator("svg[role=img]").count()):
        assert page.locator("svg[role=img]").nth(number).get_attribute("aria-label")
    page.get_by_role("link", name="Where is it worse?").click()
    assert page.get_by_role("heading", name="Where is it worse?").bounding_box()["y"] < 900
    unfold = page.get_by_text("groups; the dashed line", exact=False)
    unfold.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("table").filter(has_text="said").first.is_visible()


# By way of the API


@pytest.fixture
def service(installation) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        installation.command("serve", "--port", str(port)),
        env=installation.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while not _answers(f"{url}/ready"):
            assert server.poll() is None, server.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.communicate(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_api_shows_the_report_of_the_model_that_answers(visit, files, service: str) -> None:
    address = service + httpx.get(f"{service}/model", timeout=30).json()["report"]
    assert httpx.get(address, timeout=30).content == files["report"].read_bytes()
    seen = visit(address, width=1280, offline=False)
    background = "getComputedStyle(document.querySelector('header')).backgroundColor"
    assert seen.page.evaluate(background) == "rgb(255, 255, 255)"  # its style is in force
    assert seen.page.evaluate(MISPLACED) == []
    assert [url for url in seen.requests if not url.endswith("/favicon.ico")] == [address]
    assert [text for text in seen.complaints if "favicon" not in text] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_documentation_describes_every_operation_and_tries_it(visit, service, width) -> None:
    seen = visit(f"{service}/docs", width=width, offline=False)
    page = seen.page
    page.locator(".problem").last.wait_for()
    operations = httpx.get(f"{service}/openapi.json", timeout=30).json()["paths"]
    assert page.locator(".operation summary > code").all_inner_texts() == list(operations)
    assert page.locator("#failure").inner_text() == ""
    for place in range(len(operations)):
        operation = page.locator(".operation").nth(place)
        operation.evaluate("one => { one.open = true }")
        operation.get_by_role("button").click()
        told = operation.locator(".status").inner_text()
        path = operation.locator("summary > code").inner_text()
        # The example is of a client that nobody put there.
        assert told.startswith("404" if path == "/predict/{idx}" else "200"), (path, told)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(MISPLACED) == []
    assert all(url.startswith(service) for url in seen.requests)
    assert [text for text in seen.complaints if "favicon" not in text and "404" not in text] == []
