// What ClickWidget's scripts compute, without a page. test_scripts.py runs it, with the joined scripts as a module.
import assert from "node:assert/strict";
import { test } from "node:test";

const {
  actionOf, arrange, createSittings, decoded, draggedRange, fusedColour, neighbour, projectionOf, readMask, scaleBarMM, simplified,
  slabsNear, spread, strokeCommand, turnedEnds, VIEWS,
} = await import(process.env.SCRIPTS);

// ---- layout
const bodies = { "whole body": [450, 300, 1800], "thorax and abdomen": [445, 330, 441], "a head": [160, 200, 180], "flat": [500, 300, 60] };
for (const [what, size] of Object.entries(bodies)) {
  for (const width of [560, 780, 1100, 1260, 1900]) {
    test(`${what} at ${width} px: panes keep their shape, fit, and use the room`, () => {
      const height = 700;
      const { areas, panes } = arrange({ width, height, size });
      const mm = { axial: [size[0], size[1]], coronal: [size[0], size[2]], sagittal: [size[1], size[2]] };
      for (const [name, [w, t]] of Object.entries(mm)) {
        const [wide, tall] = panes[name];
        assert.ok(Math.abs(wide / tall / (w / t) - 1) < 0.05, `${name} ${wide} x ${tall}`);
      }
      const rows = areas.slice(1, -1).split('" "').map((row) => [...new Set(row.split(" "))]);
      for (const row of rows) {
        const used = row.filter((name) => panes[name]).reduce((sum, name) => sum + panes[name][0], 0);
        assert.ok(used <= width, `${row} needs ${used}`);
      }
      for (const [, tall] of Object.values(panes)) assert.ok(tall <= height);
      const area = Object.values(panes).reduce((sum, [w, t]) => sum + w * t, 0);
      assert.ok(area > 0.18 * width * height || what === "flat" || width < 600, `${area / (width * height)} of the room`);
    });
  }
}
test("the list of objects has the room that it needs at any width, unless the page itself is narrower", () => {
  for (const size of Object.values(bodies)) {
    for (let width = 320; width < 2000; width += 20) {
      for (const height of [380, 700, 1000]) {
        const { areas, columns } = arrange({ width, height, size });
        const [[row]] = [areas.slice(1, -1).split('" "').map((one) => one.split(" ")).filter((one) => one.includes("panel"))];
        const fixed = columns.match(/minmax\([^)]*\)|\S+/g).filter((_, at) => row.length > 1 && row[at] !== "panel").map(parseFloat);
        const panel = width - fixed.reduce((sum, px) => sum + (px || 0) + 8, 0);
        assert.ok(panel >= Math.min(250, width), `${panel} px of ${width} x ${height} for ${size}: ${areas}`);
      }
    }
  }
});
test("one pane fills what there is", () => {
  const { areas, panes } = arrange({ width: 1200, height: 700, size: [450, 300, 900], only: "coronal" });
  assert.deepEqual(Object.keys(panes), ["coronal"]);
  assert.ok(panes.coronal[1] > 600 && areas.includes("panel"));
});
test("a scale bar is a round length, at most a third of the picture", () => {
  assert.deepEqual([450, 300, 40, 3].map(scaleBarMM), [100, 100, 10, 1]);
});

// ---- projection
const shape = [12, 8, 5];
const spacing = [4, 4, 3];
const body = [[1, 11], [0, 8], [0, 5]];
const at = (i, j, k) => i + shape[0] * (j + shape[1] * k);
test("a hot voxel is seen from every side where placeOf says, and found from there", () => {
  const projection = projectionOf(shape, spacing, body);
  const hot = [3, 6, 4];
  const codes = new Uint8Array(12 * 8 * 5).fill(1);
  codes[at(...hot)] = 200;
  for (const angle of [0, 40, 90, 135, 180, 270]) {
    const picture = projection.project(codes, angle);
    const place = projection.placeOf(hot, angle);
    const column = Math.min(Math.floor(place[0] * projection.columns), projection.columns - 1);
    assert.equal(picture[Math.floor(place[1] * projection.rows) * projection.columns + column], 200, `${angle}`);
    assert.deepEqual(projection.hottest(codes, place, angle, 6), hot);
  }
});
test("from the front the patient's right is left, from the left the front is", () => {
  const projection = projectionOf(shape, spacing, body);
  const [right, left] = [[10, 4, 2], [1, 4, 2]];
  assert.ok(projection.placeOf(right, 0)[0] < projection.placeOf(left, 0)[0]);
  assert.ok(projection.placeOf(right, 180)[0] > projection.placeOf(left, 180)[0]);
  assert.ok(projection.placeOf([5, 7, 2], 90)[0] < projection.placeOf([5, 0, 2], 90)[0]);
  assert.deepEqual([0, 90, 180, 270, 355].map(turnedEnds).map(([a]) => a), ["R", "A", "L", "P", "R"]);
});
test("a click beside a hot voxel means it, one far away does not", () => {
  const projection = projectionOf(shape, spacing, body);
  const codes = new Uint8Array(12 * 8 * 5).fill(1);
  codes[at(5, 2, 2)] = 90;
  const [x, y] = projection.placeOf([5, 2, 2], 0);
  assert.deepEqual(projection.hottest(codes, [x + 4 / projection.widthMM, y], 0, 6), [5, 2, 2]);
  assert.notDeepEqual(projection.hottest(codes, [x + 20 / projection.widthMM, y], 0, 6), [5, 2, 2]);
});
test("a shadow covers what its mask covers", () => {
  const projection = projectionOf(shape, spacing, body);
  const mask = readMask({ box: [3, 2, 1, 2, 1, 1], bits: new DataView(new Uint8Array([0b11000000]).buffer) });
  assert.ok(mask.has(3, 2, 1) && mask.has(4, 2, 1) && !mask.has(5, 2, 1) && !mask.has(3, 2, 2));
  assert.equal(projection.shadow(mask, 0).reduce((sum, x) => sum + x), 2);
  assert.equal(projection.shadow(mask, 90).reduce((sum, x) => sum + x), 1);
});

// ---- transport
test("a coarse piece fills the whole layer, each voxel from its own block", () => {
  for (const step of [1, 2, 3]) {
    const size = [5, 4, 1];
    const coarse = [];
    const first = size.map((n) => Math.min(step >> 1, n - 1));
    for (let k = first[2]; k < size[2]; k += step) {
      for (let j = first[1]; j < size[1]; j += step) for (let i = first[0]; i < size[0]; i += step) coarse.push(10 * i + j);
    }
    const codes = new Uint8Array(20).fill(255);
    spread(codes, Uint8Array.from(coarse), size, step);
    codes.forEach((code, index) => {
      const [i, j] = [index % 5, Math.floor(index / 5)];
      assert.ok(Math.abs(Math.floor(code / 10) - i) < step + 1 && Math.abs((code % 10) - j) < step + 1, `${step}: ${i} ${j} ${code}`);
    });
  }
});
test("slabs near the crosshair come first, and all come", () => {
  const order = slabsNear(35, { count: 6, depth: 10 });
  assert.deepEqual(order[0], 4);
  assert.deepEqual([...order].sort(), [1, 2, 3, 4, 5]);
});

// ---- colours
test("codes mean the intensities that Python coded", () => {
  const values = decoded({ low: 0, high: 30 });
  assert.ok(values[0] === 0 && Math.abs(values[255] - 30) < 1e-4 && Math.abs(values[128] - 30 * (128 / 255) ** 2) < 1e-3);
  assert.ok(decoded({ low: -1000, high: 1000 })[127] < 0);
});
test("over a CT the hottest is coloured, and the more uptake the less CT shows", () => {
  const [hottest, warm, cold] = [1, 0.2, 0].map((t) => fusedColour(t, 0.3));
  assert.ok(hottest.weight > warm.weight && warm.weight > cold.weight && cold.weight === 0);
  const [r, , b] = hottest.colour;
  assert.ok(r - b > 80, "yellow, not white");
});

// ---- by hand
const toIJK = ([i, j, k]) => [k, j, i];
const to = { toIJK, ijkAxis: (axis) => 2 - axis, foreground: true, radiusMM: 4 };
test("straight runs and repeats leave a path", () => {
  assert.deepEqual(simplified([[0, 0, 0], [0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]]), [[0, 0, 0], [2, 0, 0], [2, 1, 0]]);
});
test("a box is low and high in the file's own axes, whichever way it was drawn, and needs an area", () => {
  const [call, { prompt }] = strokeCommand("box", [[5, 1, 3], [4, 2, 3], [2, 4, 3]], VIEWS.axial, to);
  assert.deepEqual([call, prompt], ["prompt", { kind: "box", low_ijk: [3, 1, 2], high_ijk: [3, 4, 5], foreground: true }]);
  assert.equal(strokeCommand("box", [[5, 1, 3], [5, 4, 3]], VIEWS.axial, to), null);
  assert.equal(strokeCommand("lasso", [[5, 1, 3], [5, 4, 3]], VIEWS.axial, to), null);
});
test("a brush says its radius, its slice's axis and its sign by its tool", () => {
  assert.deepEqual(strokeCommand("eraser", [[5, 1, 3]], VIEWS.axial, to),
    ["paint", { path_ijk: [[3, 1, 5]], axis: 0, radius_mm: 4, foreground: false }]);
});

test("dragging up shows fainter uptake; of a CT it lowers the level, and to the right it widens the window", () => {
  const near = (found, expected) => found.forEach((x, at) => assert.ok(Math.abs(x - expected[at]) < 1e-9, `${found}`));
  near(draggedRange([0, 8], 40, -120, { low: 0, high: 30 }, false), [0, 4]);
  near(draggedRange([0, 8], 0, 1200, { low: 0, high: 30 }, false), [0, 30]);
  near(draggedRange([0, 7], 0, 1, { low: 0, high: 2.6 }, false), [0, 7]); // of a faint scan nothing jumps
  near(draggedRange([-160, 240], 120, 0, { low: -1000, high: 1000 }, true), [-360, 440]);
  near(draggedRange([-160, 240], 0, -120, { low: -1000, high: 1000 }, true), [-360, 40]);
});

// ---- keys
test("keys do what a browser's user expects, and leave the browser its own", () => {
  const press = (key, more = {}) => actionOf({ key, shift: false, ctrl: false, alt: false, ...more });
  assert.deepEqual([press("z"), press("z", { ctrl: true }), press("Z", { ctrl: true, shift: true }), press("y", { ctrl: true })],
    ["undo", "undo", "redo", "redo"]);
  assert.deepEqual([press("s", { ctrl: true }), press("s"), press("c", { ctrl: true }), press("z", { alt: true })],
    ["save", "scribble", null, null]);
  assert.deepEqual([press("ArrowUp"), press("ArrowUp", { shift: true }), press("PageDown"), press("q")],
    ["next slice", "crosshairUp", "10 slices back", null]);
});
test("each tool has a key, and Shift with a letter may mean another thing", () => {
  const letters = [..."abcdefghijklmnopqrstuvwxyz+-"].flatMap((key) => [[key, false], [key.toUpperCase(), true]]);
  const meant = letters.map(([key, shift]) => actionOf({ key, shift, ctrl: false, alt: false }));
  for (const tool of ["point", "scribble", "box", "lasso", "brush", "eraser", "sphere", "ruler", "window", "look"]) {
    assert.ok(meant.includes(tool), tool);
  }
  assert.deepEqual(["M", "W", "L"].map((key) => actionOf({ key, shift: true, ctrl: false, alt: false })), ["method", "preset", "lock"]);
});
test("the object after the last is the first", () => {
  assert.deepEqual([neighbour(["a", "b"], "b", 1), neighbour(["a", "b"], "a", -1)], ["a", "b"]);
});

// ---- earlier sittings
class Storage {
  getItem(name) { return this[name] ?? null; }
  setItem(name, value) { this[name] = value; }
  removeItem(name) { delete this[name]; }
}
const journal = (...names) => JSON.stringify({ prompts: names.map((object) => ({ object })) });
test("what was kept and is not in the session is offered, until it is forgotten", () => {
  const storage = new Storage();
  let time = 0;
  const open = () => createSittings(storage, "scan", () => ++time);
  let sittings = open();
  sittings.begin("");
  assert.deepEqual(sittings.earlier(), []);
  sittings.keep(journal("liver"));
  sittings.keep(""); // all undone: what was taken back stays
  sittings = open();
  sittings.begin(journal("liver")); // the page was reloaded, the kernel lives
  assert.deepEqual(sittings.earlier(), []);
  sittings = open();
  sittings.begin(""); // the kernel was restarted
  assert.deepEqual(sittings.earlier().map(({ text }) => text), [journal("liver")]);
  sittings.keep(journal("spleen"));
  sittings = open();
  sittings.begin("");
  assert.deepEqual(sittings.earlier().map(({ text }) => text), [journal("spleen"), journal("liver")]);
  sittings.keep(journal("liver", "liver")); // continued: no longer offered
  assert.deepEqual(sittings.earlier().map(({ text }) => text), [journal("spleen")]);
  sittings.begin("");
  assert.deepEqual(sittings.earlier().map(({ text }) => text), [journal("liver", "liver"), journal("spleen")]);
  sittings.forget(journal("liver", "liver"));
  assert.deepEqual(open().earlier().map(({ text }) => text), [journal("spleen")]);
  assert.deepEqual(createSittings(storage, "another", () => ++time).earlier(), []);
});
test("a browser that keeps nothing says so, and one that is full keeps the newest scans", () => {
  const sittings = createSittings(null, "scan");
  sittings.begin("");
  assert.equal(sittings.keep(journal("liver")), false);
  const storage = new Storage();
  for (let scan = 0; scan < 40; scan++) createSittings(storage, `${scan}`, () => scan).keep(journal("liver"));
  const kept = Object.keys(storage);
  assert.ok(kept.length === 30 && kept.some((name) => name.endsWith("-39")) && !kept.some((name) => name.endsWith("-9")));
});
