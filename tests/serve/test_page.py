"""The page in a real browser: type, look, click, drop a picture, toggle, mistakes.

Skipped where chromium (Debian's package of that name, or $CHROMIUM) or playwright is missing.
"""

import base64
import os
import re
import shutil

import pytest
from small_service import COLOURS, SHADES, encoded, make_service, running, write_index

api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
if not CHROMIUM:
    pytest.skip("needs chromium: apt-get install chromium", allow_module_level=True)
expect = api.expect
expect.set_options(timeout=60_000)  # a hang, on a machine with other work


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "squares"
    names = [f"{name} square {i}" for name in COLOURS for i in range(SHADES)]
    names[0] = "<img src=x onerror=alert(1)> & red"
    write_index(folder, captions=names)
    found = running(make_service(folder))
    yield found.url
    found.stop()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser, url):
    """open_page(address after the URL, **context) -> a page; what it logs or throws fails the
    test, unless `page.allowed` matches it."""
    contexts, heard = [], []

    def go(address="/#deduplicate=0", **how):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **how})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # of a machine with other work
        page.allowed = "^$"
        page.on("pageerror", lambda error: heard.append((page, str(error))))
        page.on("console", lambda said: heard.append((page, said.text)))
        page.on("request", lambda asked: heard.append((page, asked.url)))
        page.goto(url + address)
        return page

    yield go
    own = re.compile(rf"{url}/|data:|blob:{url}")
    for page, text in heard:
        assert own.match(text) or re.search(page.allowed, text), text
    for context in contexts:
        context.close()


def cards(page):
    return page.locator(".card")


def settled(page):
    expect(page.locator("body")).not_to_have_class(re.compile("loading"))


def captions(page, count=3):
    settled(page)
    expect(page.locator(".card .score").first).to_be_attached()
    return cards(page).locator(".caption").all_text_contents()[:count]


def asked(page, text):
    page.fill("#text", text)
    with page.expect_response("**/search") as found:
        page.keyboard.press("Enter")
    assert found.value.ok
    settled(page)


def colours(page, count=3):
    return {caption.split()[0] for caption in captions(page, count)}


def test_words_find_pictures_that_load_when_they_are_seen(open_page):
    page = open_page()
    expect(page.locator("h1")).to_have_text("Search 60 pictures by words or by a picture")
    expect(cards(page)).to_have_count(24)
    asked(page, "green")
    assert colours(page, SHADES) == {"green"}
    expect(cards(page)).to_have_count(40)
    expect(page.locator("#status")).to_contain_text("40 results of 60 pictures")
    assert page.title() == "green · squares"
    loaded = "images => images.map(image => image.complete && image.naturalWidth > 0)"
    page.wait_for_function("document.querySelector('.card img').complete")
    assert page.locator(".card img").evaluate_all(loaded)[0]
    assert page.locator(".card img").first.get_attribute("loading") == "lazy"
    page.click("#more")
    expect(cards(page)).to_have_count(60)
    expect(page.locator("#more")).to_be_hidden()


def test_a_click_searches_by_a_picture_and_sums_are_made(open_page):
    page = open_page("/#t=blue&deduplicate=0")
    blue = captions(page)[1]
    page.locator(".pick").nth(1).click()
    expect(page.locator(".chip")).to_contain_text(blue)
    expect(page.locator(".card .caption").first).to_have_text(blue)
    page.fill("#text", "red")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".chip")).to_have_count(2)
    page.fill("#text", "black")
    page.keyboard.press("Alt+Enter")
    expect(page.locator(".chip.minus")).to_have_text("−black")
    cards(page).nth(0).hover()
    cards(page).nth(0).get_by_title("Remove from the query").click()
    expect(page.locator(".chip")).to_have_count(4)
    link = page.url
    other = open_page("/" + link[link.index("#") :])
    assert captions(other, 9) == captions(page, 9)
    expect(other.locator(".chip").first).to_contain_text(blue)
    expect(other.locator(".chip.minus")).to_have_count(2)
    page.locator(".chip").nth(0).get_by_title("Remove").click()
    expect(page.locator(".chip")).to_have_count(3)
    page.go_back()
    expect(page.locator(".chip")).to_have_count(4)
    page.get_by_text("Clear").click()
    expect(page.locator("h1")).to_contain_text("Search 60 pictures")


def drop(page, data, kind="image/png", name="mine.png"):
    transfer = page.evaluate_handle(
        """([data, kind, name]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: kind }));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), kind, name],
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_hidden()


def test_a_dropped_picture_is_searched_and_shared_as_its_vector(open_page):
    page = open_page()
    expect(cards(page)).to_have_count(24)
    drop(page, encoded(COLOURS["yellow"]))
    expect(page.locator(".chip")).to_contain_text("mine.png")
    assert colours(page, SHADES) == {"yellow"}
    page.wait_for_url("**/#v=*")
    link = page.url
    other = open_page("/" + link[link.index("#") :])
    assert colours(other, SHADES) == {"yellow"}
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    file = {"name": "red.png", "mimeType": "image/png", "buffer": encoded(COLOURS["red"])}
    chooser.value.set_files(file)
    expect(page.locator(".chip")).to_contain_text("red.png")
    page.allowed = "status of 400"
    drop(page, b"no picture", name="broken.png")
    expect(page.get_by_role("alert")).to_have_text("image: unreadable picture")
    drop(other, b"some text", "text/plain", "notes.txt")  # and what was found stays
    expect(other.locator("#status")).to_have_text("notes.txt: is no picture.")
    expect(other.locator(".pick").first).to_be_visible()


def test_options(open_page):
    page = open_page("/#t=white&deduplicate=0")
    captions(page)
    caption, score = page.locator(".caption").first, page.locator(".score").first
    expect(caption).to_be_visible()
    expect(score).to_be_hidden()
    page.click("[data-key=captions]")
    expect(caption).to_be_hidden()
    page.click("[data-key=scores]")
    expect(score).to_be_visible()
    assert re.fullmatch(r"0\.9\d\d|1\.000", score.text_content())
    with page.expect_request("**/search") as sent:
        page.click("[data-key=deduplicate]")
    assert sent.value.post_data_json["deduplicate"] is True
    expect(page.locator("#status")).to_contain_text("hidden")
    assert len(colours(page, 40)) == cards(page).count() < 10
    with page.expect_request("**/search") as sent:
        page.click("[data-modality=text]")
    assert sent.value.post_data_json["modality"] == "text"
    again = open_page("/" + page.url[page.url.index("#") :])
    expect(again.locator("[data-modality=text]")).to_have_attribute("aria-pressed", "true")
    expect(again.locator("[data-key=deduplicate]")).to_have_attribute("aria-pressed", "true")
    expect(again.locator("[data-key=scores]")).to_have_attribute("aria-pressed", "true")


def test_what_the_model_sees_and_text_that_looks_like_markup(open_page):
    page = open_page("/#t=red&deduplicate=0")
    name = "<img src=x onerror=alert(1)> & red"
    assert name in captions(page, SHADES)
    card = cards(page).filter(has_text="onerror")
    card.hover()
    card.get_by_title("Look closer").click()
    expect(page.locator("#sheet h2")).to_have_text(name)
    expect(page.locator(".bar").first).to_contain_text("red")
    expect(page.locator("#sheet dd").filter(has_text="squares/0000.png")).to_be_visible()
    page.locator(".bar button").filter(has_text="yellow").first.click()
    expect(page.locator("#dialog")).to_be_hidden()
    expect(page.locator("#text")).to_have_value("a red and yellow fire")


def test_the_keyboard_alone(open_page):
    page = open_page()
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("blue")
    with page.expect_response("**/search"):
        page.keyboard.press("Enter")
    captions(page)
    page.keyboard.press("ArrowDown")
    picks = page.locator(".pick")
    expect(picks.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(picks.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(picks.nth(1)).to_be_focused()
    page.keyboard.press("v")
    expect(page.locator("#sheet h3")).to_have_text("What the model sees")
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    page.keyboard.press("+")
    expect(page.locator(".chip")).to_have_count(2)
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".chip")).to_have_count(0)
    page.keyboard.press("Escape")  # out of the empty box
    page.keyboard.press("?")
    expect(page.locator("#sheet h2")).to_have_text("Keys")


def test_dark_light_and_a_phone(open_page):
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = open_page(color_scheme="dark")
    assert dark.evaluate(ground) == "rgb(19, 20, 23)"
    dark.click("#theme")
    assert dark.evaluate(ground) == "rgb(247, 247, 248)"
    dark.reload()
    assert dark.evaluate(ground) == "rgb(247, 247, 248)"
    phone = open_page("/#t=red", viewport={"width": 360, "height": 740}, has_touch=True)
    captions(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    row = [box["y"] for box in (cards(phone).nth(i).bounding_box() for i in range(3))]
    assert len(set(row)) <= 2  # at least two beside each other


def test_nothing_found_and_a_service_that_is_gone(open_page):
    page = open_page()
    expect(cards(page)).to_have_count(24)
    page.route("**/search", lambda route: route.fulfill(json={"results": [], "vectors": {}}))
    asked(page, "red")
    expect(page.locator("h1")).to_have_text("Nothing found")
    page.unroute("**/search")
    page.allowed = "ERR_FAILED|status of 4(00|29)"
    page.route("**/search", lambda route: route.abort())
    page.fill("#text", "green")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(
        "The service does not answer. Is it still running?"
    )
    page.unroute("**/search")
    page.route("**/search", lambda route: route.fulfill(status=400, json={"error": "busy"}))
    page.get_by_text("Try again").click()
    expect(page.get_by_role("alert")).to_have_text("busy")
    page.unroute("**/search")
    answers = iter([429])  # asked again by itself
    page.route(
        "**/search",
        lambda route: route.fulfill(status=429, json={}) if next(answers, 0) else route.continue_(),
    )
    page.get_by_text("Try again").click()
    assert colours(page) == {"green"}


def test_links_that_are_damaged(open_page):
    page = open_page("/#t=red&v=%%%&i=99&in=sound&deduplicate=7")
    expect(page.get_by_role("alert")).to_contain_text("query[1].id: must be a whole number")
    page.allowed = "status of 40[04]"
    asked(page, "blue")
    assert colours(page) == {"blue"}
