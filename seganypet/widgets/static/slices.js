// The canvases of ClickWidget: three slices and a projection, with crosshair and the marks of prompts, and what the
// mouse does on them.

const MARK_COLOUR = { true: "#56B4E9", false: "#E69F00" };
const TALLEST_PX = 560;
const WHEEL_STEP_PX = 40; // a mouse's notch is 100 or more, a trackpad sends many small ones

// `act` holds what the mouse asks for: moveTo(cursor), step(view, by), set(trait, value), click(cursor, foreground).
function createSlices(model, painter, act) {
  const scan = model.get("scan");
  const shape = scan.shape;
  const unit = scan.unit === "SUVbw" ? "SUV" : scan.unit;
  const position = h("div", { class: "sap-position" }); // of the crosshair, in the file's own voxels
  const centre = [...model.get("cursor")]; // of what a zoomed view shows
  let lastView = "axial";
  let pending = false;
  let disposed = false;
  // Voxels of the file.
  const toIJK = (ras) => scan.axes.map(([axis, sign]) => (sign > 0 ? ras[axis] : shape[axis] - 1 - ras[axis]));

  // ---- what part of an axis a view shows: [first edge, length] in voxels
  const visible = (axis) => {
    const length = shape[axis] / model.get("zoom");
    return [clamp(centre[axis] + 0.5 - length / 2, 0, shape[axis] - length), length];
  };
  const recentre = (always) => model.get("cursor").forEach((x, axis) => {
    const [first, length] = visible(axis);
    if (always || x + 1 <= first || x >= first + length) centre[axis] = x; // a voxel cut by the edge stays where it is
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
      oninput: () => { lastView = name; act.step(name, Number(slider.value) - model.get("cursor")[view.through]); },
    });
    panes[name] = { view, canvas, slider };
    const region = () => (name === "mip"
      ? [[0, shape[view.across]], [0, shape[view.up]]] : [visible(view.across), visible(view.up)]);
    panes[name].region = region;
    const voxelAt = (event) => {
      const rect = canvas.getBoundingClientRect(); // in the event's own pixels, whatever the zoom
      const [[a0, na], [u0, nu]] = region();
      const x = clamp((event.clientX - rect.left) / rect.width, 0, 1);
      const y = clamp((event.clientY - rect.top) / rect.height, 0, 1);
      const voxel = [...model.get("cursor")];
      voxel[view.across] = clamp(Math.ceil(a0 + na * (1 - x)) - 1, 0, shape[view.across] - 1);
      voxel[view.up] = clamp(Math.ceil(u0 + nu * (1 - y)) - 1, 0, shape[view.up] - 1);
      if (name === "mip") voxel[1] = painter.depthOf(voxel[0], voxel[2]);
      return voxel;
    };
    // Pointer events: those of the mouse are cut to whole pixels, too coarse on a zoomed page.
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || ![0, 2].includes(event.button)) return;
      canvas.focus({ preventScroll: true });
      const voxel = voxelAt(event);
      const tool = model.get("tool");
      act.moveTo(voxel);
      if (name !== "mip" && tool !== "look") {
        const other = event.button === 2 || event.shiftKey || event.ctrlKey; // Control-click is a Mac's right click
        act.click(voxel, !other && tool === "foreground");
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && (name === "mip" || model.get("tool") === "look")) act.moveTo(voxelAt(event));
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
        else act.step(name, -Math.sign(steps) * (Math.abs(event.deltaY) >= 100 ? 1 : Math.abs(steps)));
      }, { passive: false });
    }
  }
  const zoomBy = (factor) => act.set("zoom", clamp(model.get("zoom") * factor, 1, 10));

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
      if (stale.base || moved) pane.base = painter.base(name);
      if (stale.over || moved) pane.over = painter.over(name);
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
        for (const { path, foreground } of model.get("marks")) {
          const inSlice = path.filter((voxel) => voxel[view.through] === depth);
          const points = inSlice.map((voxel) => [x(voxel[view.across]), y(voxel[view.up])]);
          if (points.length) drawMark(context, points, foreground, 5 * ratio);
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
    position.textContent = `voxel (${toIJK(cursor).join(", ")}), ${unit} ${painter.valueAt(cursor).toPrecision(2)}`;
    stale = { base: false, over: false };
  }

  recentre(true);
  return {
    panes, position, toIJK, redraw, recentre,
    lastView: () => lastView,
    dispose: () => { disposed = true; },
  };
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
// A disc or a cross at a single point; several points are joined by a line.
function drawMark(context, points, foreground, size) {
  const mark = new Path2D();
  const [[x, y]] = points;
  const isLine = points.length > 1;
  if (isLine) points.forEach((point) => mark.lineTo(...point));
  else if (foreground) mark.arc(x, y, size, 0, 2 * Math.PI);
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
  context.strokeStyle = context.fillStyle = MARK_COLOUR[foreground];
  if (foreground && !isLine) context.fill(mark);
  else context.stroke(mark);
}
