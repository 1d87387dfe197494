"""The report in a real browser: nothing complains, nothing is fetched, figures are drawn, links work, a phone can show it."""

import pytest
from browser import CHROMIUM, Browser
from conftest import SOURCE

from pipeline.commands import kept_results
from pipeline.reporting.page.report import render
from pipeline.reporting.page.results import Results
from pipeline.study.tables import report_settings

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
SMALL = SOURCE / "results/small"
PHONE, DESK = 360, 1280
WIDTHS = pytest.mark.parametrize("width", [PHONE, DESK])
# An element is there to be seen if it has a size.
SEEN = "(e => { const b = e.getBoundingClientRect(); return b.width > 1 && b.height > 1; })"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The report of the kept results, as today's code makes it."""
    made = tmp_path_factory.mktemp("report") / "report.html"
    made.write_text(render(Results(report_settings(kept_results.study_of(SOURCE, SMALL)), SMALL.joinpath)))
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@WIDTHS
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_quiet_and_asks_for_nothing(browser, file, width, dark):
    browser.open(file, width, dark=dark)
    assert browser.evaluate("document.querySelectorAll('section').length") == 9
    assert browser.complaints() == []
    assert browser.requested() == [file.absolute().as_uri()]


def test_what_the_tests_listen_for_can_be_heard(browser, tmp_path):
    page = tmp_path / "loud.html"
    page.write_text("<img src='missing.png'><script>console.error('one'); nothing.at.all;</script>")
    browser.open(page, DESK)
    assert len(browser.complaints()) >= 2
    assert [url.rpartition("/")[2] for url in browser.requested()] == ["loud.html", "missing.png"]


def test_the_page_could_not_fetch_anything_if_it_tried(browser, file):
    browser.open(file, DESK)
    tried = "fetch('https://example.org/').then(() => 'fetched', () => 'refused')"
    assert browser.evaluate(tried) == "refused"
    assert any("Content Security Policy" in line for line in browser.complaints())


@WIDTHS
@pytest.mark.parametrize("script", [True, False])
def test_figures_and_images_are_drawn(browser, file, width, script):
    browser.open(file, width, script=script)
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)  # to look, the page's own has not run
    drawn = f"[...document.querySelectorAll('#figures .figure > .panels svg, #learning svg')].map({SEEN})"
    found = browser.evaluate(drawn)
    assert len(found) > 15 and all(found)
    marks = f"[...document.querySelectorAll('#figures .figure > .panels svg .mark')].map({SEEN})"
    assert all(browser.evaluate(marks)) and len(browser.evaluate(marks)) > 60
    bars = f"[...document.querySelectorAll('.cost')].map(c => [...c.querySelectorAll('.bar i')].some({SEEN}))"
    assert all(browser.evaluate(bars)) and len(browser.evaluate(bars)) == 7
    loaded = "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth); }))"
    assert min(browser.evaluate(loaded)) > 100


@WIDTHS
def test_the_page_is_not_wider_than_the_screen(browser, file, width):
    browser.open(file, width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    beyond = (
        "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, svg') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.evaluate(beyond) == []


@WIDTHS
def test_all_that_is_written_in_a_chart_lies_inside_it(browser, file, width):
    """Inside its panel, or for an interval, which has none, its part of the claim."""
    browser.open(file, width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    outside = """[...document.querySelectorAll('svg.chart text')].filter(text => {
      const a = text.getBoundingClientRect(), b = text.closest('.panel, .part, .figure').getBoundingClientRect();
      return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map(text => text.textContent)"""
    assert browser.evaluate("document.querySelectorAll('svg.chart text').length") > 100
    assert browser.evaluate(outside) == []


def test_text_can_be_read_on_a_phone_in_both_schemes(browser, file):
    """Letters of at least 8 pixels, and a contrast of at least 4.5 (WCAG 2, level AA) with what is behind them."""
    contrast = """(() => {
      const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
      const parse = c => c.match(/[\\d.]+/g).map(Number);
      const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
      const bad = [];
      for (const e of document.querySelectorAll('p, small, th, td, a, li, h1, h2, h3, h4, summary, button, svg text')) {
        if (!e.textContent.trim() || !e.getClientRects().length) continue;
        const style = getComputedStyle(e), svg = e.ownerSVGElement;
        const [a, b] = [light(parse(svg ? style.fill : style.color).slice(0, 3)), light(behind(svg ? svg.parentElement : e))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        const size = parseFloat(style.fontSize) * (svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1);
        if (ratio < 4.5 || size < 8) bad.push([ratio.toFixed(2), size.toFixed(1), e.outerHTML.slice(0, 90)]);
      }
      return bad;
    })()"""
    for dark in (False, True):
        browser.open(file, PHONE, dark=dark)
        assert browser.evaluate(contrast) == []


def test_every_link_leads_to_what_can_be_seen(browser, file):
    browser.open(file, DESK)
    lost = f"""(async () => {{
      const lost = [];
      document.documentElement.style.scrollBehavior = 'auto';
      for (const link of new Set([...document.querySelectorAll('a')].map(a => a.getAttribute('href')))) {{
        const place = document.getElementById(link.slice(1));
        if (!link.startsWith('#') || !place || !{SEEN}(place)) lost.push(link);
      }}
      return lost;
    }})()"""
    assert browser.evaluate(lost) == []


def test_a_number_leads_to_its_run_and_the_run_to_its_settings(browser, file):
    browser.open(file, DESK)
    browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    follow = """(async () => {
      const steps = [], until = () => new Promise(done => addEventListener('hashchange', () => setTimeout(done, 50), { once: true }));
      let link = document.querySelector('#table-table1 a[href="#cell-branch_percent=40"]');
      for (const next of ['.chain a[href^="#job-evaluate"]', 'a[href^="#job-finetune"]', 'a[href^="#job-cooldown"]',
                          'a[href^="#job-pretrain"]', 'a[href^="#job-shards"]', null]) {
        const moved = until();
        link.click();
        await moved;
        const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
        const box = place.getBoundingClientRect();
        steps.push([place.id.split('-').slice(0, 2).join('-'), place.tagName !== 'DETAILS' || place.open,
                    box.top < innerHeight && box.bottom > 0]);
        if (next) link = place.querySelector(next);
      }
      return steps;
    })()"""
    expected = [
        "cell-branch_percent=40",
        *(f"job-{p}" for p in ("evaluate", "finetune", "cooldown", "pretrain", "shards")),
    ]
    assert browser.evaluate(follow) == [[step, True, True] for step in expected]


@WIDTHS
def test_a_click_lands_on_what_it_leads_to(browser, tmp_path, width):
    """As a reader comes there: a new page, its images not seen yet, and a smooth way past them."""
    from test_report import with_images

    file = tmp_path / "report.html"
    file.write_text(render(with_images(tmp_path)))
    follow = """(async (choose) => {
      const link = document.querySelector(choose);
      const place = () => document.getElementById(decodeURIComponent(link.getAttribute('href').slice(1)));
      const frame = () => new Promise(requestAnimationFrame);
      link.scrollIntoView({ block: 'center', behavior: 'instant' });
      await frame();
      link.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }));
      for (let still = 0, last = NaN; still < 30; await frame()) {
        still = scrollY === last ? still + 1 : 0;
        last = scrollY;
      }
      await Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); }));
      await frame();
      const box = place().getBoundingClientRect(), tall = box.height >= innerHeight;
      return [tall ? box.top : box.top + box.height / 2 - innerHeight / 2, document.images.length];
    })"""
    links = (
        '#table-table1 a[href="#cell-branch_percent=40"]',
        '#claim-late_beats_end .compares a[href="#cell-branch_percent=100"]',
        '#figure-timing a[href="#cell-branch_percent=0"]',
        '.chain a[href^="#job-evaluate"]',
    )
    for link in links:
        browser.open(file, width)
        off, images = browser.evaluate(f"{follow}({link!r})")
        assert abs(off) < 2 and images > 20, link
    browser.open(file, width)
    assert browser.evaluate("[...document.images].every(i => i.width && i.height)")


def test_a_mark_says_its_value_when_it_is_pointed_at(browser, file):
    browser.open(file, DESK)
    place = browser.evaluate(
        "(() => { document.documentElement.style.scrollBehavior = 'auto';"
        " const mark = document.querySelector('#figure-timing .mark'); mark.scrollIntoView({block: 'center'});"
        " const b = mark.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    browser.move(1, 1)
    browser.move(*place)
    first = next(row for row in read_table1() if row["branch_percent"] == "0")
    said = browser.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert said.startswith(f"0: {100 * float(first['vision_average']):.1f} (")


def read_table1():
    from test_report import read

    return [row for row in read("table1.csv") if row["model"] == "vlm"]


def test_verdicts_can_be_chosen_and_jobs_found(browser, file):
    browser.open(file, DESK)
    shown = "[...document.querySelectorAll('.claim')].filter(c => !c.hidden).map(c => c.dataset.kind)"
    every = browser.evaluate(shown)
    browser.evaluate("document.querySelector('[data-verdict=supported]').click()")
    assert set(browser.evaluate(shown)) == {"supported"} < set(every)
    browser.evaluate("document.querySelector('[data-verdict=supported]').click()")
    assert browser.evaluate(shown) == every
    browser.evaluate(
        "(() => { const f = document.getElementById('find'); f.value = 'text-800'; f.dispatchEvent(new Event('input')); })()"
    )
    jobs = browser.evaluate(
        "[...document.querySelectorAll('.job')].filter(j => !j.hidden).every(j => j.textContent.includes('text-800'))"
    )
    assert jobs is True


def test_it_can_be_photographed(browser, file, tmp_path):
    browser.open(file, PHONE, dark=True)
    browser.screenshot(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 10_000
