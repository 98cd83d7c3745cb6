// What all views share. The files of a view are joined into one module, in the order that click.py and app.py say.

// Directions of slices: axes of an array in RAS order. From left to right indices decrease, and so from top to bottom.
const VIEWS = {
  axial: { across: 0, up: 1, through: 2, ends: ["R", "L"] },
  coronal: { across: 0, up: 2, through: 1, ends: ["R", "L"] },
  sagittal: { across: 1, up: 2, through: 0, ends: ["A", "P"] },
};

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
// Little-endian, as all machines that browsers run on are.
const rgba = ([r, g, b], a) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
// Three digits, and never an exponent.
const digits = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : x.toPrecision(3));

// Indices of one layer in the array of another: `matrix` is (3, 4).
const placed = ([i, j, k], matrix) => matrix.map(([a, b, c, d]) => a * i + b * j + c * k + d);

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
