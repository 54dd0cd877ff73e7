// Talking with the server: requests, errors in its one form, the key, and images that need it.
const KEY = "ccmb-key";

export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY); } catch { return null; } },
  set: (value) => { try { sessionStorage.setItem(KEY, value); } catch { /* a private window */ } },
};

const headers = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

/** The JSON of an answer. Throws a Refusal; status 0 is a server that cannot be reached. */
export async function ask(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, body === undefined
      ? { headers: headers(), signal }
      : { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "offline", "");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, value.error?.code ?? "", value.error?.message ?? answer.statusText);
  return value;
}

/** Show an image of the server in an <img>; where a key is needed it comes by fetch, for an <img> sends none. */
export async function show(image, path) {
  if (!key.get()) {
    image.src = path;
    return;
  }
  const answer = await fetch(path, { headers: headers() }).catch(() => null);
  if (!answer?.ok) {
    image.dispatchEvent(new Event("error"));
    return;
  }
  const url = URL.createObjectURL(await answer.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  image.src = url;
}

/** An image file as base64, no larger than a network needs it: { data, url }. Throws where the browser cannot read it. */
export async function readPicture(file, side = 768) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the server does with transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const url = canvas.toDataURL("image/jpeg", 0.92);
  return { data: url.slice(url.indexOf(",") + 1), url };
}
