// What a new node holds from the start: the run folder of ComfyUI's settings, and no empty room.
//
// Workflows that are opened keep their own values and sizes: they are written over these.

import { app } from "../../scripts/app.js";

const FOLDER = "DarkMiner.Runs.Folder";
const KINDS = ["DarkMinerLoop", "EraseConcepts"];
const PACK = `custom_nodes.${new URL(import.meta.url).pathname.split("/").at(-2)}`;
const ROW = LiteGraph.NODE_WIDGET_HEIGHT + 4;

/** Nodes 2.0 folds advanced inputs away, and the host leaves their room on a new node empty. */
function withoutEmptyRoom(node) {
  const always = app.extensionManager?.setting?.get("Comfy.Node.AlwaysShowAdvancedWidgets");
  if (!LiteGraph.vueNodesMode || always) return;
  const folded = node.widgets?.filter(({ options }) => options?.advanced).length;
  if (folded) node.setSize([node.size[0], Math.max(ROW, node.size[1] - folded * ROW)]);
}

app.registerExtension({
  name: "DarkMiner.NewNodes",
  settings: [
    {
      id: FOLDER,
      category: ["Dark Miner", "Runs", "Folder"],
      name: "run_folder of new nodes",
      tooltip: "Empty: each run is kept in a folder of its own. off: nothing is kept.",
      type: "text",
      defaultValue: "",
    },
  ],
  nodeCreated(node) {
    if (node.constructor.nodeData?.python_module === PACK) withoutEmptyRoom(node);
    if (!KINDS.includes(node.comfyClass ?? node.type)) return;
    const folder = app.extensionManager?.setting?.get(FOLDER);
    const widget = node.widgets?.find(({ name }) => name === "run_folder");
    if (folder && widget) widget.value = folder;
  },
});
