// What is being looked for, in the address of the page, so that it can be shared and the back button works.
export const empty = () => ({ text: "", picture: null, like: null, rank: true, where: [], least: 0, collapse: false });

export function fromAddress() {
  const values = new URLSearchParams(location.search), state = empty();
  state.text = values.get("q") ?? "";
  state.like = /^[0-9a-f]{1,64}$/.test(values.get("like") ?? "") ? values.get("like") : null;
  state.rank = values.get("stage") !== "1";
  state.least = Math.min(1, Math.max(0, Number(values.get("least")) || 0));
  state.collapse = values.get("collapse") === "1";
  try {
    const where = JSON.parse(values.get("where") ?? "[]");
    if (Array.isArray(where)) state.where = where.filter((of) => of && typeof of.field === "string" && "value" in of);
  } catch { /* an address that somebody fixed by hand */ }
  return state;
}

export function toAddress(state) {
  const values = new URLSearchParams();
  if (state.text) values.set("q", state.text);
  if (state.like) values.set("like", state.like);
  if (!state.rank) values.set("stage", "1");
  if (state.least) values.set("least", state.least);
  if (state.collapse) values.set("collapse", "1");
  if (state.where.length) values.set("where", JSON.stringify(state.where));
  const text = values.toString();
  return text ? `${location.pathname}?${text}` : location.pathname;
}

export const asksForSomething = (state) => Boolean(state.text.trim() || state.picture || state.like);

/** Whether the second stage has a part in it. */
export const ranks = (state, about) => state.rank && about.can_rank && Boolean(state.text.trim());

/** The body of POST /search. */
export function toRequest(state, about, k, offset) {
  const body = { k, offset, rank: ranks(state, about), where: state.where, collapse: state.collapse };
  if (state.text.trim()) body.text = state.text.trim();
  if (state.picture) body.picture = state.picture.data;
  if (state.like) body.like = state.like;
  if (state.least && body.rank) body.min_probability = state.least;
  return body;
}
