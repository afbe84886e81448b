// The panel of a node: made when the node has something to show, gone with the node.

import { View } from "./view.js";

const NAME = "darkminer_panel";
const HOST_TEXT = "$$node-text-preview"; // the page's own line says the same
const MARGIN = 8;
const panels = new WeakMap();

/** The node's panel; pictureUrl says where a picture of a name lies. */
export function panelOf(node, pictureUrl) {
  const there = panels.get(node);
  if (there && node.widgets?.includes(there.widget)) return there;
  const view = new View(pictureUrl);
  const widget = node.addDOMWidget(NAME, "DARKMINER_PANEL", view.element, {
    serialize: false,
    hideOnZoom: true,
    margin: MARGIN,
    getMinHeight: () => view.height + 2 * MARGIN,
    getMaxHeight: () => view.height + 2 * MARGIN,
  });
  widget.serialize = false;
  const panel = {
    widget,
    show(state, which) {
      view.show(state, which);
      hideHostText(node);
      fit(node, view);
    },
  };
  view.onFold = () => fit(node, view);
  watchWidth(node, view);
  panels.set(node, panel);
  return panel;
}

/** Take a node's panel off again. */
export function withoutPanel(node) {
  const there = panels.get(node);
  if (!there) return;
  panels.delete(node);
  const height = node.computeSize()[1];
  node.removeWidget?.(there.widget);
  showHostText(node);
  node.setSize([node.size[0], node.size[1] - height + node.computeSize()[1]]);
  node.setDirtyCanvas?.(true, true);
}

function showHostText(node) {
  const line = node.widgets?.find((widget) => widget.name === HOST_TEXT);
  if (!line) return;
  line.hidden = false;
  if (line.options) line.options.hidden = false;
}

function hideHostText(node) {
  const line = node.widgets?.find((widget) => widget.name === HOST_TEXT);
  if (!line || line.hidden) return;
  line.hidden = true;
  if (line.options) line.options.hidden = true;
}

/** What is narrower is higher. */
function watchWidth(node, view) {
  const watcher = new ResizeObserver(() => {
    if (view.measure()) fit(node, view);
  });
  watcher.observe(view.element);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    watcher.disconnect();
    return removed?.apply(this, given);
  };
}

/** Grow or shrink the node by what the panel has grown or shrunk. */
function fit(node, view) {
  view.measure();
  const more = view.height - (view.fitted ?? 0);
  if (!more || !view.height) return;
  const [width, least] = node.computeSize();
  const height = Math.max(least, view.fitted === undefined ? least : node.size[1] + more);
  view.fitted = view.height;
  node.setSize([Math.max(node.size[0], width), Math.max(height, least)]);
  node.setDirtyCanvas?.(true, true);
}
