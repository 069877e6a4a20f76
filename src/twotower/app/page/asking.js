// Requests to the server: with the key where one was given, again after a while where it is busy, and what is wrong in words.

const RETRIES = 3;
const PRINTABLE = /^[\x21-\x7e]+$/; // what a header can carry

export class Refused extends Error {
  constructor(status, told, wait) {
    super(told.detail ?? "the server gave no answer that can be read");
    this.status = status;
    this.faults = told.errors ?? [];
    this.wait = wait;
  }

  // What is wrong with one field of the request; null where nothing is.
  at(field) {
    const found = this.faults.filter((fault) => fault.at === field);
    return found.length ? [this.message, ...found.map((fault) => fault.detail)].map(sentence).join(" ") : null;
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");

export function inWords(error) {
  if (error.status === 401) return "This server asks for a key.";
  if (error.status === 429) return `Too much was asked in too short a time. Try again in ${error.wait} s.`;
  if (error.status === 503) return "The server is busy. Try again in a moment.";
  if (error.status) return [error.message, ...error.faults.map((fault) => fault.detail)].map(sentence).join(" ");
  return navigator.onLine ? "The server cannot be reached. Is it still running?" : "You are offline. The search goes on when you are back.";
}

async function once(path, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told, Number(answer.headers.get("retry-after")) || 1);
}

// The answer. waiting: is told in words when the server is busy and will be asked again.
export async function ask(path, body = null, { signal, waiting = () => {} } = {}) {
  for (let n = 0; ; n += 1) {
    try {
      return await once(path, body, signal);
    } catch (error) {
      if (![429, 503].includes(error.status) || n === RETRIES) throw error;
      waiting(`${error.status === 503 ? "The server is busy" : "That was too much at once"}; asking again in ${error.wait} s …`);
      await later(1000 * error.wait, signal);
    }
  }
}

function later(milliseconds, signal) {
  return new Promise((done, stop) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); stop(new DOMException("", "AbortError")); });
  });
}

let asking = null;

// Asks a person for the key; whether one was given. It is kept for this tab's session alone.
export function unlock() {
  asking ??= asked().finally(() => { asking = null; });
  return asking;
}

function asked() {
  const dialog = document.getElementById("locked"), field = document.getElementById("key");
  document.getElementById("unfit").hidden = !sessionStorage.getItem("key");
  sessionStorage.removeItem("key");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      const given = field.value.trim();
      field.value = "";
      const use = dialog.returnValue === "use" && PRINTABLE.test(given);
      if (use) sessionStorage.setItem("key", given);
      done(use);
    }, { once: true });
  });
}
