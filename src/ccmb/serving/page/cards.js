// Images that were found: cards of the grid, and the large view of one.
import { show } from "./server.js";
import { number, percent, words } from "./words.js";

/** An element: properties are set, and those with a dash or of ARIA become attributes. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "role" || key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function bar(kind, label, share, figure) {
  const fill = make("i");
  fill.style.width = `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
  return make("div", { className: `bar ${kind}` }, make("span", {}, label), make("span", { className: "track" }, fill), make("b", {}, figure));
}

/** How far the second stage moved an image. */
function movement(hit, place) {
  if (hit.match === null || !hit.place) return null;
  const by = hit.place - place, way = by > 0 ? "up" : by < 0 ? "down" : "same";
  const text = words(way, { n: Math.abs(by) });
  return make("span", { className: `moved ${way}`, title: text, role: "img", "aria-label": text }, by ? `${by > 0 ? "↑" : "↓"}${Math.abs(by)}` : "=");
}

function picture(hit, path, loading) {
  const frame = make("span", { className: "frame" });
  if (hit.missing) {
    frame.append(make("span", { className: "gone" }, words("gone")));
    return frame;
  }
  const image = make("img", { alt: "", loading, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(make("span", { className: "gone" }, words("gone"))), { once: true });
  image.addEventListener("load", () => frame.classList.add("here"), { once: true });
  frame.append(image);
  show(image, path);
  return frame;
}

/** What the second stage says of a hit: a probability, or of a model that is not calibrated its match score. */
function matchBar(hit) {
  if (hit.probability !== null) return bar("match", words("match"), hit.probability, percent(hit.probability));
  return hit.match === null ? null : bar("match", words("matchScore"), hit.match, hit.match.toFixed(3));
}

export function scoresInWords(hit, place) {
  const parts = [words("place", { n: place }), hit.name, `${words("cosine")} ${hit.cosine.toFixed(3)}`];
  if (hit.probability !== null) parts.push(`${words("probability")} ${percent(hit.probability)}`);
  else if (hit.match !== null) parts.push(`${words("matchScore")} ${hit.match.toFixed(3)}`);
  return parts.join(", ");
}

/** A card of the grid. `best` is the highest cosine of the page, which fills its bar. */
export function card(hit, place, best, on) {
  const open = make("button", { type: "button", className: "open", tabIndex: -1, "aria-label": scoresInWords(hit, place) }, picture(hit, `thumbnails/${hit.key}`, place > 12 ? "lazy" : "eager"));
  open.addEventListener("click", () => on.open(hit));
  const like = make("button", { type: "button", className: "like", tabIndex: -1, title: words("like"), "aria-label": `${words("like")}: ${hit.name}` }, words("like"));
  like.addEventListener("click", () => on.like(hit));
  const item = make("li", {},
    open,
    make("span", { className: "place", "aria-hidden": "true" }, String(place)),
    movement(hit, place),
    make("div", { className: "scores" },
      bar("cosine", words("cosine"), hit.cosine / best, hit.cosine.toFixed(3)),
      matchBar(hit)),
    make("div", { className: "under" }, make("span", { className: "name", title: hit.name }, hit.name), like),
    hit.copies.length ? make("span", { className: "copies" }, words("copies", { n: hit.copies.length })) : null);
  item.dataset.key = hit.key;
  return item;
}

export const skeletons = (count) => Array.from({ length: count }, () => make("li", { className: "skeleton", "aria-hidden": "true" }, make("span", { className: "frame" }), make("span", { className: "line" }), make("span", { className: "line short" })));

function shown(name, value) {
  if (name === "bytes" || name === "width" || name === "height") return number(value);
  if (name === "date") return String(value).slice(0, 16).replace("T", " ");
  return typeof value === "boolean" ? words(value ? "yes" : "no") : String(value);
}

/** Fill the dialog with one hit; `on` has like, step and close. */
export function detail(dialog, hit, place, count, on) {
  const rows = [[words("placeNow"), `${place} / ${count}`]];
  if (hit.match !== null && hit.place) rows.push([words("placeFirst"), String(hit.place)]);
  rows.push([words("cosine"), hit.cosine.toFixed(4)]);
  if (hit.match !== null) rows.push([words("matchScore"), hit.match.toFixed(4)]);
  if (hit.probability !== null) rows.push([words("probability"), percent(hit.probability)]);
  if (hit.match !== null) rows.push([words("score"), hit.score.toFixed(4)]);
  for (const [name, value] of Object.entries(hit.fields)) if (value !== "") rows.push([words(name), shown(name, value)]);
  const button = (name, text, act, properties = {}) => {
    const element = make("button", { type: "button", className: name, ...properties }, text);
    element.addEventListener("click", act);
    return element;
  };
  dialog.replaceChildren(
    make("div", { className: "large" },
      picture(hit, `pictures/${hit.key}`, "eager"),
      button("step back", "‹", () => on.step(-1), { "aria-label": words("previous"), disabled: place === 1 }),
      button("step on", "›", () => on.step(1), { "aria-label": words("next"), disabled: place === count })),
    make("div", { className: "facts" },
      make("h2", {}, hit.name),
      make("div", { className: "scores" },
        bar("cosine", words("cosine"), hit.cosine, hit.cosine.toFixed(3)),
        matchBar(hit)),
      make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      make("p", { className: "actions" },
        button("go", words("like"), () => on.like(hit)),
        button("quiet", words("close"), on.close))));
}
