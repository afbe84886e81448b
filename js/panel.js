// The live panel: what a Dark Miner node shows of its run, on the node itself.
//
// The server keeps the newest state of every node (nodes/host/panel.py), tells every page of changes
// and answers a page that opens later. Here is the wiring; panel/states.js finds the node that a
// state is of, panel/view.js draws it.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { panelOf, withoutPanel } from "./panel/attached.js";
import { forget, known, nodeOf, remember } from "./panel/states.js";
import { toast } from "./panel/toast.js";
import { speak } from "./panel/words.js";

const EVENT = "darkminer.panel";
const PANEL = "DarkMiner.Panel.Show";
const PICTURES = "DarkMiner.Panel.Pictures";
const TOASTS = "DarkMiner.Panel.Toasts";
const LANGUAGE = "Comfy.Locale";

let panels = true; // as the setting says; the page keeps its new value only after onChange

function show(state) {
  const node = nodeOf(app, state);
  if (!node || !panels) return;
  const which = app.extensionManager.setting.get(PICTURES) ?? "all";
  panelOf(node, (name) => api.apiURL(`/darkminer/picture/${name}`)).show(state, which);
}

/** Show or take away all panels, as the setting says now. */
function showAll(on) {
  panels = on;
  for (const state of known()) {
    const node = nodeOf(app, state);
    if (on) show(state);
    else if (node) withoutPanel(node);
  }
}

/** Ask the server for all that it keeps; what it does not know any more has ended. */
async function catchUp() {
  let answer;
  try {
    answer = await api.fetchApi("/darkminer/state");
  } catch {
    return; // the server is away: the page says so itself
  }
  if (!answer.ok) return;
  const { panels } = await answer.json();
  for (const lost of forget(panels)) show(lost);
  panels.forEach((state) => remember(state) && show(state));
}

app.registerExtension({
  name: "DarkMiner.Panel",
  settings: [
    {
      id: PANEL,
      category: ["Dark Miner", "Runs", "Panel"],
      name: "Show a run on its node",
      tooltip: "Stage, time left, scores, losses and pictures, on the node that runs.",
      type: "boolean",
      defaultValue: true,
      onChange: showAll,
    },
    {
      id: PICTURES,
      category: ["Dark Miner", "Runs", "Pictures"],
      name: "Pictures on a run's panel",
      tooltip: "The pairs that verifications have scored; they are kept for the report in any case.",
      type: "combo",
      options: [
        { text: "of the first and the newest verifications", value: "all" },
        { text: "of the newest verification", value: "newest" },
        { text: "none", value: "none" },
      ],
      defaultValue: "all",
      onChange: () => setTimeout(() => known().forEach(show)), // once the page has kept it
    },
    {
      id: TOASTS,
      category: ["Dark Miner", "Runs", "Toasts"],
      name: "Say in the corner when a long run ends",
      type: "boolean",
      defaultValue: true,
    },
  ],
  async setup() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./panel/panel.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener(EVENT, ({ detail }) => {
      const before = remember(detail);
      if (!before) return;
      show(detail);
      if (app.extensionManager.setting.get(TOASTS) ?? true) toast(app, before.state, detail);
    });
    api.addEventListener("reconnected", catchUp);
    await speak(app.ui.settings.getSettingValue(LANGUAGE));
    app.ui.settings.addEventListener(`${LANGUAGE}.change`, async ({ detail }) => {
      await speak(detail.value);
      known().forEach(show);
    });
    await catchUp();
  },
  // Nodes are made anew when a workflow is opened and when something is undone.
  afterConfigureGraph() {
    known().forEach(show);
  },
});
