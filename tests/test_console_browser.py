"""The console in a real Chromium: accessible by the rules of axe, usable by the keyboard alone, and quiet towards everybody else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.browser import Chromium, Tab, axe_source
from tests.console_scene import PATHS, log_in, overdraw, play, scene
from tests.harness import ADMIN, get_json
from tests.replicas import Stage

BEARER = {"authorization": f"Bearer {ADMIN}"}
# What has the focus, as a person would call it.
FOCUS = "(document.activeElement.getAttribute('aria-label') || document.activeElement.id || document.activeElement.textContent).trim()"
# An outline that can be seen: wide enough, and of a colour of its own.
OUTLINED = """(() => {
  const style = getComputedStyle(document.activeElement);
  return document.activeElement.matches(':focus-visible') && style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    started = Chromium()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with scene(tmp_path_factory.mktemp("browser") / "stage") as running:
        yield running


@pytest.fixture(scope="module")
def url(stage: Stage) -> str:
    return stage.one.admin_url


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_source()


@pytest.fixture(scope="module")
def ids(stage: Stage, browser: Chromium, axe: str, url: str) -> list[str]:
    """The requests of a gateway in use, after its pages were looked at empty."""
    tab = browser.tab()
    log_in(tab, url)
    tab.open(url)
    assert tab.violations(axe) == []
    assert tab.complaints() == []
    made = play(stage)
    overdraw(stage)
    for name in ("ci", "nightly"):
        stage.admin_post("keys", {"team": "search", "name": name, "budget": {"amount": "5"}})
    return made


@pytest.fixture
def tab(browser: Chromium, ids: list[str], url: str) -> Tab:
    made = browser.tab()
    made.wide(1280)
    log_in(made, url)
    return made


def test_every_page_is_accessible_in_light_and_dark_and_narrow(tab: Tab, axe: str, ids: list[str], url: str, stage: Stage) -> None:
    """Zero violations of WCAG 2.2 AA and of axe's best practices; no page is wider than its window; nothing from elsewhere."""
    key = get_json(f"{url}/admin/v1/keys", BEARER)[0]["id"]
    found = {}
    for path in (*PATHS, f"/requests/{ids[1]}", f"/keys/{key}/revoke", "/requests?id=no"):
        tab.wide(1280)
        tab.scheme("light")
        tab.open(url + path)
        found[f"{path} light"] = tab.violations(axe)
        tab.scheme("dark")
        tab.wide(400, 800)
        tab.wait("[...document.querySelectorAll('.scroll')].every((box) => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)")
        found[f"{path} dark, narrow"] = tab.violations(axe, "color-contrast", "scrollable-region-focusable", "target-size")
        assert tab.run("document.documentElement.scrollWidth") <= 400, path
        assert tab.run("getComputedStyle(document.documentElement).colorScheme") == "light dark"
    assert {place: lines for place, lines in found.items() if lines} == {}
    assert [line for line in tab.complaints() if "404" not in line] == []
    assert {re.sub(r"(?<=\d)/.*", "", address) for address in tab.asked()} == {url}


def test_the_door_and_the_error_on_it_are_accessible(browser: Chromium, axe: str, url: str) -> None:
    tab = browser.tab()
    tab.open(url)
    tab.wait("document.activeElement.id === 'token'")
    assert tab.violations(axe) == []
    log_in(tab, url, "not the token")
    assert "This is not the admin token." in tab.run("document.querySelector('[role=alert]').textContent")
    assert tab.violations(axe) == []
    tab.call("Page.navigate", url=f"{url}/keys")
    log_in(tab, f"{url}/keys")
    assert tab.run("location.pathname") == "/keys"
    assert tab.run("document.cookie") == "", "no script sees the session"
    assert not any(ADMIN in address for address in tab.asked())


def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(tab: Tab, url: str) -> None:
    tab.open(url)
    names = []
    for _ in range(90):
        tab.key("Tab")
        name = tab.run(FOCUS)
        if tab.run("document.activeElement === document.body"):
            break
        assert tab.run(OUTLINED), name
        names.append(name)
    assert names[:8] == ["Skip to the content", "Overview", "Budgets", "Requests", "Hosts", "Keys", "Policies", "theme"]
    assert names[8] == "Log out" and names[-3] == "pause" and names[-1] == "Admin API"
    assert any(name.startswith("req-") for name in names) and "spend-team-by-1" in names

    tab.open(url)
    tab.key("Tab")
    tab.key("Enter")
    tab.wait("document.activeElement.id === 'main'")


def test_a_key_is_made_and_revoked_by_the_keyboard(tab: Tab, axe: str, url: str, stage: Stage) -> None:
    tab.open(f"{url}/keys")
    reach(tab, "team")
    for field, value in (("name", "by-keyboard"), ("expires", "30d"), ("amount", "2.50")):
        reach(tab, field)
        tab.type(value)
    reach(tab, "Make a key")
    mark = tab.mark()
    tab.key("Enter")
    tab.loaded(mark)
    secret = tab.run("document.querySelector('pre code').textContent")
    assert re.fullmatch(r"fg-[A-Za-z0-9_-]{43}", secret)
    assert tab.violations(axe) == []
    body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "hello [[answer=5]]"}]}
    assert stage.chat_with(secret, body)[0] == 200

    reach(tab, "I have copied it")
    mark = tab.mark()
    tab.key("Enter")
    tab.loaded(mark)
    assert secret not in tab.run("document.documentElement.outerHTML")
    reach(tab, "Revoke by-keyboard")
    tab.key("Enter")
    tab.wait("!!document.querySelector('dialog[open]')")
    assert tab.run(FOCUS) == "Keep it", "what is pressed without thought changes nothing"
    assert tab.violations(axe) == []
    tab.key("Escape")
    tab.wait("!document.querySelector('dialog')")
    assert tab.run(FOCUS) == "Revoke by-keyboard", "one is back where one was"
    assert stage.chat_with(secret, body)[0] == 200

    tab.key("Enter")
    tab.wait("document.querySelector('dialog[open]') && document.activeElement.textContent === 'Keep it'")
    tab.key("Tab", shift=True)
    assert tab.run(FOCUS) == "Revoke it" and tab.run(OUTLINED)
    mark = tab.mark()
    tab.key("Enter")
    tab.loaded(mark)
    assert "by-keyboard is revoked" in tab.run("document.querySelector('[role=status]').textContent")
    assert stage.chat_with(secret, body)[0] == 401
    assert tab.complaints() == []


def reach(tab: Tab, name: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(60):
        tab.key("Tab")
        if tab.run(FOCUS) == name:
            return
    raise AssertionError(f"{name} cannot be reached")


def test_figures_stay_true_and_what_the_reader_did_stays(tab: Tab, url: str, stage: Stage) -> None:
    """A page takes what is new by itself: the order, the focus and a pause stay."""
    tab.open(url)
    rows = "[...document.querySelectorAll('#spend-team tbody tr')].map((row) => row.cells[0].textContent)"
    tab.run("document.getElementById('spend-team-by-0').click()")
    assert tab.run(rows) == ["agents", "evals", "search"]
    tab.run("document.getElementById('spend-team-by-0').click()")
    tab.run("document.getElementById('spend-team-by-0').focus()")
    assert tab.run(rows) == ["search", "evals", "agents"]
    tab.run("window.same = 'page'")
    shown = tab.run("document.querySelector('#newest-rows tbody a').title")

    _, headers, _ = stage.chat("search", {"model": "deepseek-flash", "messages": [{"role": "user", "content": "One more. [[answer=5]]"}]})
    stage.quiet()

    assert headers["x-request-id"] != shown
    # As when the reader comes back to the page; it looks by itself every five seconds too.
    tab.run("document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait(f"document.querySelector('#newest-rows tbody a').title === '{headers['x-request-id']}'")
    assert tab.run(rows) == ["search", "evals", "agents"] and tab.run("window.same") == "page"
    assert tab.run("document.activeElement.id") == "spend-team-by-0"
    assert tab.run("document.querySelector('#spend-team th').getAttribute('aria-sort')") == "descending"

    tab.run("document.getElementById('pause').click()")
    assert tab.run("document.getElementById('pause').textContent") == "Go on"
    assert tab.complaints() == []


def test_numbers_are_sorted_as_numbers(tab: Tab, url: str) -> None:
    tab.open(f"{url}/requests")
    tab.run("document.querySelector('#requests thead th:nth-child(8) button').click()")
    charges = [
        int(text) for text in tab.run("[...document.querySelectorAll('#requests tbody tr')].map((row) => row.cells[7].dataset.value)")
    ]
    assert charges == sorted(charges, reverse=True) and len(set(charges)) > 3


def test_the_reader_chooses_light_or_dark(tab: Tab, url: str) -> None:
    tab.scheme("light")
    tab.open(url)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = tab.run(ground)
    seen = []
    for _ in range(3):
        tab.run("document.getElementById('theme').click()")
        seen.append((tab.run("document.getElementById('theme').textContent"), tab.run(ground) == light))
    assert seen == [("Theme: light", True), ("Theme: dark", False), ("Theme: auto", True)]
    tab.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
    tab.open(f"{url}/hosts")
    assert tab.run(ground) != light, "it is kept"


def test_instants_are_told_in_the_time_of_the_reader_too(tab: Tab, url: str) -> None:
    tab.call("Emulation.setTimezoneOverride", timezoneId="Asia/Shanghai")
    tab.open(f"{url}/hosts")
    assert "6:00" in tab.run("document.querySelector('.local').textContent")
    assert "(Asia/Shanghai)" in tab.run("document.querySelector('time').title")


def test_a_link_from_another_site_finds_who_is_logged_in(tab: Tab, url: str, stage: Stage) -> None:
    """The browser keeps the strict cookie back for that one step, and the page that answers it takes the next."""
    tab.open(stage.hosts["novita"].root.replace("127.0.0.1", "localhost") + "/_emulator/bill")
    # Later: the page that is asked goes away.
    tab.run(f"void setTimeout(() => location.assign('{url}/hosts'), 0)")
    tab.wait("location.pathname === '/hosts' && !!document.querySelector('#host-0')")


def test_without_scripts_it_works_too(browser: Chromium, ids: list[str], url: str) -> None:
    tab = browser.tab()
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    log_in(tab, f"{url}/keys")
    text = tab.run("document.body.innerText")
    assert "Stored keys" in text and "Theme" not in text
    reach(tab, "Revoke ci")
    mark = tab.mark()
    tab.key("Enter")
    tab.loaded(mark)
    assert "Revoke ci?" in tab.run("document.body.innerText")


def test_what_the_content_policy_forbids_does_not_happen(tab: Tab, url: str) -> None:
    tab.open(url)
    tab.run("document.addEventListener('securitypolicyviolation', (event) => (window.blocked ??= []).push(event.effectiveDirective))")
    with pytest.raises(AssertionError, match="TrustedHTML"):
        tab.run("document.body.innerHTML = '<b>x</b>'")
    tab.run("(() => { const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image); })()")
    form = "document.body.append(Object.assign(document.createElement('form'), {action: 'http://127.0.0.1:9/', id: 'away'}))"
    tab.run(f"{form}; document.getElementById('away').submit()")
    tab.wait("window.blocked?.length >= 3")
    assert set(tab.run("window.blocked")) == {"require-trusted-types-for", "img-src", "form-action"}
