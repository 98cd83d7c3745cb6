// The panes of ClickWidget: three slices and a turning projection, with crosshair, marks, a scale bar, and what is
// being drawn by hand.

const WHEEL_STEP_PX = 40; // a mouse's notch is 100 or more, a trackpad sends many small ones
const DOUBLE_CLICK_MS = 500; // as browsers have it
const SNAP_MM = 6; // a click on the projection means the hottest voxel so near
const TURN_DEG = 5;
const PROBE_AFTER_MS = 60;

// `act` holds what the mouse asks for: moveTo(cursor), step(view, by), set(trait, value), click(cursor, foreground),
// sphere(cursor), draw(tool, path, view, foreground), which says whether that asked for anything, withdraw(), which takes
// back what was asked for last, probe(cursor), maximise(view).
function createSlices(model, painter, act) {
  const scan = model.get("scan");
  const { shape, body } = scan;
  const unit = scan.unit === "SUVbw" ? "SUV" : scan.unit;
  const position = h("div", { class: "sap-position" }); // of the pointer, else of the crosshair
  const centre = [...model.get("cursor")]; // of what a zoomed view shows
  const known = new Map(); // true values that Python told, by voxel
  let [lastView, pending, disposed, angle, turning] = ["axial", false, false, 0, null];
  let draft = null; // what is drawn by hand: tool, view, path, foreground, pointer (or null: by keys)
  let painted = null; // what was drawn and is not answered yet
  let pointed = null; // voxel under the pointer
  let pointedIn = null; // name of its pane
  let [lastDown, asked, asking] = [{ at: -Infinity }, false, null]; // whether that press asked for something

  // Voxels and millimetres of the file.
  const toIJK = (ras) => scan.axes.map(([axis, sign]) => (sign > 0 ? ras[axis] : shape[axis] - 1 - ras[axis]));
  const ijkAxis = (ras) => scan.axes.findIndex(([axis]) => axis === ras);
  const toMM = (ijk) => scan.affine.slice(0, 3).map((row) => row[3] + ijk.reduce((sum, x, axis) => sum + x * row[axis], 0));

  // ---- what part of an axis a view shows: [first edge, length] in voxels
  const visible = (axis) => {
    const [first, end] = body[axis];
    const length = (end - first) / model.get("zoom");
    return [clamp(centre[axis] + 0.5 - length / 2, first, end - length), length];
  };
  const recentre = (always) => model.get("cursor").forEach((x, axis) => {
    const [first, length] = visible(axis);
    if (always || x + 1 <= first || x >= first + length) centre[axis] = x; // a voxel cut by the edge stays where it is
  });

  // ---- the canvases
  const panes = {};
  for (const name of [...Object.keys(VIEWS), "mip"]) panes[name] = makePane(name, VIEWS[name]);
  function makePane(name, view) {
    const canvas = h("canvas", { tabindex: "0", role: "application", class: `sap-${name}` });
    const slider = h("input", view ? {
      type: "range", min: "0", max: String(shape[view.through] - 1), "aria-label": `${name} slice`,
      oninput: () => { lastView = name; act.step(name, Number(slider.value) - model.get("cursor")[view.through]); },
    } : {
      type: "range", min: "0", max: String(360 - TURN_DEG), step: String(TURN_DEG), "aria-label": "projection angle",
      oninput: () => turnTo(Number(slider.value)),
    });
    const large = h("button", { type: "button", "aria-label": `enlarge ${name}`,
      title: "enlarge, or all panes again (m; or double click)", onclick: () => act.maximise(name) }, icon("enlarge"));
    const pane = { name, view, canvas, slider, element: h("div", { class: "sap-pane", style: `grid-area: ${name}` },
      canvas, h("div", { class: "sap-turn" }, slider, large)) }; // over no voxel: all can be clicked
    if (!view) {
      const play = h("button", { type: "button", "aria-label": "turn the projection", onclick: () => {
        if (turning) stopTurning(); else turning = setInterval(() => turnTo(angle + TURN_DEG), 110);
        play.replaceChildren(icon(turning ? "pause" : "play"));
      } }, icon("play"));
      slider.before(play);
    }
    const place = (event) => { // shares of width and height
      const rect = canvas.getBoundingClientRect(); // in the event's own pixels, whatever the zoom
      return [clamp((event.clientX - rect.left) / rect.width, 0, 1), clamp((event.clientY - rect.top) / rect.height, 0, 1)];
    };
    const voxelAt = (event) => {
      const [x, y] = place(event);
      if (!view) return painter.hottest([x, y], angle, SNAP_MM);
      return placeAt(event).map((at, axis) => clamp(Math.ceil(at + 0.5) - 1, 0, shape[axis] - 1));
    };
    const placeAt = (event) => { // in a slice, not rounded to a voxel
      const [x, y] = place(event);
      const voxel = [...model.get("cursor")];
      for (const [axis, share] of [[view.across, 1 - x], [view.up, 1 - y]]) {
        const [first, length] = visible(axis);
        voxel[axis] = first + length * share - 0.5;
      }
      return voxel;
    };
    let grabbed = null; // the projection, or the window of intensities
    // Pointer events: those of the mouse are cut to whole pixels, too coarse on a zoomed page.
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || ![0, 1, 2].includes(event.button)) return;
      canvas.focus({ preventScroll: true });
      if (event.button === 1 || (model.get("tool") === "window" && view)) {
        event.preventDefault(); // the middle button would scroll
        asked = false;
        grabbed = { x: event.clientX, y: event.clientY, range: model.get("intensity_range") };
        canvas.setPointerCapture(event.pointerId);
        return;
      }
      if (!view) {
        asked = false;
        grabbed = { x: event.clientX, angle, moved: false };
        canvas.setPointerCapture(event.pointerId);
        return;
      }
      const near = lastDown.name === name && Math.hypot(event.clientX - lastDown.x, event.clientY - lastDown.y) < 5;
      const isPlain = event.button === 0 && !event.shiftKey && !event.ctrlKey;
      const isSecond = isPlain && near && event.timeStamp - lastDown.at < DOUBLE_CLICK_MS; // of a double click
      lastDown = { name, x: event.clientX, y: event.clientY, at: isPlain ? event.timeStamp : -Infinity };
      if (isSecond) return;
      const [voxel, tool] = [voxelAt(event), model.get("tool")];
      const other = event.button === 2 || event.shiftKey || event.ctrlKey; // Control-click is a Mac's right click
      const foreground = !other && model.get("foreground");
      act.moveTo(voxel);
      asked = ["point", "sphere"].includes(tool);
      if (tool === "point") act.click(voxel, foreground);
      else if (tool === "sphere") act.sphere(voxel);
      else if (tool !== "look") {
        canvas.setPointerCapture(event.pointerId);
        const turned = other && tool === "brush" ? "eraser" : tool;
        const first = tool === "ruler" ? placeAt(event) : voxel;
        draft = { tool: turned, view, name, path: [first], foreground, pointer: event.pointerId };
        redraw();
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (grabbed?.range) {
        const [right, down] = [event.clientX - grabbed.x, event.clientY - grabbed.y];
        act.set("intensity_range", draggedRange(grabbed.range, right, down, scan.pet, scan.unit === "HU"));
        return;
      }
      if (grabbed) {
        const by = event.clientX - grabbed.x;
        if (Math.abs(by) > 4) grabbed.moved = true;
        if (grabbed.moved) turnTo(grabbed.angle - (by / canvas.clientWidth) * 180);
        return;
      }
      if (!view) return;
      point(voxelAt(event), name);
      if (draft?.pointer === event.pointerId) {
        const at = draft.tool === "ruler" ? placeAt : voxelAt;
        for (const one of event.getCoalescedEvents?.() ?? [event]) draft.path.push(at(one));
        draft.path.push(at(event));
        redraw();
      } else if (event.buttons === 1 && model.get("tool") === "look") act.moveTo(voxelAt(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      if (grabbed && !grabbed.range && !grabbed.moved) {
        const voxel = voxelAt(event);
        if (voxel) act.moveTo(voxel);
      }
      grabbed = null;
      if (draft?.pointer === event.pointerId) finishDraft();
    });
    canvas.addEventListener("pointercancel", () => { grabbed = null; cancelDraft(); });
    canvas.addEventListener("dblclick", (event) => {
      event.preventDefault();
      if (asked) act.withdraw();
      act.maximise(name);
    });
    canvas.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
    canvas.addEventListener("focus", () => { if (view) lastView = name; redraw(); });
    canvas.addEventListener("pointerenter", () => { if (view) lastView = name; });
    canvas.addEventListener("pointerleave", () => point(null, null));
    let rolled = 0;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      rolled += event.deltaMode ? event.deltaY * WHEEL_STEP_PX : event.deltaY;
      const steps = Math.trunc(rolled / WHEEL_STEP_PX);
      if (!steps) return;
      rolled = 0;
      if (event.ctrlKey || event.metaKey) zoomBy(steps < 0 ? 1.25 : 0.8); // a trackpad's pinch arrives so
      else if (!view) turnTo(angle + Math.sign(steps) * TURN_DEG);
      else act.step(name, -Math.sign(steps) * (Math.abs(event.deltaY) >= 100 ? 1 : Math.abs(steps)));
    }, { passive: false });
    return pane;
  }
  const zoomBy = (factor) => act.set("zoom", clamp(model.get("zoom") * factor, 1, 10));
  const turnTo = (degrees) => {
    angle = (((Math.round(degrees / TURN_DEG) * TURN_DEG) % 360) + 360) % 360;
    redraw();
  };
  const stopTurning = () => { clearInterval(turning); turning = null; };

  // ---- by hand
  const cancelDraft = () => {
    if (!draft && model.get("ruler").length) act.set("ruler", []);
    draft = null;
    redraw();
  };
  const finishDraft = () => {
    const { tool, path, view, foreground } = draft;
    painted = ["brush", "eraser"].includes(tool) ? draft : null; // stays in sight until its mask is there
    draft = null;
    if (tool !== "ruler") asked = act.draw(tool, path, view, foreground);
    else act.set("ruler", path.length > 1 ? [path[0], path[path.length - 1]] : []);
    redraw();
  };
  // By keys: each time the crosshair is one more corner; the same place once more ends it, and so does a box's second.
  const addCorner = (foreground) => {
    const [tool, cursor, view] = [model.get("tool"), [...model.get("cursor")], VIEWS[lastView]];
    if (!draft || draft.view !== view) draft = { tool, view, name: lastView, path: [], foreground, pointer: null };
    const last = draft.path[draft.path.length - 1];
    const isEnd = last && String(last) === String(cursor);
    if (!isEnd) draft.path.push(cursor);
    const isWhole = tool === "brush" || tool === "eraser" || (["box", "ruler"].includes(tool) && draft.path.length === 2);
    if (isEnd || isWhole) finishDraft();
    else redraw();
  };

  // ---- the value under the pointer: as the picture's codes tell it, then as it is
  const point = (voxel, name) => {
    const isElsewhere = name !== pointedIn || String(voxel) !== String(pointed);
    [pointed, pointedIn] = [voxel, name];
    if (isElsewhere && paints()) redraw();
    showPosition();
  };
  // What a brush would paint: around the voxel under the pointer or, of keys, under the crosshair.
  const paints = () => ["brush", "eraser"].includes(model.get("tool"));
  const ringIn = (name) => (paints() && (pointedIn ?? lastView) === name ? pointed ?? model.get("cursor") : null);
  const showPosition = () => {
    const voxel = pointed ?? model.get("cursor");
    const exact = known.get(String(voxel));
    if (!exact) {
      clearTimeout(asking);
      asking = setTimeout(() => act.probe(voxel), PROBE_AFTER_MS);
    }
    const ijk = toIJK(voxel);
    const value = exact ? exact.value.toFixed(Math.abs(exact.value) < 100 ? 2 : 0) : painter.valueAt(voxel);
    const ct = exact && exact.ct !== null && scan.ct ? `, CT ${exact.ct.toFixed(0)} HU` : "";
    const mm = toMM(ijk).map((x) => x.toFixed(0)).join(", ");
    const measured = rulerMM();
    const ruler = measured === null ? "" : `; ruler: ${measured.toFixed(1)} mm`;
    position.replaceChildren(`${pointed ? "pointer" : "crosshair"}: `, h("b", {}, `${unit} ${value}${ct}`),
      ` at voxel (${ijk.join(", ")}), ${mm} mm${ruler}`);
  };
  const lengthMM = (one, other) => {
    const [a, b] = [one, other].map((ras) => toMM(toIJK(ras)));
    return Math.hypot(...a.map((x, axis) => x - b[axis]));
  };
  const rulerMM = () => {
    const ends = model.get("ruler");
    return ends.length === 2 ? lengthMM(...ends) : null;
  };
  const tell = ({ probe, value, ct }) => {
    if (known.size > 500) known.clear();
    known.set(String(probe), { value, ct });
    showPosition();
  };

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
    const now = stale;
    stale = { base: false, over: false };
    for (const pane of Object.values(panes)) {
      if (pane.element.hidden) pane.depth = null;
      // The shadow of a new mask is not in the way of its slices.
      else if (!pane.view && now.over && pane.over) setTimeout(() => { if (!disposed) drawPane(pane, now); });
      else drawPane(pane, now);
    }
    showPosition();
  }
  function drawPane(pane, now) {
    const { name, view, canvas, slider } = pane;
    const [cssWidth, cssHeight] = pane.size ?? [0, 0];
    if (cssWidth < 2) return; // not laid out yet
    const cursor = model.get("cursor");
    const depth = view ? cursor[view.through] : angle;
    const moved = pane.depth !== depth;
    pane.depth = depth;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [cssWidth, cssHeight].map((x) => Math.max(1, Math.round(x * ratio)));
    const wanted = view ? [width / visible(view.across)[1], height / visible(view.up)[1]] : [];
    const finer = String(wanted.map(Math.ceil));
    if (now.base || moved || pane.finer !== finer) pane.base = painter.base(name, depth, wanted);
    if (now.over || moved) pane.over = painter.over(name, depth);
    pane.finer = finer;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    let source = null; // what of a layer is shown, in voxels; of the projection all
    let toPx; // of a voxel
    if (view) {
      const [[a0, na], [u0, nu]] = [visible(view.across), visible(view.up)];
      canvas.dataset.shown = JSON.stringify([a0, na, u0, nu]); // what tests and benchmarks aim by
      source = [body[view.across][1] - a0 - na, body[view.up][1] - u0 - nu, na, nu];
      toPx = (voxel) => [((a0 + na - voxel[view.across] - 0.5) / na) * width, ((u0 + nu - voxel[view.up] - 0.5) / nu) * height];
      pane.widthMM = na * scan.spacing[view.across];
    } else {
      toPx = (voxel) => painter.projection.placeOf(voxel, angle).map((share, at) => share * [width, height][at]);
      pane.widthMM = painter.projection.widthMM;
      const [across, , [k0, k1]] = body;
      const seen = pane.widthMM / scan.spacing[0]; // from the front, columns are those of the coronal slices
      canvas.dataset.shown = angle ? "" : JSON.stringify([(across[0] + across[1] - seen) / 2, seen, k0, k1 - k0]);
    }
    context.imageSmoothingEnabled = !view;
    for (const layer of [pane.base, pane.over]) {
      const pixels = source && [[layer.width, view.across], [layer.height, view.up]]
        .map(([size, axis]) => size / (body[axis][1] - body[axis][0])); // a voxel
      const part = source ? source.map((x, at) => x * pixels[at % 2]) : [0, 0, layer.width, layer.height];
      context.drawImage(layer, ...part, 0, 0, width, height);
    }
    if (!model.get("bare")) {
      drawCrosshair(context, ...toPx(cursor), width, height, ratio, painter.isDark(name));
      const colours = Object.fromEntries(model.get("objects").map(({ name: of, colour }) => [of, colour]));
      if (view) {
        for (const { path, foreground, of } of model.get("marks")) {
          const points = path.filter((voxel) => voxel[view.through] === depth).map(toPx);
          if (points.length) drawMark(context, points, foreground, colours[of] ?? "#000000", 3 * ratio);
        }
      }
      const brushPx = (model.get("brush_mm") / pane.widthMM) * width; // its radius
      for (const drawn of [draft, painted]) {
        if (drawn?.name !== name) continue;
        drawDraft(context, drawn, drawn.path.map(toPx), colours[model.get("active")] ?? "#000000", brushPx, ratio);
      }
      const ring = ringIn(name);
      if (ring) drawRing(context, toPx(ring), brushPx, ratio);
      const ends = draft?.tool === "ruler" ? [draft.path[0], draft.path[draft.path.length - 1]] : model.get("ruler");
      if (view && ends.length && ends.every((end) => Math.round(end[view.through]) === depth)) {
        drawRuler(context, ...ends.map(toPx), lengthMM(...ends), ratio);
      }
    }
    const tones = painter.isDark(name) ? ["black", "white"] : ["white", "black"];
    drawLetters(context, view ? view.ends : turnedEnds(angle), width, height, ratio, tones);
    drawScaleBar(context, pane.widthMM, width, height, ratio, tones);
    const says = view ? `${name} slice ${depth}`
      : `maximum intensity projection at ${angle} degrees; click to look at what is hottest there, drag to turn`;
    canvas.setAttribute("aria-label", says);
    slider.value = depth;
    slider.setAttribute("aria-valuetext", says);
  }

  // Sizes in CSS pixels, from `arrange`; panes without one are hidden.
  const setSizes = (sizes) => {
    for (const [name, pane] of Object.entries(panes)) {
      pane.size = sizes[name];
      pane.element.hidden = !pane.size;
      if (pane.size) Object.assign(pane.canvas.style, { width: `${pane.size[0]}px`, height: `${pane.size[1]}px` });
    }
    redraw();
  };

  recentre(true);
  return {
    panes, position, toIJK, ijkAxis, redraw, recentre, setSizes, addCorner, cancelDraft, tell, turnTo,
    angle: () => angle,
    hasDraft: () => draft !== null,
    answered: () => { if (painted) { painted = null; redraw(); } },
    lastView: () => lastView,
    forgetPress: () => { [lastDown, asked] = [{ at: -Infinity }, false]; },
    dispose: () => { disposed = true; stopTurning(); clearTimeout(asking); },
  };
}
