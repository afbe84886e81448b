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

/** The node of the open workflow that a state is of; inside subgraphs "12:5" is 5 inside 12. */
export function nodeOf(app, state) {
  if (app.isGraphReady === false) return null;
  let graph = app.rootGraph ?? app.graph;
  if (!graph || !state.workflow || graph.id !== state.workflow) return null;
  let node = null;
  for (const id of state.node.split(":")) {
    node = graph?.getNodeById(Number(id));
    graph = node?.subgraph;
  }
  return node && (node.comfyClass ?? node.type) === state.kind ? node : null;
}
