// The panel of filters: one control for each field that the index knows, by its type.
import { make } from "./cards.js";
import { percent, words } from "./words.js";

const value = (where, field, comparison) => where.find((of) => of.field === field && of.comparison === comparison)?.value ?? "";

/** What a filter says, for its chip. */
export function inWords(filter) {
  const sign = { "==": "=", "!=": "≠", "<=": "≤", ">=": "≥", under: "/", in: "∈" }[filter.comparison] ?? filter.comparison;
  return `${words(filter.field)} ${sign} ${filter.value === true ? words("yes") : filter.value === false ? words("no") : filter.value}`;
}

function bounds(field, type, where, read) {
  const inputs = [">=", "<="].map((comparison) => {
    const input = make("input", { type, value: value(where, field, comparison), step: "any", "aria-label": `${words(field)} ${words(comparison === ">=" ? "from" : "to")}`, placeholder: type === "number" ? words(comparison === ">=" ? "from" : "to") : undefined });
    return { input, read: () => (input.value === "" ? [] : [{ field, comparison, value: read(input.value) }]) };
  });
  return { inputs: inputs.map((of) => of.input), read: () => inputs.flatMap((of) => of.read()) };
}

function single(field, comparison, where) {
  const input = make("input", { type: "text", maxLength: 200, value: value(where, field, comparison), "aria-label": words(field), placeholder: words("any") });
  return { inputs: [input], read: () => (input.value.trim() ? [{ field, comparison, value: input.value.trim() }] : []) };
}

function choice(field, where) {
  const options = [["", words("any")], ["true", words("yes")], ["false", words("no")]];
  const input = make("select", { "aria-label": words(field) }, ...options.map(([key, text]) => make("option", { value: key }, text)));
  input.value = String(value(where, field, "=="));
  return { inputs: [input], read: () => (input.value ? [{ field, comparison: "==", value: input.value === "true" }] : []) };
}

function control(field, type, where) {
  if (type === "bool") return choice(field, where);
  if (type === "int" || type === "float") return bounds(field, "number", where, Number);
  if (field === "date") return bounds(field, "date", where, String);
  return single(field, field === "folder" ? "under" : "==", where);
}

/** Fill the panel; `apply` is told of { where, least, collapse }. */
export function fillPanel(panel, about, state, apply) {
  const controls = Object.entries(about.fields).map(([field, type]) => ({ field, ...control(field, type, state.where) }));
  const least = make("input", { type: "range", min: 0, max: 100, step: 5, value: Math.round(100 * state.least), "aria-label": words("least") });
  const figure = make("output", {}, percent(state.least));
  least.addEventListener("input", () => { figure.textContent = percent(least.value / 100); });
  const collapse = make("input", { type: "checkbox", checked: state.collapse });
  const form = make("form", {},
    ...controls.map((of) => make("fieldset", {}, make("legend", {}, words(of.field)), ...of.inputs)),
    about.calibrated ? make("fieldset", {}, make("legend", {}, words("least")), least, figure) : null,
    make("label", { className: "check" }, collapse, words("collapse")),
    make("div", { className: "actions" }, make("button", { className: "go" }, words("apply")), make("button", { type: "reset", className: "quiet" }, words("clear"))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    apply({ where: controls.flatMap((of) => of.read()), least: least.value / 100, collapse: collapse.checked });
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    apply({ where: [], least: 0, collapse: false });
  });
  panel.replaceChildren(form);
}
