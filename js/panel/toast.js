// A word in the page's corner when a long run ends; errors the page shows by itself.

import { say } from "./words.js";

const LONG = ["DarkMinerLoop", "EraseConcepts"];
const SEVERITY = { done: "info", stopped: "warn" };

export function toast(app, before, state) {
  const severity = SEVERITY[state.state];
  if (before !== "running" || !severity || !LONG.includes(state.kind)) return;
  app.extensionManager?.toast?.add({
    severity, summary: "Dark Miner", detail: state.words ? say(state.words) : say("Stopped"), life: 10000,
  });
}
