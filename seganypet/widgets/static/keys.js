// What keys mean. Those of the browser and of JupyterLab stay theirs, but for undo and redo.

const HELP = "Left click: as tool and sign say. Right or Shift click: the other sign. Double click: enlarge a pane. "
  + "Wheel, arrows, Page keys: slices. Shift and arrows: crosshair; Enter: click there, or the next corner of what is "
  + "drawn. Control and wheel: zoom. z undo, y redo, x sign, p s b l d e v tools, r reading, f next hot spot, "
  + "o propose organs, n next object, N the one before, a new object, h hide all, m enlarge, t turn the projection.";

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
    n: shift ? "object before" : "next object", a: "add", h: "bare", m: "enlarge", t: "turn",
    p: "point", s: "scribble", b: "box", l: "lasso", d: "brush", e: "eraser", v: "look",
  }[small] ?? null;
}

// The object after, or before, the active one; the last is followed by the first.
function neighbour(names, active, by) {
  return names[(names.indexOf(active) + by + names.length) % names.length];
}
