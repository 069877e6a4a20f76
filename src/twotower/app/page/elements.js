// Elements and their text. Nothing here or elsewhere makes HTML of what comes from a server.

export const at = (id) => document.getElementById(id);

export function make(tag, options = {}, ...children) {
  const { data, on, aria, ...rest } = options;
  const node = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data ?? {})) node.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) node.setAttribute(`aria-${name}`, value);
  for (const [name, listen] of Object.entries(on ?? {})) node.addEventListener(name, listen);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const counted = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
