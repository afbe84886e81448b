// What a new node of a whole run holds from the start, as ComfyUI's settings say.
//
// Workflows that are opened keep their own values: they are written over these.

import { app } from "../../scripts/app.js";

const FOLDER = "DarkMiner.Runs.Folder";
const KINDS = ["DarkMinerLoop", "EraseConcepts"];

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
    if (!KINDS.includes(node.comfyClass ?? node.type)) return;
    const folder = app.extensionManager?.setting?.get(FOLDER);
    const widget = node.widgets?.find(({ name }) => name === "run_folder");
    if (folder && widget) widget.value = folder;
  },
});
