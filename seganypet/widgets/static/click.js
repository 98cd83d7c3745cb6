// The view of ClickWidget. It holds the whole scan as 8-bit voxels, so scrolling and windowing ask nobody. Whatever
// changes a mask is sent to Python as a command; the answer comes back in synced traits, which also survive a reload.
// Indices are those of an array in RAS order, the first one running fastest.

const VIEWS = {
  axial: { across: 0, up: 1, through: 2, ends: ["R", "L"] },
  coronal: { across: 0, up: 2, through: 1, ends: ["R", "L"] },
  sagittal: { across: 1, up: 2, through: 0, ends: ["A", "P"] },
};
const TOOLS = { foreground: "+ this", background: "\u2212 not this", look: "look" };
const MARK = { true: "#56B4E9", false: "#E69F00" };
const UNSURE = [96, 0, 176];
const TALLEST_PX = 560;
const PATIENCE_MS = 3000; // then say that the kernel does not answer
const WHEEL_STEP_PX = 40; // a mouse's notch is 100 or more, a trackpad sends many small ones

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
// Little-endian, as all machines that browsers run on are.
const rgba = ([r, g, b], a) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

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

// Square-root coding: fine steps where counts are few, as noise has it.
const root = (x) => Math.sign(x) * Math.sqrt(Math.abs(x));
function decoded({ low, high }) {
  return Float32Array.from({ length: 256 }, (_, code) => {
    const r = root(low) + ((root(high) - root(low)) * code) / 255;
    return Math.sign(r) * r * r;
  });
}
const share = (value, [low, high]) => clamp((value - low) / Math.max(high - low, 1e-6), 0, 1);
const hot = (t) => [clamp(3 * t, 0, 1), clamp(3 * t - 1, 0, 1), clamp(3 * t - 2, 0, 1)].map((c) => 255 * c);

function render({ model, el }) {
  const scan = model.get("scan");
  const shape = scan.shape;
  const stride = [1, shape[0], shape[0] * shape[1]];
  const pet = bytes(scan.pet.voxels);
  const ct = scan.ct && bytes(scan.ct.voxels);
  const petValues = decoded(scan.pet);
  const ctValues = scan.ct && decoded(scan.ct);
  const isCT = scan.unit === "HU";
  const unit = scan.unit === "SUVbw" ? "SUV" : scan.unit;
  const place = h("div", { class: "sap-place" }); // where the crosshair is, in the file's own voxels
  const centre = [...model.get("cursor")]; // of what a zoomed view shows
  let [palette, fused] = [[], []]; // colours of the codes: PET alone, and over CT
  let lastView = "axial";
  let pending = false;
  let disposed = false;

  // ---- state
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const listeners = [];
  const on = (names, act) => {
    for (const name of names.split(" ")) {
      model.on(name, act);
      listeners.push([name, act]);
    }
  };
  let waitingSince = null;
  let due = 0; // how many messages Python must have answered before nothing is awaited
  const command = (call, content = {}) => {
    waitingSince = performance.now();
    due = Math.max(due, model.get("answered")) + 1;
    showBusy();
    model.send({ call, ...content });
  };
  const moveTo = (cursor) => set("cursor", cursor.map((x, axis) => clamp(Math.round(x), 0, shape[axis] - 1)));
  const step = (name, by) => {
    const cursor = [...model.get("cursor")];
    cursor[VIEWS[name].through] += by;
    moveTo(cursor);
  };

  // ---- what part of an axis a view shows: [first edge, length] in voxels
  const visible = (axis) => {
    const length = shape[axis] / model.get("zoom");
    return [clamp(centre[axis] + 0.5 - length / 2, 0, shape[axis] - length), length];
  };
  const recentre = (always) => model.get("cursor").forEach((x, axis) => {
    const [first, length] = visible(axis);
    if (always || x + 1 <= first || x >= first + length) centre[axis] = x; // a voxel cut by the edge stays where it is
  });

  // ---- pictures: one pixel a voxel, head or front up, the highest index across at the left
  const makePalette = () => {
    const window = model.get("window");
    const greys = Array.from(petValues, (value) => (isCT ? share(value, window) : 1 - share(value, window)));
    palette = Uint32Array.from(greys, (t) => rgba([255 * t, 255 * t, 255 * t], 255));
    if (ct) fused = Array.from(petValues, (value) => hot(share(value, window)));
  };
  const ctGrey = ctValues && Float32Array.from(ctValues, (value) => 255 * share(value, [-160, 240]));
  const image = (view, paint) => {
    const canvas = h("canvas", { width: shape[view.across], height: shape[view.up] });
    const context = canvas.getContext("2d");
    const data = context.createImageData(canvas.width, canvas.height);
    paint(new Uint32Array(data.data.buffer), canvas.width, canvas.height);
    context.putImageData(data, 0, 0);
    return canvas;
  };
  const slice = (view, depth) => image(view, (out, width, height) => {
    const blend = ct ? model.get("blend") : 0;
    const mixed = [0, 0, 0];
    let at = 0;
    for (let row = height - 1; row >= 0; row--) {
      let voxel = depth * stride[view.through] + row * stride[view.up] + (width - 1) * stride[view.across];
      for (let column = 0; column < width; column++, voxel -= stride[view.across], at++) {
        if (blend === 0) { out[at] = palette[pet[voxel]]; continue; }
        const colour = fused[pet[voxel]];
        for (let c = 0; c < 3; c++) mixed[c] = Math.min(ctGrey[ct[voxel]] * blend + colour[c] * (1 - blend), 255);
        out[at] = rgba(mixed, 255);
      }
    }
  });
  const overlay = (view, depth, outlines, unsure) => image(view, (out, width, height) => {
    const place = [0, 0, 0];
    place[view.through] = depth;
    const opacity = model.get("opacity");
    for (const { colour, low, size, has } of outlines) {
      if (depth < low[view.through] || depth >= low[view.through] + size[view.through]) continue;
      const fill = rgba(rgb(colour), 255 * opacity);
      const edge = rgba(rgb(colour), opacity ? 255 : 0);
      const inside = (a, u) => { place[view.across] = a; place[view.up] = u; return has(...place); };
      for (let u = low[view.up]; u < low[view.up] + size[view.up]; u++) {
        for (let a = low[view.across]; a < low[view.across] + size[view.across]; a++) {
          if (!inside(a, u)) continue;
          const deep = inside(a - 1, u) && inside(a + 1, u) && inside(a, u - 1) && inside(a, u + 1);
          out[(height - 1 - u) * width + (width - 1 - a)] = deep ? fill : edge;
        }
      }
    }
    if (!unsure.voxels) return;
    const [low, size, entropy] = [unsure.box.slice(0, 3), unsure.box.slice(3), bytes(unsure.voxels)];
    const into = depth - low[view.through];
    if (into < 0 || into >= size[view.through]) return;
    const jump = [1, size[0], size[0] * size[1]];
    for (let u = 0; u < size[view.up]; u++) {
      for (let a = 0; a < size[view.across]; a++) {
        const e = entropy[into * jump[view.through] + u * jump[view.up] + a * jump[view.across]];
        const at = (height - 1 - u - low[view.up]) * width + (width - 1 - a - low[view.across]);
        if (e > 25) out[at] = rgba(UNSURE, 0.8 * e);
      }
    }
  });
  const known = new Map(); // masks by version: most of many objects stay as they are when one is clicked
  const readMask = ({ version, box, bits: view }) => {
    if (known.has(version)) return known.get(version);
    const [[i0, j0, k0], [ni, nj, nk], bits] = [box.slice(0, 3), box.slice(3), bytes(view)];
    const bit = (at) => (bits[at >> 3] >> (7 - (at & 7))) & 1;
    const front = new Uint8Array(ni * nk); // as seen from the front, for the strip
    for (let at = 0; at < ni * nj * nk; at++) if (bit(at)) front[(at % ni) + ni * Math.floor(at / (ni * nj))] = 1;
    const outside = (i, k) => i < i0 || k < k0 || i >= i0 + ni || k >= k0 + nk;
    known.set(version, {
      slices: {
        low: [i0, j0, k0], size: [ni, nj, nk],
        has: (i, j, k) => !outside(i, k) && j >= j0 && j < j0 + nj && bit(i - i0 + ni * (j - j0 + nj * (k - k0))),
      },
      strip: { low: [i0, 0, k0], size: [ni, 1, nk], has: (i, _, k) => !outside(i, k) && front[i - i0 + ni * (k - k0)] },
    });
    return known.get(version);
  };
  let masks = [];
  const readMasks = () => {
    const objects = model.get("objects").filter((object) => object.bits);
    const versions = objects.map((object) => object.version);
    for (const version of known.keys()) if (!versions.includes(version)) known.delete(version);
    const shown = objects.filter((object) => !object.hidden);
    masks = shown.map((object) => ({ ...readMask(object), colour: object.colour }));
  };
  const outlines = (kind) => masks.map((mask) => ({ ...mask[kind], colour: mask.colour }));

  // The strip: the hottest voxel on each line from front to back.
  const hottest = new Uint8Array(shape[0] * shape[2]);
  const depthOf = new Uint16Array(hottest.length);
  for (let k = 0, at = 0; k < shape[2]; k++) {
    for (let j = 0; j < shape[1]; j++) {
      for (let i = 0; i < shape[0]; i++, at++) {
        const to = i + shape[0] * k;
        if (pet[at] > hottest[to]) { hottest[to] = pet[at]; depthOf[to] = j; }
      }
    }
  }
  const projection = () => image(VIEWS.coronal, (out, width, height) => {
    for (let at = 0; at < out.length; at++) {
      out[at] = palette[hottest[width - 1 - (at % width) + width * (height - 1 - Math.floor(at / width))]];
    }
  });

  // ---- the four canvases
  const panes = {};
  for (const [name, view] of [...Object.entries(VIEWS), ["mip", VIEWS.coronal]]) {
    const [wide, tall] = [view.across, view.up].map((axis) => shape[axis] * scan.spacing[axis]);
    const canvas = h("canvas", {
      tabindex: "0", role: "application", class: `sap-${name}`,
      style: `aspect-ratio: ${wide} / ${tall}; width: min(100%, ${(TALLEST_PX * wide) / tall}px)`,
    });
    const slider = name !== "mip" && h("input", {
      type: "range", min: "0", max: String(shape[view.through] - 1), "aria-label": `${name} slice`,
      oninput: () => { lastView = name; step(name, Number(slider.value) - model.get("cursor")[view.through]); },
    });
    panes[name] = { view, canvas, slider };
    const region = () => (name === "mip"
      ? [[0, shape[view.across]], [0, shape[view.up]]] : [visible(view.across), visible(view.up)]);
    panes[name].region = region;
    const placeOf = (event) => {
      const rect = canvas.getBoundingClientRect(); // in the event's own pixels, whatever the zoom
      const [[a0, na], [u0, nu]] = region();
      const x = clamp((event.clientX - rect.left) / rect.width, 0, 1);
      const y = clamp((event.clientY - rect.top) / rect.height, 0, 1);
      const place = [...model.get("cursor")];
      place[view.across] = clamp(Math.ceil(a0 + na * (1 - x)) - 1, 0, shape[view.across] - 1);
      place[view.up] = clamp(Math.ceil(u0 + nu * (1 - y)) - 1, 0, shape[view.up] - 1);
      if (name === "mip") place[1] = depthOf[place[0] + shape[0] * place[2]];
      return place;
    };
    // Pointer events: those of the mouse are cut to whole pixels, too coarse on a zoomed page.
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || ![0, 2].includes(event.button)) return;
      canvas.focus({ preventScroll: true });
      const place = placeOf(event);
      const tool = model.get("tool");
      moveTo(place);
      if (name !== "mip" && tool !== "look") {
        const other = event.button === 2 || event.shiftKey || event.ctrlKey; // Control-click is a Mac's right click
        command("click", { ras: place, foreground: other ? false : tool === "foreground" });
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && (name === "mip" || model.get("tool") === "look")) moveTo(placeOf(event));
    });
    canvas.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
    canvas.addEventListener("focus", () => { if (name !== "mip") lastView = name; });
    canvas.addEventListener("pointerenter", () => { if (name !== "mip") lastView = name; });
    let rolled = 0;
    if (name !== "mip") {
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        rolled += event.deltaMode ? event.deltaY * WHEEL_STEP_PX : event.deltaY;
        const steps = Math.trunc(rolled / WHEEL_STEP_PX);
        if (!steps) return;
        rolled = 0;
        if (event.ctrlKey || event.metaKey) zoomBy(steps < 0 ? 1.25 : 0.8); // a trackpad's pinch arrives so
        else step(name, -Math.sign(steps) * (Math.abs(event.deltaY) >= 100 ? 1 : Math.abs(steps)));
      }, { passive: false });
    }
  }
  const zoomBy = (factor) => set("zoom", clamp(model.get("zoom") * factor, 1, 10));

  // ---- drawing: at most once a frame while somebody scrolls; a new mask is awaited, and drawn at once
  let stale = { base: true, over: true };
  const redraw = (what = {}, when = requestAnimationFrame) => {
    Object.assign(stale, what);
    if (pending || disposed) return;
    pending = true;
    when(draw);
  };
  function draw() {
    pending = false;
    const cursor = model.get("cursor");
    for (const [name, pane] of Object.entries(panes)) {
      const { view, canvas, slider } = pane;
      const isStrip = name === "mip";
      const depth = isStrip ? 0 : cursor[view.through];
      const moved = pane.depth !== depth;
      pane.depth = depth;
      if (stale.base || moved) pane.base = isStrip ? projection() : slice(view, depth);
      if (stale.over || moved) {
        const unsure = isStrip ? {} : model.get("uncertainty");
        pane.over = overlay(view, depth, outlines(isStrip ? "strip" : "slices"), unsure);
      }
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.max(1, Math.round(x * ratio)));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d");
      const [[a0, na], [u0, nu]] = pane.region();
      const source = [shape[view.across] - a0 - na, shape[view.up] - u0 - nu, na, nu];
      context.imageSmoothingEnabled = false;
      for (const layer of [pane.base, pane.over]) context.drawImage(layer, ...source, 0, 0, width, height);
      const x = (index) => ((a0 + na - index - 0.5) / na) * width;
      const y = (index) => ((u0 + nu - index - 0.5) / nu) * height;
      drawCrosshair(context, x(cursor[view.across]), y(cursor[view.up]), width, height, ratio);
      if (!isStrip) {
        for (const click of model.get("clicks")) {
          if (click.ras[view.through] !== depth) continue;
          drawMark(context, x(click.ras[view.across]), y(click.ras[view.up]), click.foreground, 5 * ratio);
        }
      }
      context.font = `bold ${12 * ratio}px sans-serif`;
      context.lineWidth = 3 * ratio;
      for (const [letter, at] of [[view.ends[0], 4 * ratio], [view.ends[1], width - 13 * ratio]]) {
        context.strokeStyle = "white";
        context.strokeText(letter, at, height / 2);
        context.fillStyle = "black";
        context.fillText(letter, at, height / 2);
      }
      const says = isStrip ? "maximum intensity projection, click to jump" : `${name} slice ${depth}`;
      canvas.setAttribute("aria-label", says);
      if (slider) { slider.value = depth; slider.setAttribute("aria-valuetext", says); }
    }
    const at = cursor.reduce((sum, index, axis) => sum + index * stride[axis], 0);
    const ijk = scan.axes.map(([axis, sign]) => (sign > 0 ? cursor[axis] : shape[axis] - 1 - cursor[axis]));
    place.textContent = `voxel (${ijk.join(", ")}), ${unit} ${petValues[pet[at]].toPrecision(2)}`;
    stale = { base: false, over: false };
  }
  function drawCrosshair(context, x, y, width, height, ratio) {
    const gap = 8 * ratio; // what is clicked stays in sight
    context.beginPath();
    for (const end of [0, width]) {
      context.moveTo(end, y);
      context.lineTo(end ? x + gap : x - gap, y);
    }
    for (const end of [0, height]) {
      context.moveTo(x, end);
      context.lineTo(x, end ? y + gap : y - gap);
    }
    for (const [colour, wide] of [["rgba(255, 255, 255, 0.5)", 3], ["rgba(0, 0, 0, 0.6)", 1]]) { // seen on any grey
      context.strokeStyle = colour;
      context.lineWidth = wide * ratio;
      context.stroke();
    }
  }
  function drawMark(context, x, y, foreground, size) {
    const mark = new Path2D();
    if (foreground) mark.arc(x, y, size, 0, 2 * Math.PI);
    else {
      for (const slope of [-1, 1]) {
        mark.moveTo(x - size, y - slope * size);
        mark.lineTo(x + size, y + slope * size);
      }
    }
    context.lineWidth = size * 0.9;
    context.strokeStyle = "black";
    context.stroke(mark);
    context.lineWidth = size * 0.5;
    context.strokeStyle = context.fillStyle = MARK[foreground];
    if (foreground) context.fill(mark);
    else context.stroke(mark);
  }

  // ---- controls
  const button = (label, title, act) => {
    const does = label.length > 1 && label !== "hide" && label !== "show" ? {} : { "aria-label": title };
    return h("button", { type: "button", title, onclick: act, ...does }, label);
  };
  const group = Math.random(); // radio buttons of one name exclude each other, on the whole page
  const tools = Object.entries(TOOLS).map(([tool, label]) => {
    const radio = h("input", { type: "radio", name: `tool-${group}`, value: tool, onchange: () => set("tool", tool) });
    return { tool, radio, label: h("label", { class: `sap-tool sap-tool-${tool}` }, radio, label) };
  });
  const buttons = {
    undo: button("Undo", "undo (z)", () => command("undo")),
    redo: button("Redo", "redo (y)", () => command("redo")),
    reset: button("Reset", "forget all objects; undo brings them back", () => command("reset")),
    save: button("Save", "write mask, journal and table into the output folder", () => command("save")),
    mask: button("Mask", "download the mask as NIfTI", () => command("download", { what: "mask" })),
    journal: button("Journal", "download the clicks as JSON", () => command("download", { what: "journal" })),
    table: button("Table", "download the numbers of all objects as CSV", () => command("download", { what: "table" })),
  };
  const chooser = h("input", {
    type: "file", accept: ".json", hidden: true,
    onchange: async () => { command("load_text", { text: await chooser.files[0].text() }); chooser.value = ""; },
  });
  const load = button("Load journal\u2026", "make the clicks of a journal again", () => chooser.click());
  const unsure = h("input", {
    type: "checkbox", onchange: () => command("show_uncertainty", { shown: unsure.checked }),
  });
  const hesitates = "violet: the network hesitates, up to 1 bit of entropy";
  const range = (label, [min, max, by], read, write) => {
    const limits = { min: String(min), max: String(max), step: String(by) };
    const input = h("input", { type: "range", ...limits, "aria-label": label });
    const output = h("span", { class: "sap-value" });
    input.addEventListener("input", () => write(Number(input.value)));
    const show = () => {
      input.value = read();
      output.textContent = read().toFixed(by < 1 ? 2 : 0);
    };
    return { row: h("label", { class: "sap-range" }, h("span", {}, label), input, output), show };
  };
  const span = scan.pet.high - scan.pet.low;
  const byOne = isCT || span > 1000 ? 1 : 0.1;
  const ranges = [
    range(`${unit} from`, [scan.pet.low, scan.pet.high, byOne], () => model.get("window")[0],
      (x) => set("window", [Math.min(x, model.get("window")[1] - byOne), model.get("window")[1]])),
    range(`${unit} to`, [scan.pet.low, scan.pet.high, byOne], () => model.get("window")[1],
      (x) => set("window", [model.get("window")[0], Math.max(x, model.get("window")[0] + byOne)])),
    range("mask", [0, 1, 0.05], () => model.get("opacity"), (x) => set("opacity", x)),
    range("zoom", [1, 10, 0.25], () => model.get("zoom"), (x) => set("zoom", x)),
    ...(ct ? [range("PET to CT", [0, 1, 0.05], () => model.get("blend"), (x) => set("blend", x))] : []),
  ];
  const list = h("ul", { class: "sap-objects", "aria-label": "objects" });
  const table = h("table", { "aria-label": "numbers of the active object" });
  const counter = h("div", { class: "sap-counter" });
  const status = h("div", { class: "sap-status", role: "status", "aria-live": "polite" });
  const error = h("div", { class: "sap-error", role: "alert" });
  const busy = h("span", { class: "sap-busy" });

  const eye = (name, hidden) => {
    const does = hidden ? "show" : "hide";
    const eye = button(does, `${does} ${name}`, () => command("hide", { name, hidden: !hidden }));
    eye.className = "sap-eye";
    return eye;
  };
  const isTyping = () => list.contains(document.activeElement) && document.activeElement.type === "text";
  let listIsOld = false;
  list.addEventListener("focusout", () => setTimeout(() => { if (listIsOld) showObjects(); }));
  const showObjects = () => {
    listIsOld = isTyping();
    if (listIsOld) return; // an answer must not take the name away that somebody types
    keepFocus(() => list.replaceChildren(...model.get("objects").map(({ name, colour, hidden, ml }) => h("li", {},
      h("input", { type: "radio", name: `active-${group}`, checked: name === model.get("active"),
        "aria-label": `click on ${name}`, onchange: () => command("select", { name }) }),
      h("input", { type: "color", value: colour, "aria-label": `colour of ${name}`,
        onchange: (event) => command("recolour", { name, colour: event.target.value }) }),
      h("input", { type: "text", value: name, title: name, "aria-label": `name of ${name}`,
        onchange: (event) => command("rename", { old: name, new: event.target.value }) }),
      h("span", { class: "sap-ml" }, ml === null ? "" : `${ml < 100 ? ml.toPrecision(3) : Math.round(ml)} mL`),
      eye(name, hidden),
      button("\u00d7", `remove ${name}`, () => command("remove", { name })),
    ))));
    const row = list.querySelector("input:checked")?.parentElement;
    if (row) list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 2;
  };
  const showTable = () => table.replaceChildren(...model.get("table").map(([quantity, value, unitOf]) =>
    h("tr", {}, h("th", { scope: "row" }, quantity), h("td", {}, value), h("td", {}, unitOf))));
  const keepFocus = (act) => { // keys must go on working when the button that was pressed is gone or grey
    const had = body.contains(document.activeElement);
    act();
    const lost = !body.contains(document.activeElement) || document.activeElement.disabled;
    if (had && lost) body.focus({ preventScroll: true });
  };
  const showAble = () => keepFocus(() => {
    const able = model.get("able");
    buttons.undo.disabled = !able.undo;
    buttons.redo.disabled = !able.redo;
    buttons.save.hidden = !able.save;
    unsure.parentElement.hidden = !able.uncertainty;
    for (const name of ["reset", "save", "mask", "journal"]) buttons[name].disabled = !able.export;
    buttons.table.disabled = !able.numbers;
  });
  const showTool = () => tools.forEach(({ tool, radio, label }) => {
    radio.checked = tool === model.get("tool");
    label.classList.toggle("sap-on", radio.checked);
  });
  const showRanges = () => ranges.forEach(({ show }) => show());
  const showWords = () => {
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    const { clicks, total, seconds } = model.get("effort");
    const all = total === clicks ? "" : ` of ${total}`;
    counter.textContent = `${clicks}${all} ${total === 1 ? "click" : "clicks"}, ${Math.round(seconds)} s`;
    unsure.checked = Boolean(model.get("uncertainty").shown);
  };
  function showBusy() {
    const late = waitingSince !== null && performance.now() - waitingSince > PATIENCE_MS;
    const words = late ? "no answer yet: is the kernel busy or stopped?" : "working\u2026";
    busy.textContent = waitingSince === null ? "" : words;
    if (waitingSince !== null && !late) setTimeout(showBusy, PATIENCE_MS + 50);
    body.setAttribute("aria-busy", String(waitingSince !== null));
  }

  // ---- put together; coronal and sagittal slices at one scale
  const [wide, deep] = [0, 1].map((axis) => shape[axis] * scan.spacing[axis]);
  const columns = [1.7 * wide, wide, deep, 0.6 * wide].map((mm) => `minmax(0, ${mm / wide}fr)`);
  const pane = (name) => h("div", { class: "sap-pane" }, ...[panes[name].canvas, panes[name].slider].filter(Boolean));
  const body = h("div", {
    class: "sap-click", role: "group", "aria-label": "click on the scan", tabindex: "-1",
    "data-lm-suppress-shortcuts": "true", // older JupyterLabs listen before the widget does
  },
    h("div", { class: "sap-bar" },
      h("span", { role: "radiogroup", "aria-label": "what a click says (x, v)" }, ...tools.map(({ label }) => label)),
      buttons.undo, buttons.redo, buttons.reset, h("label", { title: hesitates }, unsure, "uncertainty"), counter, busy),
    h("div", { class: "sap-views", style: `grid-template-columns: ${columns.join(" ")}` },
      h("div", { class: "sap-left" }, pane("axial"), place,
        h("div", { class: "sap-panel" }, list,
          button("Add object", "the next click begins another object", () => command("add")), table)),
      pane("coronal"), pane("sagittal"), pane("mip")),
    error, // below the pictures: above, it would move them under the mouse
    h("div", { class: "sap-bar" }, ...ranges.map(({ row }) => row)),
    h("div", { class: "sap-bar" },
      buttons.save, "Download:", buttons.mask, buttons.journal, buttons.table, load, chooser, status),
    h("p", { class: "sap-help" }, "Left click: as the tool above says. Right or Shift click: not this. Wheel, arrows, "
      + "Page keys: slices. Shift and arrows: crosshair; Enter: click there. Pinch on a trackpad, or Control and wheel: "
      + "zoom. z undo, y redo, x sign, v look."));
  body.addEventListener("keydown", (event) => {
    const { type } = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation(); // what is typed here is not meant for JupyterLab, which cuts cells at x
    if (type === "text" && event.key === "Enter") body.focus({ preventScroll: true }); // the name is done
    if (type === "text") return;
    if (type && type !== "button" && event.key.length > 1) return; // arrows of sliders and radio buttons are theirs
    const { across, up } = VIEWS[lastView];
    const arrows = { ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1] };
    const slices = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
    const tool = model.get("tool");
    const keys = {
      z: () => command(event.shiftKey ? "redo" : "undo"),
      y: () => command("redo"),
      x: () => set("tool", tool === "foreground" ? "background" : "foreground"),
      v: () => set("tool", "look"),
    };
    if (event.shiftKey && event.key in arrows) {
      const cursor = [...model.get("cursor")];
      cursor[arrows[event.key][0]] += arrows[event.key][1];
      moveTo(cursor);
    } else if (event.key in slices) step(lastView, slices[event.key]);
    else if (event.key === "Enter" && event.target.tagName === "CANVAS" && tool !== "look") {
      command("click", { ras: model.get("cursor"), foreground: !event.shiftKey && tool === "foreground" });
    } else if (event.key.toLowerCase() in keys) keys[event.key.toLowerCase()]();
    else return;
    event.preventDefault();
  });

  on("change:objects", () => {
    readMasks();
    redraw({ over: true }, (act) => act()); // first, and with marks and all: every trait is set before any is told
    showObjects();
  });
  on("change:active", showObjects);
  on("change:opacity", () => { showRanges(); redraw({ over: true }); });
  on("change:uncertainty", () => { showWords(); redraw({ over: true }); });
  on("change:window change:blend", () => { makePalette(); showRanges(); redraw({ base: true }); });
  on("change:cursor", () => { recentre(false); redraw(); });
  on("change:zoom", () => { recentre(true); showRanges(); redraw(); });
  on("change:clicks", () => redraw());
  on("change:table", showTable);
  on("change:tool", showTool);
  on("change:able", showAble);
  on("change:status change:error change:effort", showWords);
  on("change:answered", () => {
    if (model.get("answered") >= due) waitingSince = null;
    showBusy();
    if (model.get("error")) showObjects(); // what was refused must not stay written there
  });
  on("msg:custom", (message, buffers) => {
    if (!message.download) return;
    const link = h("a", { href: URL.createObjectURL(new Blob([buffers[0]])), download: message.download });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  makePalette();
  readMasks();
  recentre(true);
  for (const show of [showObjects, showTable, showAble, showTool, showRanges, showWords, showBusy]) show();
  el.append(body);
  const resized = new ResizeObserver(() => redraw());
  resized.observe(body);
  return () => {
    disposed = true;
    resized.disconnect();
    for (const [name, act] of listeners) model.off(name, act);
  };
}

export default { render };
