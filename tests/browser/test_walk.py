"""The first erasure as docs/first-erasure.md tells it: the template as it is, run to its end.

Some ten minutes; ``-m walk`` asks for it. Its pictures lie in ``.work/browser`` as ``walk_*.png``.
"""

import logging

import pytest

from .conftest import SHOTS

pytestmark = [pytest.mark.walk, pytest.mark.host]

log = logging.getLogger(__name__)

LOOP, COMPARED = 4, 8
TIMED = """async () => {
  const { View } = await import("/extensions/dark-miner/panel/view.js");
  const show = View.prototype.show;
  window.drawn = { times: 0, ms: 0 };
  View.prototype.show = function (...given) {
    const begun = performance.now();
    show.apply(this, given);
    window.drawn.ms += performance.now() - begun;
    window.drawn.times += 1;
  };
}"""
"""The page counts what the panel costs it."""
EVERY = 3_000
SAID = """() => {
  const panel = document.querySelector(".dm-panel[data-kind=DarkMinerLoop]");
  if (!panel) return null;
  const text = (name) => panel.querySelector(name)?.textContent ?? "";
  const share = Number(panel.querySelector("[role=progressbar]").getAttribute("aria-valuenow"));
  return [panel.dataset.state, text(".dm-title"), text(".dm-where"), share];
}"""


def test_a_style_is_erased_from_the_template_as_it_is(opened, comfy, chromium):
    tab = opened()
    tab.load({}, whole=True)
    tab.shot("walk_1_template")
    tab.page.evaluate(TIMED)
    tab.page.get_by_role("button", name="Run", exact=True).first.click()
    tab.look_at(LOOP, 720)
    tab.panel().wait_for(timeout=240_000)
    seen, shown = [], set()
    for _ in range(5_400_000 // EVERY):
        state, title, where, share = tab.page.evaluate(SAID)
        if state != "running":
            break
        seen.append((title, where, share))
        stage = next((s for s in ("text start", "chase", "round 1") if s in title), None)
        if stage and stage not in shown and tab.panel().locator("figure svg").count():
            shown.add(stage)
            tab.panel().screenshot(path=SHOTS / f"walk_2_{stage.replace(' ', '_')}.png")
        tab.page.wait_for_timeout(EVERY)
    assert state == "done", title
    drawn = tab.page.evaluate("window.drawn")
    log.info(
        "panel drawn %s times in %.0f ms, in about %s s", *drawn.values(), EVERY * len(seen) / 1e3
    )
    assert {"text start", "chase"} <= shown
    assert all(title for title, _, _ in seen), "it always says what it is doing"
    silent = [where for _, where, _ in seen if " left" not in where]
    assert len(silent) <= 0.1 * len(seen), "and nearly always for how long"
    shares = [share for _, _, share in seen]
    assert shares == sorted(shares), "one bar, that never goes back"
    tab.panel().screenshot(path=SHOTS / "walk_3_end.png")
    drawn = f"app.graph.getNodeById({COMPARED}).imgs?.length"
    tab.page.wait_for_function(drawn, timeout=240_000)
    tab.look_at(COMPARED, -200)
    tab.shot("walk_4_compared")
    (report,) = (comfy.output / "loras").glob("erase_ink_*.report.html")
    page = chromium.new_context(viewport={"width": 1100, "height": 1400}, offline=True).new_page()
    page.goto(f"file://{report}")
    page.screenshot(path=SHOTS / "walk_5_report.png", full_page=True)
    assert tab.faults == []
