// Right click on Save Erasure LoRA, "Use this erasure": a loader with the file that it has saved.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeAt } from "./panel/states.js";
import { addLoader, fileOf } from "./use/loader.js";

const KIND = "SaveErasureLoRA";
const saved = new WeakMap(); // node -> what it said it saved, below the output folder

app.registerExtension({
  name: "DarkMiner.UseErasure",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeAt(app, detail.display_node ?? detail.node);
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
