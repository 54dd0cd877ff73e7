// The page: what is asked, what is shown, and the keys.
import { card, detail, make, skeletons } from "./cards.js";
import { fillPanel, inWords } from "./filters.js";
import { Refusal, ask, key, readPicture, show } from "./server.js";
import { asksForSomething, empty, fromAddress, ranks, toAddress, toRequest } from "./state.js";
import { language, number, percent, speak, words } from "./words.js";

const PAGE = 30;
const $ = (id) => document.getElementById(id);
const results = $("results"), message = $("message"), dialog = $("detail"), text = $("text"), panel = $("filters");
const answers = new Map(); // of this visit, by request, so that switching stages back and forth is instant
let state = fromAddress(), about = null, hits = [], last = null, running = null;

/* Asking */

async function run({ push = true } = {}) {
  running?.abort();
  if (push && toAddress(state) !== location.pathname + location.search) history.pushState(null, "", toAddress(state));
  drawQuestion();
  if (!about) return start();
  if (!asksForSomething(state)) return drawWelcome();
  const body = toRequest(state, about, PAGE, 0), name = JSON.stringify(body);
  if (!answers.has(name)) {
    drawLoading();
    running = new AbortController();
    try {
      answers.set(name, await ask("search", body, running.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      return drawError(error, run);
    }
    setTimeout(() => answers.delete(name), 60_000); // images come and go
  }
  last = answers.get(name);
  drawHits(last.hits);
}

async function more() {
  $("more").disabled = true;
  try {
    const next = await ask("search", toRequest(state, about, PAGE, hits.length));
    last = { ...next, hits: [...hits, ...next.hits] };
    const first = hits.length;
    drawHits(last.hits);
    focusCard(first);
  } catch (error) {
    drawError(error, more);
  }
  $("more").disabled = false;
}

async function start() {
  try {
    about = await ask("about");
  } catch (error) {
    return drawError(error, start);
  }
  drawQuestion();
  if (about.pictures === null) return say("noIndex", words("noIndexMore"));
  if (about.pictures === 0) return say("empty", "");
  return run({ push: false });
}

const change = (values) => { state = { ...state, ...values }; return run(); };

async function takePicture(file) {
  if (!file) return;
  try {
    await change({ picture: await readPicture(file), like: null });
  } catch {
    drawError(new Refusal(422, "unreadable_picture", words("unreadable")), null);
  }
}

function moreLike(hit) {
  dialog.close();
  text.value = "";
  window.scrollTo({ top: 0 });
  change({ like: hit.key, picture: null, text: "" });
}

/* Drawing */

function drawQuestion() {
  if (about && !about.calibrated) state.least = 0; // there is no probability to ask for, whatever the address says
  if (document.activeElement !== text || text.value.trim() !== state.text.trim()) text.value = state.text;
  document.title = state.text ? `${state.text} · CCMB` : "CCMB";
  const known = about?.pictures;
  $("size").textContent = known === undefined || known === null ? "" : words("pictures", { n: number(known) });
  drawStages();
  const count = state.where.length + (state.least > 0) + state.collapse;
  $("filter-count").textContent = count;
  $("filter-count").hidden = !count;
  if (about) fillPanel(panel, about, state, (values) => { openPanel(false); change(values); });
  $("chips").replaceChildren(...chips());
}

function drawStages() {
  const possible = !about || (about.can_rank && !(asksForSomething(state) && !state.text.trim()));
  const second = state.rank && possible;
  for (const [id, on] of [["first", !second], ["second", second]]) {
    $(id).setAttribute("aria-checked", on);
    $(id).tabIndex = on ? 0 : -1;
  }
  $("second").disabled = !possible;
  $("first").title = words("firstTip");
  $("second").title = possible ? words("secondTip") : words(about.can_rank ? "onlyFirst" : "noRanking");
}

function chips() {
  const found = [];
  const chip = (label, picture, values) => {
    const remove = make("button", { type: "button", "aria-label": `${words("remove")}: ${label}` }, "×");
    remove.addEventListener("click", () => { change(values); text.focus(); });
    found.push(make("span", { className: "chip" }, picture, label, remove));
  };
  if (state.picture) chip(words("yourPicture"), make("img", { src: state.picture.url, alt: "" }), { picture: null });
  if (state.like) {
    const image = make("img", { alt: "" });
    show(image, `thumbnails/${state.like}`);
    chip(words("likeThis"), image, { like: null });
  }
  state.where.forEach((filter, place) => chip(inWords(filter), null, { where: state.where.filter((_, other) => other !== place) }));
  if (state.least) chip(`${words("probability")} ≥ ${percent(state.least)}`, null, { least: 0 });
  if (state.collapse) chip(words("collapse"), null, { collapse: false });
  return found;
}

function drawLoading() {
  message.replaceChildren();
  $("more").hidden = true;
  $("status").textContent = "";
  results.setAttribute("aria-busy", "true");
  // What is there stays, paler, until the new answer comes: a grid that flickers is hard to compare.
  if (!results.querySelector("li:not(.skeleton)")) results.replaceChildren(...skeletons(12));
}

function drawHits(found) {
  hits = found;
  results.removeAttribute("aria-busy");
  message.replaceChildren();
  if (!hits.length) {
    results.replaceChildren();
    $("more").hidden = true;
    drawStatus();
    const reason = state.least ? words("noneLikely", { p: percent(state.least) }) : words("noneMore");
    const filtered = state.where.length || state.least;
    return say("none", reason, filtered ? ["loosen", () => change({ where: [], least: 0 })] : null);
  }
  const before = new Map([...results.children].map((item) => [item.dataset.key, item.getBoundingClientRect()]));
  const best = Math.max(1e-6, ...hits.map((hit) => hit.cosine));
  results.replaceChildren(...hits.map((hit, place) => card(hit, place + 1, best, { open: openHit, like: moreLike })));
  results.querySelector(".open").tabIndex = 0;
  $("more").hidden = !last.more;
  drawStatus();
  glide(before);
}

/** Let cards glide from where they were, so that one sees what the other stage moves. */
function glide(before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const item of results.children) {
    const from = before.get(item.dataset.key);
    if (!from) {
      item.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 250 });
      continue;
    }
    const to = item.getBoundingClientRect(), x = from.left - to.left, y = from.top - to.top;
    if (x || y) item.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], { duration: 450, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}

function drawStatus() {
  const parts = [];
  if (last.ranked) parts.push(words("found", { candidates: number(last.candidates) }), words("ranked", { ranked: number(last.ranked) }));
  if (last.partial) parts.push(words("partial"));
  if (last.unknown) parts.push(words("unknown"));
  const times = Object.entries(last.seconds).filter(([, seconds]) => seconds >= 0.0005);
  if (times.length) parts.push(times.map(([name, seconds]) => `${words(name)} ${Math.round(1000 * seconds)} ms`).join(" + "));
  $("status").textContent = parts.join(" · ");
}

function say(title, more, action = null) {
  const box = make("div", { className: "say" }, make("h1", {}, words(title)), more ? make("p", {}, more) : null);
  if (action) {
    const button = make("button", { type: "button", className: "go" }, words(action[0]));
    button.addEventListener("click", action[1]);
    box.append(button);
  }
  results.removeAttribute("aria-busy");
  results.replaceChildren();
  $("more").hidden = true;
  message.replaceChildren(box);
  return box;
}

function drawWelcome() {
  hits = [];
  $("status").textContent = "";
  const box = say("welcome", words("welcomeMore"));
  if (about.can_rank) box.append(make("p", { className: "muted" }, words("welcomeStages")));
}

function drawError(error, again) {
  $("status").textContent = "";
  if (error.status === 401) return drawKey();
  const reason = error.status === 0 ? words("offline") : error.message;
  const box = say("failed", reason, again ? ["retry", () => again()] : null);
  box.setAttribute("role", "alert");
}

function drawKey() {
  const box = say("needsKey", words("needsKeyMore"));
  const input = make("input", { type: "password", autocomplete: "off", required: true, "aria-label": words("key"), placeholder: words("key") });
  const form = make("form", { className: "key" }, input, make("button", { className: "go" }, words("enter")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(input.value.trim());
    start();
  });
  box.append(form);
  input.focus();
}

/* The large view, and the keys */

function openHit(hit) {
  const place = hits.indexOf(hit);
  detail(dialog, hit, place + 1, hits.length, { like: moreLike, step, close: () => dialog.close() });
  dialog.dataset.place = place;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const place = Number(dialog.dataset.place) + by;
  if (hits[place]) openHit(hits[place]);
}

const buttons = () => [...results.querySelectorAll(".open")];

function focusCard(place) {
  const all = buttons();
  if (!all.length) return;
  const next = all[Math.min(all.length - 1, Math.max(0, place))];
  for (const of of all) of.tabIndex = of === next ? 0 : -1;
  next.focus();
}

function moveFocus(code, from) {
  const all = buttons();
  const columns = Math.max(1, all.filter((of) => of.getBoundingClientRect().top === all[0].getBoundingClientRect().top).length);
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity }[code];
  if (code === "ArrowUp" && from < columns) return text.focus();
  return focusCard(from + by);
}

function openPanel(open) {
  panel.hidden = !open;
  $("open-filters").setAttribute("aria-expanded", open);
  if (open) panel.querySelector("input, select")?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (dialog.open) {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
    if (event.key === "m") moreLike(hits[Number(dialog.dataset.place)]);
    return;
  }
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  const place = buttons().indexOf(document.activeElement);
  if (event.key === "Escape") {
    if (!panel.hidden) { openPanel(false); $("open-filters").focus(); }
    else if (document.activeElement === text) text.blur();
    else text.focus();
  } else if (event.key === "ArrowDown" && document.activeElement === text && hits.length) {
    event.preventDefault();
    focusCard(0);
  } else if (typing) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    text.focus();
    text.select();
  } else if (event.key === "1" || event.key === "2") {
    if (!$("second").disabled) change({ rank: event.key === "2" });
  } else if (event.key === "m" && place >= 0) {
    moreLike(hits[place]);
  } else if (place >= 0 && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    moveFocus(event.key, place);
  } else if (/^Arrow(Left|Right)$/.test(event.key) && document.activeElement?.getAttribute("role") === "radio" && !$("second").disabled) {
    const rank = event.key === "ArrowRight";
    change({ rank });
    $(rank ? "second" : "first").focus();
  }
});

dialog.addEventListener("close", () => focusCard(Number(dialog.dataset.place)));
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

/* Wiring */

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ text: text.value.trim() });
});
text.addEventListener("search", () => { if (!text.value && state.text) change({ text: "" }); });
$("first").addEventListener("click", () => change({ rank: false }));
$("second").addEventListener("click", () => change({ rank: true }));
$("more").addEventListener("click", more);
$("open-filters").addEventListener("click", () => openPanel(panel.hidden));
$("file").addEventListener("change", () => { takePicture($("file").files[0]); $("file").value = ""; });
document.querySelector(".brand").addEventListener("click", (event) => { event.preventDefault(); state = { ...empty(), rank: state.rank }; run(); text.focus(); });
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((of) => of.type.startsWith("image/"));
  if (file) takePicture(file);
});
let depth = 0; // of elements that a drag has entered
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; $("drop").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (carriesFiles(event)) { depth -= 1; $("drop").hidden = depth > 0 ? false : true; } });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  takePicture(event.dataTransfer?.files[0]);
});
for (const name of ["zh", "en"]) $(name).addEventListener("click", () => {
  speak(name);
  drawQuestion();
  if (hits.length) drawHits(hits);
  else run({ push: false });
});
addEventListener("popstate", () => { state = { ...fromAddress(), picture: null }; run({ push: false }); });

speak(language());
drawQuestion();
start();
if (!asksForSomething(state) && matchMedia("(hover: hover)").matches) text.focus();
