// What a state looks like. Every piece is made anew from the state; only what a person may hold with
// the keyboard, and the pictures, stay.

import { curve, meter, scores, short } from "./charts.js";
import { say } from "./words.js";

const SHOWN = 6; // verifications whose pictures are shown: the first and the newest

function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** What a run that has ended came to, in a word. */
function ended(state) {
  if (state === "done") return say("Finished");
  return state === "stopped" ? say("Stopped") : say("Failed");
}

export class View {
  constructor(pictureUrl) {
    this.pictureUrl = pictureUrl;
    this.height = 0;
    this.which = "all";
    this.folded = false;
    this.pictures = new Map();
    this.fold = element("button", "dm-fold");
    this.fold.type = "button";
    this.fold.addEventListener("click", () => this.toggle());
    this.title = element("span", "dm-title");
    this.where = element("div", "dm-where");
    this.bar = element("div", "dm-bar", element("i"));
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-valuemin", 0);
    this.bar.setAttribute("aria-valuemax", 100);
    this.news = element("p", "dm-words");
    this.news.setAttribute("role", "status");
    this.body = element("div", "dm-body");
    const head = element("div", "dm-head", this.title, this.fold);
    this.inner = element("div", "dm-inner", head, this.where, this.bar, this.news, this.body);
    this.element = element("section", "dm-panel", this.inner);
  }

  /** Draw a state, with the pictures of which verifications: "all", "newest" or "none". */
  show(state, which = this.which) {
    this.state = state;
    this.which = which;
    const names = new Set(state.looks.flatMap(({ pair }) => pair ?? []));
    for (const name of this.pictures.keys()) if (!names.has(name)) this.pictures.delete(name);
    const running = state.state === "running";
    const share = Math.round(100 * state.share);
    this.element.dataset.state = state.state;
    this.element.dataset.kind = state.kind;
    this.element.setAttribute("aria-label", `Dark Miner: ${say("how the run goes")}`);
    this.bar.setAttribute("aria-label", say("How much of the run is done"));
    this.title.textContent = running ? say(state.title || state.words) : ended(state.state);
    this.where.textContent = running ? whereabouts(state) : "";
    this.bar.firstChild.style.width = `${share}%`;
    this.bar.setAttribute("aria-valuenow", share);
    this.tell(say(running ? state.note : state.words));
    this.body.replaceChildren(...(this.folded ? [] : this.pieces(state, running)));
    this.bar.hidden = !running;
    this.where.hidden = !this.where.textContent;
    this.fold.hidden = !state.looks.length && !state.curve;
    this.fold.textContent = this.folded ? say("Show") : say("Hide");
    this.fold.setAttribute("aria-expanded", !this.folded);
    this.fold.setAttribute("aria-label", this.folded ? say("Show curve and rounds") : say("Hide curve and rounds"));
    this.measure();
  }

  /** Sentences; screen readers hear them when they change. */
  tell(words) {
    if (this.news.textContent !== words) this.news.textContent = words;
    this.news.hidden = !words;
  }

  toggle() {
    this.folded = !this.folded;
    this.show(this.state);
    this.onFold?.();
  }

  /** Whether the height that its content needs has changed. */
  measure() {
    const height = this.inner.offsetHeight || this.height;
    const changed = height !== this.height;
    this.height = height;
    return changed;
  }

  pieces(state, running) {
    const found = [];
    if (running && state.curve?.points.length > 1) found.push(this.curvePiece(state.curve));
    const groups = new Map();
    for (const look of state.looks) groups.set(look.about, [...(groups.get(look.about) ?? []), look]);
    for (const [about, looks] of [...groups].slice(-2)) found.push(this.looksPiece(about, looks));
    return found;
  }

  curvePiece(given) {
    const now = element("b", "", short(given.points.at(-1)[1]));
    const caption = element("figcaption", "", `${say("Loss")} · ${say(given.title)} `, now);
    return element("figure", "dm-chart", caption, curve(given));
  }

  looksPiece(about, looks) {
    const caption = element("figcaption", "", [say("Scores"), about].filter(Boolean).join(" · ") + " ");
    caption.append(element("span", "dm-dim", `${say("threshold")} ${short(looks.at(-1).threshold)}`));
    const shown = looks.length > SHOWN ? [looks[0], ...looks.slice(1 - SHOWN)] : looks;
    const tiles = element("ol", "dm-looks", ...shown.map((look) => this.tile(look, looks)));
    const piece = element("figure", "dm-chart", caption);
    if (looks.length > 2) piece.append(scores(looks));
    piece.append(tiles);
    return piece;
  }

  tile(look, looks) {
    const said = element("div", "dm-said", element("b", "", say(look.name)), ` ${short(look.score)}`);
    const verdict = element("div", "dm-verdict", look.there ? say("still there") : say("not found"));
    const pair = element("div", "dm-pair");
    const words = [say("what the anchor shows"), say("what mining found")];
    if (this.which === "all" || (this.which === "newest" && look === looks.at(-1))) {
      look.pair?.forEach((name, i) => pair.append(this.image(name, `${say(look.name)}: ${words[i]}`)));
    }
    const tile = element("li", look.there ? "is-there" : "is-gone", pair, meter(look, looks));
    tile.append(said, verdict);
    return tile;
  }

  image(name, words) {
    if (!this.pictures.has(name)) {
      const image = element("img");
      image.addEventListener("load", () => {
        image.classList.toggle("is-small", image.naturalWidth <= 80);
      });
      image.src = this.pictureUrl(name);
      image.draggable = false;
      this.pictures.set(name, image);
    }
    const image = this.pictures.get(name);
    image.alt = image.title = words;
    return image;
  }
}

function whereabouts({ about, step, steps, unit, left }) {
  const at = steps > 1 ? say(`${unit || "step"} ${step} of ${steps}`) : "";
  return [about, at, left && say(left)].filter(Boolean).join(" · ");
}
