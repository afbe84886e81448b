// Small charts in SVG: a loss curve, the scores of all rounds, one score against its threshold.

import { say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function picture(width, height, words, ...children) {
  const about = svg("title", {}, words);
  const box = `0 0 ${width} ${height}`;
  return svg("svg", { viewBox: box, preserveAspectRatio: "none", role: "img" }, about, ...children);
}

const line = (points, className) =>
  svg("polyline", {
    points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "),
    class: className,
    "vector-effect": "non-scaling-stroke",
  });

export const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

/** The loss over the steps of one stretch; it fills the width once all steps are taken. */
export function curve({ title, steps, points }) {
  const [width, height] = [300, 56];
  const losses = points.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const span = high - low || Math.abs(high) || 1;
  const first = points[0][0];
  const all = Math.max(steps - first, 1);
  const at = points.map(([step, loss]) => [
    (width * (step - first)) / all,
    2 + ((height - 4) * (high - loss)) / span,
  ]);
  const moved = say(`loss ${short(losses[0])} at first, now ${short(losses.at(-1))}`);
  const words = `${say(title)} · ${moved}`;
  return picture(width, height, words, line(at, "dm-line"));
}

/** Where scores lie between the lowest and the highest that is drawn. */
function scale(looks) {
  const values = looks.flatMap(({ score, threshold }) => [score, threshold]);
  const [low, high] = [Math.min(0, ...values), Math.max(...values)];
  const room = 0.1 * (high - low) || 0.1;
  return (value) => (value - low + room) / (high - low + 2 * room);
}

/** Every round's highest score, and the threshold as a dashed line. */
export function scores(looks) {
  const [width, height] = [300, 56];
  const share = scale(looks);
  const x = (i) => (looks.length > 1 ? 6 + ((width - 12) * i) / (looks.length - 1) : width / 2);
  const y = (value) => height * (1 - share(value));
  const limit = looks.map(({ threshold }, i) => [x(i), y(threshold)]);
  const newest = looks.at(-1);
  const [first, now, threshold] = [looks[0].score, newest.score, newest.threshold].map(short);
  const words = say(`${looks.length} scores: ${first} at first, now ${now}, threshold ${threshold}`);
  return picture(
    width, height, words,
    line(limit, "dm-limit"),
    line(looks.map(({ score }, i) => [x(i), y(score)]), "dm-line"),
  );
}

/** One score as a bar, the threshold as a mark across it. */
export function meter(look, looks) {
  const share = scale(looks);
  const [zero, end, limit] = [0, look.score, look.threshold].map((value) => 100 * share(value));
  const words = say(`score ${short(look.score)}, threshold ${short(look.threshold)}`);
  return picture(
    100, 10, words,
    svg("rect", { x: 0, y: 2, width: 100, height: 6, class: "dm-track" }),
    svg("rect", {
      x: Math.min(zero, end), y: 2, width: Math.max(1, Math.abs(end - zero)), height: 6,
      class: look.there ? "dm-there" : "dm-gone",
    }),
    svg("rect", { x: limit - 0.75, y: 0, width: 1.5, height: 10, class: "dm-mark" }),
  );
}
