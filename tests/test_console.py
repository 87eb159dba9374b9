"""The web console in a real browser: what it shows, by mouse and by keyboard, and what it never runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pytest
import torch

from chronorec.models import GRU4Rec
from tests.support.servers import running

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs a browser (apt-get install chromium chromium-driver)"
)
KEY = "a key of the test, long".replace(" ", "-")
EVIL = '<img src=x onerror="document.title=1">'
ITEMS = [EVIL, "</script><script>document.title=2</script>", *(f"item {code}" for code in range(2, 40))]
DAY = 86_400_000_000
PATIENCE = 30.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("console")
    torch.manual_seed(0)
    GRU4Rec(40, width=16, hidden_size=16).eval().export(pa.table({"item": ITEMS})).save(folder / "model")
    (folder / "keys").write_text(f"# of the test\n{KEY}\n")
    with running(folder / "model", "--api-keys", folder / "keys", stderr=subprocess.DEVNULL) as (url, _):
        told: list[dict[str, Any]] = [
            {"user": "ann", "item": ITEMS[n % 7], "at": 20_000 * DAY + n * DAY} for n in range(12)
        ]
        told += [{"user": EVIL, "item": EVIL, "at": 1}, {"user": 2**62 + 1, "item": "item 5", "at": 1}]
        answer = httpx.post(f"{url}/v1/events", json={"events": told}, headers={"X-API-Key": KEY})
        assert answer.json()["accepted"] == len(told)
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs chronorec[test]")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(option)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # no internet
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The console, unlocked."""
    browser.get(address)
    browser.execute_script("sessionStorage.setItem('chronorec key', arguments[0])", KEY)
    browser.get(address)
    browser.get_log("browser")
    yield browser
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not complaints
    assert browser.title == "chronorec console"


def until(page: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, PATIENCE).until(condition)


def find(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def texts(page: Any, selector: str) -> list[str]:
    return [element.text for element in page.find_elements("css selector", selector)]


def press(page: Any, *keys: str) -> None:
    page.switch_to.active_element.send_keys(*keys)


def look_up(page: Any, user: str) -> None:
    """By keyboard alone."""
    from selenium.webdriver.common.keys import Keys

    find(page, "body").send_keys("/")
    press(page, user, Keys.ENTER)
    until(page, lambda page: find(page, "#status").text.startswith(f"{user}:"))


def test_a_user_by_keyboard(page: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    look_up(page, "ann")
    assert find(page, "#status").text.startswith("ann: 12 events")
    wanted = httpx.post(f"{address}/v1/recommend", json={"user": "ann"}, headers={"X-API-Key": KEY}).json()
    assert texts(page, "#items .name") == wanted["items"]
    assert (
        find(page, "#answer").text == "From gru4rec (model), by session: the model knows events of the user."
    )

    assert len(page.find_elements("css selector", "#timeline circle")) == 12
    page.execute_script("document.getElementById('timeline').focus()")
    assert find(page, "#event").text.startswith("12 of 12: item 4, ")
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert find(page, "#event").text.startswith("10 of 12: item 2, ")
    press(page, Keys.HOME)
    assert find(page, "#event").text.startswith(f"1 of 12: {EVIL}, ")

    press(page, Keys.TAB)
    assert page.switch_to.active_element.tag_name == "summary"
    press(page, Keys.ENTER)
    until(page, lambda page: texts(page, ".reason table"))
    reason = httpx.post(
        f"{address}/v1/explain",
        json={"user": "ann", "items": wanted["items"][:1]},
        headers={"X-API-Key": KEY},
    ).json()["reasons"][0]
    shown = [float(text) for text in texts(page, ".reason .number")]
    wanted = [*reason["parts"].values(), *(event["difference"] for event in reason["events"][:8])]
    assert shown == pytest.approx(wanted, rel=0.01)
    carried = sum(event["difference"] > 0 for event in reason["events"][:8])
    assert len(page.find_elements("css selector", "#timeline .carries")) == carried


def test_nothing_of_users_is_run(page: Any) -> None:
    look_up(page, EVIL)
    assert find(page, "#event").text.startswith(f"1 of 1: {EVIL}, ")
    shown = page.execute_script("return document.querySelectorAll('main img, main script').length")
    assert shown == 0
    # and were it put there, the policy of the page would not run it
    page.execute_script(
        "document.body.append(document.createElement('script'));"
        "document.body.lastChild.textContent = 'document.title = 3'"
    )
    assert page.title == "chronorec console"
    assert "Content Security Policy" in page.get_log("browser")[-1]["message"]


def test_numbers_stay_exact(page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(page, "[name=kind]")).select_by_value("number")
    look_up(page, str(2**62 + 1))
    assert find(page, "#status").text.startswith(f"{2**62 + 1}: 1 events")
    assert find(page, "#answer").text.startswith("From gru4rec (model), by session")


def test_live_latency(page: Any) -> None:
    look_up(page, "ann")
    until(page, lambda page: find(page, "#p99").text.endswith("ms"))
    assert float(find(page, "#p50").text.split()[0]) <= float(find(page, "#p99").text.split()[0])


def test_the_page_asks_for_the_key(browser: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(address)
    browser.execute_script("sessionStorage.clear()")
    browser.get(address)
    until(browser, lambda page: find(page, "#lock").get_attribute("open"))
    find(browser, "[name=key]").send_keys("not the key of this server", Keys.ENTER)
    until(browser, lambda page: "not accepted" in find(page, "#lock-error").text)
    find(browser, "[name=key]").send_keys(KEY, Keys.ENTER)
    until(browser, lambda page: texts(page, "#models span"))
    assert not find(browser, "#lock").get_attribute("open")
    browser.get_log("browser")


def test_who_has_no_key_is_refused(address: str) -> None:
    for headers in ({}, {"X-API-Key": "x" * 20}, {"Authorization": f"Basic {KEY}"}):
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing", "/v1/users/text/ann"):
            answer = httpx.get(address + path, headers=headers)
            assert answer.status_code == 401
            assert "wanted a key" in answer.json()["error"]
    for path in ("/", "/health", "/ready"):
        assert httpx.get(address + path).status_code == 200
    behind_proxy = {"Authorization": "Basic eDp5", "X-API-Key": KEY}
    assert httpx.get(f"{address}/v1/models", headers=behind_proxy).status_code == 200
    bearer = httpx.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert bearer.status_code == 200
    metrics = httpx.get(f"{address}/metrics", headers={"X-API-Key": KEY}).text
    assert 'chronorec_refusals_total{route="any",status="401"}' in metrics
