// The newest state of each node that this page has heard of.

const MOST = 64;
const states = new Map();

const keyOf = (state) => `${state.workflow} ${state.node}`;

/** Keep a state; what was there before ({} for nothing), or null where that is newer. */
export function remember(state) {
  const key = keyOf(state);
  const before = states.get(key);
  if (before && before.now > state.now) return null;
  states.delete(key);
  states.set(key, state);
  for (const old of [...states.keys()].slice(0, -MOST)) states.delete(old);
  return before ?? {};
}

export const known = () => [...states.values()];

/** Runs under way that the server, started anew, does not know: they have ended. */
export function forget(kept) {
  const alive = new Set(kept.map(keyOf));
  const lost = known().filter((state) => state.state === "running" && !alive.has(keyOf(state)));
  return lost.map((state) => {
    const ended = { ...state, state: "stopped", left: "", words: "The server was started anew." };
    states.set(keyOf(state), ended);
    return ended;
  });
}

/** The node of the open workflow with an id such as "12:5", 5 inside the subgraph 12. */
export function nodeAt(app, id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node ?? null;
}

/** The node of the open workflow that a state is of. */
export function nodeOf(app, state) {
  if (app.isGraphReady === false) return null;
  const graph = app.rootGraph ?? app.graph;
  if (!graph || !state.workflow || graph.id !== state.workflow) return null;
  const node = nodeAt(app, state.node);
  return node && (node.comfyClass ?? node.type) === state.kind ? node : null;
}
