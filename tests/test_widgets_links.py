"""Links that open a page of explorers as the reader left it."""

import pytest

from samlib.widgets import MemorizationExplorer, MixtureExplorer, TheoryExplorer, write_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Two explorers of one kind, the first of which does not open at its defaults, and one of another."""
    explorers = MixtureExplorer(rho=2.0), TheoryExplorer(), MixtureExplorer()
    return write_page(tmp_path_factory.mktemp("links") / "explorer.html", explorers).as_uri()


@pytest.fixture
def opened(offline):
    return lambda address: offline(address, 1200, 900)


@pytest.fixture
def state(painted):
    """A function that reads every slider and number of a page."""

    def read(page):
        painted(page)
        return page.evaluate(
            """() => [[...document.querySelectorAll(".samlib-explorer input")].map((e) => e.value),
              [...document.querySelectorAll(".samlib-numbers td")].map((e) => e.textContent)]"""
        )

    return read


def explorer(page, k):
    return page.locator(".samlib-explorer").nth(k)


def rested(page, hash):
    page.wait_for_function("(hash) => location.hash === hash", arg=hash)


def test_a_link_opens_each_explorer_of_a_page_as_it_was_left(address, opened, state):
    page, first = opened(address), opened(address)
    explorer(page, 0).locator("input[name=rho]").fill("0.15")
    explorer(page, 2).locator("input[name=n_atypical]").press("End")
    point = explorer(page, 1).locator(".samlib-point")
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + 40, steps=4)
    page.mouse.up()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    explorer(page, 1).get_by_role("button", name="Copy link").click()
    explorer(page, 1).get_by_role("button", name="Link copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert link.startswith(f"{address}#mixture.rho=0.15&theory.M=")
    assert link.endswith("&mixture2.n_atypical=100")
    again = opened(link)
    assert state(again) == state(page) != state(first)
    assert again.url == link
    first.evaluate("(link) => location.assign(link)", link)  # into the page as it stands, with nothing loaded
    assert state(first) == state(page)


def test_the_link_brings_the_reader_to_the_explorer(address, opened):
    page = opened(f"{address}#theory.M=0.3&mixture2.rho=3")
    page.wait_for_function("scrollY > 0")
    assert abs(explorer(page, 1).bounding_box()["y"]) < 100
    assert opened(address).evaluate("scrollY") == 0


BROKEN = [
    "theory", "=&=&.=1", "mixture.=2", "mixture.rho=", "mixture.rho=%20", "mixture.rho=NaN&theory.M=1e999", "mixture.rho=2;0",
    "mixture.rho=%E0%A4%A&mixture.seed=%", "mixture.kept=1&mixture.constructor=1&__proto__.rho=1", "mixture9.rho=1",
    "theory.M=%3Cimg src=x onerror=alert(1)%3E", "mixture.rho=[0]&mixture.seed=0,5",
]  # fmt: skip


def test_a_broken_link_changes_nothing(address, opened, state):
    page = opened(address)
    first = state(page)
    for broken in BROKEN:
        page.goto(f"{address}?{BROKEN.index(broken)}#{broken}")
        assert state(page) == first, broken


def test_a_value_out_of_range_or_off_the_steps_is_moved_into_it(address, opened):
    page = opened(f"{address}#mixture.rho=-1e300&mixture.seed=1e300&mixture.degree=2.6&theory.pi=0.123456")
    values = [explorer(page, 0).locator(f"input[name={name}]").input_value() for name in ("rho", "seed", "degree")]
    assert [*values, explorer(page, 1).locator("input[name=pi]").input_value()] == ["0", "999", "3", "0.12"]


def test_start_over_shows_the_page_as_it_opens_and_clears_its_part_of_the_link(address, opened, state):
    page = opened(f"{address}#mixture.rho=0.5&theory.M=0.3")
    assert page.url.endswith("#mixture.rho=0.5&theory.M=0.3")  # reading writes nothing
    explorer(page, 0).get_by_role("button", name="Start over").click()
    rested(page, "#theory.M=0.3")
    explorer(page, 1).get_by_role("button", name="Start over").click()
    rested(page, "")
    assert page.url == address
    assert state(page) == state(opened(address))


def test_without_a_clipboard_the_link_stands_in_the_address_bar(address, opened):
    page = opened(address)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    explorer(page, 0).locator("input[name=rho]").fill("1")
    explorer(page, 0).get_by_role("button", name="Copy link").click()
    explorer(page, 0).get_by_role("button", name="The link is in the address bar").wait_for()
    assert page.url == f"{address}#mixture.rho=1"
    explorer(page, 0).get_by_role("button", name="Copy link").wait_for()


@pytest.mark.parametrize("where", ["JupyterLab", "a frame"])
def test_where_the_address_is_not_the_page_s_it_is_left_alone(browser, painted, where):
    page = browser.new_page()
    html = TheoryExplorer().html()
    if where == "JupyterLab":
        page.route(
            "**/*",
            lambda route: route.fulfill(
                body=f"<i id=jupyter-config-data></i>{html}", content_type="text/html; charset=utf-8"
            ),
        )
        page.goto("http://lab.test/#theory.M=0.3")
    else:
        page.set_content(html)  # about:blank
    painted(page)
    slider = page.locator("input[name=M]")
    before = page.url
    slider.press("ArrowRight")
    page.wait_for_timeout(500)
    assert slider.input_value() == "0.91"
    assert page.url == before
    assert page.get_by_role("button").all_inner_texts() == ["Start over"]
    page.close()


def test_a_link_holds_what_memory_shows(offline, tmp_path):
    page = offline(write_page(tmp_path / "memory.html", [MemorizationExplorer()]).as_uri() + "#memory.seed=7", 700, 900)
    assert page.locator("input[name=seed]").input_value() == "7"
