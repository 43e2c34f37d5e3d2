// Elements from plain values. Texts only ever go in as text nodes, never as markup.

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: attributes by name (`class`, `aria-label`, ...; false and null are left out), then children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** What a child of `make` looks like to screen readers only. */
export const unseen = (text) => make("span", { class: "unseen" }, text);

export const percent = (share) => `${(100 * share).toFixed(1)} %`;
