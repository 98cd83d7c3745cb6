// The view of ClickWidget. Whatever changes a mask is sent to Python as a command; the answer comes back in synced
// traits, which also survive a reload.

const [LOWEST_PX, TALLEST_PX] = [380, 1000]; // a window that is lower is scrolled
const OTHERS_PX = 250; // what JupyterLab and the bars take of a window's height
const MAX_MASK_BYTES = 9_000_000; // Jupyter servers refuse messages of more than 10 MB

function browserStorage() {
  try { return window.localStorage; } catch { return null; } // forbidden in private windows of some browsers
}

function render({ model, el }) {
  const scan = model.get("scan");
  const { shape } = scan;
  const voxels = scanOf(model);

  // ---- what the mouse and the keys ask for
  const set = (name, value) => { model.set(name, value); save(); };
  const save = () => { try { model.save_changes(); } catch { lost(); } };
  let waitingSince = null;
  let due = 0; // how many messages Python must have acknowledged before nothing is awaited
  const send = (call, fields = {}, buffers = []) => {
    waitingSince ??= performance.now();
    due = Math.max(due, model.get("acknowledged")) + 1;
    showBusy();
    try { model.send({ call, ...fields }, undefined, buffers); } catch { lost(); }
  };
  const command = (...what) => {
    slices.forgetPress(); // a press of the mouse before it and one after it are no double click
    send(...what);
  };
  const showBusy = () => {
    const late = controls.showBusy(waitingSince);
    if (waitingSince !== null && !late) setTimeout(showBusy, PATIENCE_MS + 50);
    notices.late(late);
  };
  const lost = () => {
    waitingSince = null; // for what will not come
    showBusy();
    notices.lost();
  };
  const moveTo = (cursor) => set("cursor", cursor.map((x, axis) => clamp(Math.round(x), 0, shape[axis] - 1)));
  const step = (name, by) => {
    const cursor = [...model.get("cursor")];
    cursor[VIEWS[name].through] += by;
    moveTo(cursor);
  };
  const click = (cursor, foreground) => send("prompt", { prompt: { ijk: slices.toIJK(cursor), foreground } });
  const sphere = (cursor) => send("sphere", { ijk: slices.toIJK(cursor), diameter_mm: model.get("sphere_mm") });
  const draw = (tool, path, view, foreground) => {
    const { toIJK, ijkAxis } = slices;
    const asked = strokeCommand(tool, path, view, { toIJK, ijkAxis, foreground, radiusMM: model.get("brush_mm") });
    if (asked) send(...asked);
    return asked !== null;
  };
  let probing = -Infinity; // one question at a time, while the kernel may be busy
  const probe = (ras) => {
    if (performance.now() - probing < 2000) return;
    probing = performance.now();
    try { model.send({ call: "probe", ras }); } catch { /* the picture's own value stays */ }
  };
  const loadMask = async (file) => {
    if (file.size <= MAX_MASK_BYTES) command("load_mask", { name: file.name }, [await file.arrayBuffer()]);
    else set("error", `${file.name} has ${digits(file.size / 1e6)} MB; a page takes up to 9 MB. Compress it (.nii.gz).`);
  };
  let enlarged = Object.keys(VIEWS).find((name) => shape[VIEWS[name].through] === 1) ?? null; // a scan of one slice
  const maximise = (name) => { enlarged = enlarged === name ? null : name; layOut(); };

  const body = h("div", {
    class: "sap-click", role: "group", "aria-label": `click on the scan ${scan.name}`, tabindex: "-1",
    "data-lm-suppress-shortcuts": "true", // older JupyterLabs listen before the widget does
  });
  const painter = createPainter(model);
  const withdraw = () => command("withdraw");
  const slices = createSlices(model, painter, { moveTo, step, set, click, sphere, draw, withdraw, probe, maximise });
  const controls = createControls(model, body, { set, command, loadMask });
  const table = createTable(model, body, { command });
  const score = createScore(model);
  const sittings = createSittings(browserStorage(), scan.key);
  const notices = createNotices(model, sittings, { command, describe: described });

  // ---- put together
  const panel = h("div", { class: "sap-panel", style: "grid-area: panel" },
    slices.position, table.objects, controls.add, table.hint, table.numbers);
  const below = h("div", { style: "grid-area: below" }, notices.below, ...controls.below);
  const progress = h("progress", { max: "1", "aria-label": "scan loaded" });
  const loading = h("div", { class: "sap-loading", role: "status" }, "loading the scan ", progress);
  const views = h("div", { class: "sap-views" }, ...Object.values(slices.panes).map(({ element }) => element), panel, below);
  body.append(notices.element, controls.above, score.score, loading, views, h("details", { class: "sap-help" },
    h("summary", {}, "mouse and keys"), ...HELP.map((part) => h("dl", {}, ...Object.entries(part).map(([keys, what]) =>
      h("div", {}, h("dt", {}, ...keys.split(" ").map((key) => h("kbd", {}, key.replace("_", " ")))), h("dd", {}, what)))))));

  let [laidOut, room] = ["", ""];
  function layOut() {
    const width = Math.floor(body.clientWidth) - 2 * 6;
    const found = [width, window.innerHeight, window.devicePixelRatio, enlarged].join(" ");
    if (width < 50 || found === room) return; // hidden, or only its height changed
    room = found;
    const size = scan.body.map(([first, end], axis) => (end - first) * scan.spacing[axis]);
    const height = clamp(window.innerHeight - OTHERS_PX, LOWEST_PX, TALLEST_PX);
    const { areas, rows, columns, panes } = arrange({ width, height, size, only: enlarged });
    if (laidOut !== areas + JSON.stringify(panes)) {
      laidOut = areas + JSON.stringify(panes);
      Object.assign(views.style, { gridTemplateAreas: areas, gridTemplateRows: rows, gridTemplateColumns: columns });
      slices.setSizes(panes);
    } else slices.redraw();
  }

  let shownPicture = ""; // the projection is worked out from the coarse picture and from the whole, not for each piece
  const showProgress = () => {
    progress.value = voxels.progress();
    progress.textContent = `${Math.round(100 * voxels.progress())} %`;
    loading.hidden = voxels.progress() === 1;
    views.dataset.picture = loading.hidden ? "whole" : voxels.hasPicture() ? "coarse" : "none";
    if (views.dataset.picture !== shownPicture || loading.hidden) painter.forget();
    shownPicture = views.dataset.picture;
    slices.redraw({ base: true });
  };

  // ---- keys
  const others = () => model.get("objects").map(({ name }) => name);
  const crosshair = (axisOf, by) => {
    const cursor = [...model.get("cursor")];
    cursor[VIEWS[slices.lastView()][axisOf]] += by;
    moveTo(cursor);
  };
  const dragRange = (down) =>
    set("intensity_range", draggedRange(model.get("intensity_range"), 0, down, scan.pet, scan.unit === "HU"));
  const actions = {
    undo: () => (slices.hasDraft() ? slices.cancelDraft() : command("undo")),
    redo: () => command("redo"),
    sign: () => set("foreground", !model.get("foreground")),
    reading: () => command("next_reading"),
    spot: () => command("next_spot"),
    propose: () => command("propose"),
    fill: () => command("fill_holes"),
    largest: () => command("keep_largest"),
    "next object": () => command("select", { name: neighbour(others(), model.get("active"), 1) }),
    "object before": () => command("select", { name: neighbour(others(), model.get("active"), -1) }),
    add: () => command("add"),
    bare: () => set("bare", !model.get("bare")),
    enlarge: () => maximise(slices.lastView()),
    turn: () => slices.turnTo(slices.angle() + 45),
    cancel: () => slices.cancelDraft(),
    method: () => controls.nextMethod(),
    preset: () => controls.nextPreset(),
    colours: () => controls.nextColours(),
    lock: () => {
      const { name, locked } = model.get("objects").find((one) => one.name === model.get("active"));
      command("lock", { name, locked: !locked });
    },
    darker: () => dragRange(-30),
    lighter: () => dragRange(30),
    "next slice": () => step(slices.lastView(), 1),
    "slice before": () => step(slices.lastView(), -1),
    "10 slices on": () => step(slices.lastView(), 10),
    "10 slices back": () => step(slices.lastView(), -10),
    crosshairLeft: () => crosshair("across", 1),
    crosshairRight: () => crosshair("across", -1),
    crosshairUp: () => crosshair("up", 1),
    crosshairDown: () => crosshair("up", -1),
    ...Object.fromEntries(Object.keys(TOOLS).map((tool) => [tool, () => {
      if (model.get("enabled").tools.includes(tool)) set("tool", tool);
    }])),
  };
  body.addEventListener("keydown", (event) => {
    slices.forgetPress();
    const { type, tagName } = event.target;
    const ctrl = event.ctrlKey || event.metaKey;
    const action = actionOf({ key: event.key, shift: event.shiftKey, ctrl, alt: event.altKey });
    if (ctrl && action === "save") return saveAsUsual(event);
    if ((ctrl && !["undo", "redo"].includes(action)) || event.altKey) return;
    event.stopPropagation(); // what is typed here is not meant for JupyterLab, which cuts cells at x
    if (type === "text" && event.key === "Enter") body.focus({ preventScroll: true }); // the name is done
    if (type === "text" || tagName === "SELECT") return;
    if (type && type !== "button" && event.key.length > 1) return; // arrows of sliders and radio buttons are theirs
    if (action === "click") {
      if (tagName !== "CANVAS" || ["look", "window"].includes(model.get("tool"))) return;
      const foreground = event.shiftKey !== model.get("foreground");
      if (model.get("tool") === "point") click(model.get("cursor"), foreground);
      else if (model.get("tool") === "sphere") sphere(model.get("cursor"));
      else slices.addCorner(foreground);
    } else if (actions[action]) actions[action]();
    else return;
    event.preventDefault();
  });
  // JupyterLab's own Save, which the widget keeps from hearing keys; elsewhere the widget's.
  const saveAsUsual = (event) => {
    const notebook = body.closest(".jp-NotebookPanel");
    event.preventDefault();
    event.stopPropagation();
    if (notebook) {
      const { key, code, keyCode, ctrlKey, metaKey } = event;
      notebook.dispatchEvent(new KeyboardEvent("keydown", { key, code, keyCode, ctrlKey, metaKey, bubbles: true, cancelable: true }));
    } else if (model.get("enabled").save && model.get("enabled").export) command("save", { existing: "ask" });
    else if (model.get("enabled").export) command("download", { what: "journal" });
  };

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
    table.show();
  });
  on("change:active change:rows change:all_objects", table.show);
  on("change:score", score.show);
  on("change:opacity change:bare", () => { controls.showRanges(); controls.showTool(); slices.redraw({ over: true }); });
  on("change:uncertainty", () => { controls.showWords(); slices.redraw({ over: true }); });
  on("change:intensity_range change:ct_range change:blend change:colour_map", () => {
    painter.makePalette();
    controls.showRanges();
    slices.redraw({ base: true });
  });
  on("change:cursor", () => { slices.recentre(false); slices.redraw(); });
  on("change:zoom", () => { slices.recentre(true); controls.showRanges(); slices.redraw(); });
  on("change:brush_mm", () => { controls.showRanges(); slices.redraw(); });
  on("change:marks change:ruler", () => slices.redraw());
  on("change:method change:sphere_mm", controls.showTool);
  on("change:tool change:foreground", () => { if (slices.hasDraft()) slices.cancelDraft(); controls.showTool(); slices.redraw(); });
  on("change:enabled", controls.showEnabled);
  on("change:status change:error change:effort", controls.showWords);
  on("change:journal", () => notices.kept(sittings.keep(model.get("journal"))));
  on("change:question change:earlier", notices.show);
  on("comm_live_update", () => { if (model.comm_live === false) lost(); });
  on("change:acknowledged", () => {
    if (model.get("acknowledged") >= due) waitingSince = null;
    slices.answered();
    showBusy();
    if (model.get("error")) table.show(); // what was refused must not stay written there
  });
  on("msg:custom", (message, buffers) => {
    if (message.probe) { probing = -Infinity; slices.tell(message); }
    if (!message.download) return;
    offer(message.download, buffers[0]);
  });

  sittings.begin(model.get("journal"));
  notices.show();
  table.show();
  score.show();
  showBusy();
  el.append(body);
  table.show(); // once more: now it can scroll to the active object
  const unfollow = voxels.follow(showProgress);
  showProgress();
  const resized = new ResizeObserver(layOut);
  resized.observe(body);
  window.addEventListener("resize", layOut);
  return () => {
    slices.dispose();
    unfollow();
    resized.disconnect();
    window.removeEventListener("resize", layOut);
    for (const [name, act] of listeners) model.off(name, act);
  };
}

function offer(name, content) {
  const link = h("a", { href: URL.createObjectURL(new Blob([content])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Bars above everything, and one below: an earlier sitting is offered, Save asks, the kernel is gone or late.
function createNotices(model, sittings, { command, describe }) {
  const [element, below] = [h("div", { class: "sap-notices" }), h("div", { class: "sap-notices" })];
  let [isLate, isLost, isKept] = [false, false, true];
  const button = (words, act) => h("button", { type: "button", onclick: act }, words);
  const notice = (kind, words, ...buttons) => h("div", { class: `sap-notice sap-${kind}`, role: kind === "dead" ? "alert" : "status" },
    h("span", {}, words), ...buttons);
  const newest = () => {
    const fromDisk = model.get("earlier");
    const all = [...sittings.earlier(), ...(fromDisk.text ? [{ text: fromDisk.text, time: 1000 * fromDisk.seconds }] : [])]
      .filter(({ text }) => !holds(model.get("journal"), text));
    return all.sort((one, other) => other.time - one.time)[0];
  };
  const forget = (text) => {
    sittings.forget(text);
    if (samePrompts(model.get("earlier").text ?? "", text)) command("dismiss");
    show();
  };
  const show = () => {
    const notes = [];
    const journal = () => (model.get("journal")
      ? [button("Download journal", () => offer("clicks.json", model.get("journal")))] : []);
    if (isLost) {
      notes.push(notice("dead", "The kernel is gone: nothing more is sent to it. Every prompt so far is kept in this "
        + "browser; run the cell again to go on, or load the app's page again.", ...journal()));
    }
    if (!isKept) {
      notes.push(notice("dead", "This browser keeps nothing (its storage is full or forbidden): save or download before "
        + "you leave.", ...journal()));
    }
    // Below the pictures: a kernel that is only busy must not move them under the mouse.
    below.replaceChildren(...(isLate && !isLost ? [notice("ask", "No answer yet: is the kernel busy or stopped? Every "
      + "prompt so far is kept in this browser.", ...journal())] : []));
    if (model.get("question")) {
      notes.push(notice("ask", model.get("question"), button("Replace", () => command("save", { existing: "replace" })),
        button("Keep both", () => command("save", { existing: "keep" })), button("Cancel", () => command("dismiss"))));
    }
    const found = newest();
    if (found) {
      const when = new Date(found.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      notes.push(notice("ask", `Earlier work on this scan: ${describe(found.text)} (${when}).`,
        button("Continue it", () => command("load_text", { text: found.text })),
        button("Download", () => offer("clicks.json", found.text)),
        button("Forget it", () => forget(found.text))));
    }
    element.replaceChildren(...notes);
  };
  return {
    element, below, show,
    late: (late) => { if (late !== isLate) { isLate = late; show(); } },
    lost: () => { if (!isLost) { isLost = true; show(); } },
    kept: (kept) => { isKept = kept; show(); },
  };
}

export default { render };
