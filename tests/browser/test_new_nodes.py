"""What a node looks like that was just added."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.host]

NAMES = ["DarkMinerLoop", "DarkMinerSettings", "EraseConcepts"]
ADD = """(name) => {
  const node = LiteGraph.createNode(name);
  app.graph.add(node);
  return node.id;
}"""
FLAT = """(id) => {
  const node = app.graph.getNodeById(id);
  const { widgets, size } = node;
  node.setSize([size[0], 1]); // the page gives it what its rows need
  return widgets.filter(({ options }) => options.advanced).length;
}"""


@pytest.mark.parametrize("name", NAMES)
def test_folded_inputs_leave_no_room_on_a_new_node(opened, name):
    tab = opened(vue=True)
    tab.page.evaluate("app.graph.clear()")
    node = tab.page.evaluate(ADD, name)
    shown = tab.page.locator(f"[data-node-id='{node}']")
    tab.page.wait_for_timeout(1500)
    at_first = shown.bounding_box()["height"]
    assert tab.page.evaluate(FLAT, node) > 5, "inputs are folded away"
    tab.page.wait_for_timeout(1500)
    assert at_first <= shown.bounding_box()["height"] + 40
    assert tab.faults == []
