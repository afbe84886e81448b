// A loader for a LoRA that was saved, on the model that it was made from.

const LOADER = "LoraLoaderModelOnly";
const FOLDER = "loras/"; // of the output folder: where loaders look, besides models/loras
const GAP = 60;

/** The name by which loaders list a file that lies below the output folder. */
export function fileOf(below) {
  const path = below.replaceAll("\\", "/");
  if (path.startsWith(FOLDER)) return path.slice(FOLDER.length);
  throw new Error(
    `Loaders do not list ${path}: save with a filename_prefix that begins with ${FOLDER}, or copy ` +
      "the file to models/loras.",
  );
}

/** Where the MODEL comes from that the erasure began with: an input named model, upstream. */
export function modelOf(node, seen = new Set()) {
  if (!node || seen.has(node)) return null;
  seen.add(node);
  const place = node.inputs?.findIndex((input) => input.name === "model" && input.link != null);
  if (place >= 0) {
    return { node: node.getInputNode(place), slot: node.getInputLink(place).origin_slot };
  }
  for (let i = 0; i < (node.inputs?.length ?? 0); i++) {
    const found = node.inputs[i].link == null ? null : modelOf(node.getInputNode(i), seen);
    if (found) return found;
  }
  return null;
}

/** The first place from pos downwards where a node of a size covers no other. */
function freeBelow(graph, pos, size) {
  const title = window.LiteGraph.NODE_TITLE_HEIGHT;
  const [left, right] = [pos[0], pos[0] + size[0]];
  let top = pos[1];
  const covers = ({ pos: [x, y], size: [wide, high] }) =>
    x < right && x + wide > left && y - title < top + size[1] && y + high > top - title;
  for (let other; (other = graph.nodes.find(covers)); ) top = other.pos[1] + other.size[1] + GAP;
  return [left, top];
}

/** Add the loader beside the node, with the file chosen and the original MODEL connected. */
export async function addLoader(app, node, file) {
  const { LiteGraph } = window;
  await app.refreshComboInNodes?.(); // the list of files is older than this one
  const loader = LiteGraph.createNode(LOADER);
  if (!loader) throw new Error(`This ComfyUI has no node ${LOADER}.`);
  loader.pos = freeBelow(node.graph, [node.pos[0] + node.size[0] + GAP, node.pos[1]], loader.size);
  node.graph.beforeChange?.();
  node.graph.add(loader);
  loader.widgets.find((widget) => widget.name === "lora_name").value = file;
  const model = modelOf(node);
  if (model) model.node.connect(model.slot, loader, 0);
  node.graph.afterChange?.();
  app.canvas.selectNode?.(loader);
  return loader;
}
