// What keys mean. Those of the browser and of JupyterLab stay theirs, but for undo and redo.

const HELP = "Left click: as tool and sign say. Right or Shift click: the other sign. Double click: enlarge a pane. "
  + "Wheel, arrows, Page keys: slices. Shift and arrows: crosshair; Enter: click there, or the next corner of what is "
  + "drawn. Middle button, or the window tool: drag up for faint uptake, of a CT to the right for a wider window. Control "
  + "and wheel: zoom. z undo, y redo, x sign. Tools: p point, s scribble, b box, l lasso, d brush, e eraser, i sphere, u "
  + "ruler, w window, v look. Shift+M next method, r reading, f next hot spot, o propose organs, g fill holes, k largest "
  + "piece. n next object, Shift+N the one before, a new object, Shift+L lock or unlock, h hide all, m enlarge, t turn the "
  + "projection. - and + upper end of the window, Shift+W next preset, c next colour map. Escape: drop what is drawn, and "
  + "the ruler.";

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
