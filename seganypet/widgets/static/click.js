// The view of ClickWidget. Whatever changes a mask is sent to Python as a command; the answer comes back in synced
// traits, which also survive a reload.

function render({ model, el }) {
  const { shape, spacing } = model.get("scan");

  // ---- what the mouse and the keys ask for
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  let waitingSince = null;
  let due = 0; // how many messages Python must have acknowledged before nothing is awaited
  const command = (call, fields = {}) => {
    waitingSince = performance.now();
    due = Math.max(due, model.get("acknowledged")) + 1;
    showBusy();
    model.send({ call, ...fields });
  };
  const showBusy = () => {
    const late = controls.showBusy(waitingSince);
    if (waitingSince !== null && !late) setTimeout(showBusy, PATIENCE_MS + 50);
  };
  const moveTo = (cursor) => set("cursor", cursor.map((x, axis) => clamp(Math.round(x), 0, shape[axis] - 1)));
  const step = (name, by) => {
    const cursor = [...model.get("cursor")];
    cursor[VIEWS[name].through] += by;
    moveTo(cursor);
  };
  const click = (cursor, foreground) => command("prompt", { prompt: { ijk: slices.toIJK(cursor), foreground } });

  const body = h("div", {
    class: "sap-click", role: "group", "aria-label": "click on the scan", tabindex: "-1",
    "data-lm-suppress-shortcuts": "true", // older JupyterLabs listen before the widget does
  });
  const painter = createPainter(model);
  const slices = createSlices(model, painter, { moveTo, step, set, click });
  const controls = createControls(model, body, { set, command });

  // ---- put together; coronal and sagittal slices at one scale
  const [wide, deep] = [0, 1].map((axis) => shape[axis] * spacing[axis]);
  const columns = [1.7 * wide, wide, deep, 0.6 * wide].map((mm) => `minmax(0, ${mm / wide}fr)`);
  const pane = (name) => {
    const { canvas, slider } = slices.panes[name];
    return h("div", { class: "sap-pane" }, ...[canvas, slider].filter(Boolean));
  };
  body.append(
    controls.above,
    h("div", { class: "sap-views", style: `grid-template-columns: ${columns.join(" ")}` },
      h("div", { class: "sap-left" }, pane("axial"), slices.position, controls.panel),
      pane("coronal"), pane("sagittal"), pane("mip")),
    ...controls.below,
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
    const { across, up } = VIEWS[slices.lastView()];
    const arrows = { ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1] };
    const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
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
    } else if (event.key in steps) step(slices.lastView(), steps[event.key]);
    else if (event.key === "Enter" && event.target.tagName === "CANVAS" && tool !== "look") {
      click(model.get("cursor"), !event.shiftKey && tool === "foreground");
    } else if (event.key.toLowerCase() in keys) keys[event.key.toLowerCase()]();
    else return;
    event.preventDefault();
  });

  // ---- what Python says
  const listeners = [];
  const on = (names, act) => {
    for (const name of names.split(" ")) {
      model.on(name, act);
      listeners.push([name, act]);
    }
  };
  on("change:objects", () => {
    painter.readMasks();
    // First, and with marks and all: every trait is set before any is told.
    slices.redraw({ over: true }, (act) => act());
    controls.showObjects();
  });
  on("change:active", controls.showObjects);
  on("change:opacity", () => { controls.showRanges(); slices.redraw({ over: true }); });
  on("change:uncertainty", () => { controls.showWords(); slices.redraw({ over: true }); });
  on("change:intensity_range change:blend", () => {
    painter.makePalette();
    controls.showRanges();
    slices.redraw({ base: true });
  });
  on("change:cursor", () => { slices.recentre(false); slices.redraw(); });
  on("change:zoom", () => { slices.recentre(true); controls.showRanges(); slices.redraw(); });
  on("change:marks", () => slices.redraw());
  on("change:table", controls.showTable);
  on("change:tool", controls.showTool);
  on("change:enabled", controls.showEnabled);
  on("change:status change:error change:effort", controls.showWords);
  on("change:acknowledged", () => {
    if (model.get("acknowledged") >= due) waitingSince = null;
    showBusy();
    if (model.get("error")) controls.showObjects(); // what was refused must not stay written there
  });
  on("msg:custom", (message, buffers) => {
    if (!message.download) return;
    const link = h("a", { href: URL.createObjectURL(new Blob([buffers[0]])), download: message.download });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });

  showBusy();
  el.append(body);
  const resized = new ResizeObserver(() => slices.redraw());
  resized.observe(body);
  return () => {
    slices.dispose();
    resized.disconnect();
    for (const [name, act] of listeners) model.off(name, act);
  };
}

export default { render };
