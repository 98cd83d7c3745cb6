// What keys mean. Those of the browser and of JupyterLab stay theirs, but for undo and redo.

// In parts, for people: keys, or what the mouse does, and what it means.
const HELP = [{
  click: "as tool and sign say", "right_click Shift+click": "the other sign", double_click: "enlarge a pane",
  "wheel \u2191 \u2193": "slices", "PageUp PageDown": "ten slices", "Ctrl+wheel": "zoom",
  middle_button: "drag up for faint uptake, of a CT to the right for a wider window",
  "Shift+\u2191\u2193\u2190\u2192": "crosshair", Enter: "click at the crosshair, or the next corner of what is drawn",
  Escape: "drop what is drawn, and the ruler",
}, {
  p: "point", s: "scribble", b: "box", l: "lasso", d: "brush", e: "eraser", i: "sphere", u: "ruler", w: "window", v: "look",
}, {
  z: "undo", y: "redo", x: "the other sign", "Shift+M": "next method", r: "another reading", f: "next hot spot",
  o: "propose organs", g: "fill holes", k: "largest piece",
}, {
  n: "next object", "Shift+N": "the object before", a: "new object", "Shift+L": "lock or unlock", h: "hide all",
  m: "enlarge", t: "turn the projection", "- +": "upper end of the window", "Shift+W": "next preset", c: "next colour map",
}];

// An action by name, or null: { key, shift, ctrl (or Command), alt }.
function actionOf({ key, shift, ctrl, alt }) {
  if (alt) return null;
  const small = key.length === 1 ? key.toLowerCase() : key;
  if (ctrl) return { z: shift ? "redo" : "undo", y: "redo", s: "save" }[small] ?? null;
  const arrow = /^Arrow(Left|Right|Up|Down)$/.exec(key)?.[1];
  if (arrow) return shift ? `crosshair${arrow}` : { Up: "next slice", Right: "next slice" }[arrow] ?? "slice before";
  return {
    PageUp: "10 slices on", PageDown: "10 slices back", Enter: "click", Escape: "cancel",
    z: shift ? "redo" : "undo", y: "redo", x: "sign", r: "reading", f: "spot", o: "propose", g: "fill", k: "largest",
    n: shift ? "object before" : "next object", a: "add", h: "bare", m: shift ? "method" : "enlarge", t: "turn",
    l: shift ? "lock" : "lasso", w: shift ? "preset" : "window", c: "colours", "-": "darker", "+": "lighter",
    p: "point", s: "scribble", b: "box", d: "brush", e: "eraser", i: "sphere", u: "ruler", v: "look",
  }[small] ?? null;
}

// The object after, or before, the active one; the last is followed by the first.
function neighbour(names, active, by) {
  return names[(names.indexOf(active) + by + names.length) % names.length];
}
