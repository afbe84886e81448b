// Right click on Save Erasure LoRA, "Use this erasure": a loader with the file that it has saved.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { fileOf, addLoader } from "./use/loader.js";

const KIND = "SaveErasureLoRA";
const saved = new WeakMap(); // node -> what it said it saved, below the output folder

/** The node of the open workflow with an id such as "12:5", 5 inside 12. */
function nodeAt(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

app.registerExtension({
  name: "DarkMiner.UseErasure",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeAt(detail.display_node ?? detail.node);
      const [file] = detail.output?.text ?? [];
      if ((node?.comfyClass ?? node?.type) === KIND && file) saved.set(node, file);
    });
  },
  getNodeMenuItems(node) {
    if ((node.comfyClass ?? node.type) !== KIND) return [];
    const file = saved.get(node);
    const use = async () => {
      try {
        await addLoader(app, node, fileOf(file));
      } catch (error) {
        app.extensionManager?.toast?.add({
          severity: "warn", summary: "Dark Miner", detail: error.message, life: 12000,
        });
      }
    };
    const content = file ? "Use this erasure" : "Use this erasure (run it first)";
    return [{ content, disabled: !file, callback: use }];
  },
});
