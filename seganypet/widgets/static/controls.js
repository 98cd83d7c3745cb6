// The controls of ClickWidget: tools, sliders, files, and words.

const TOOLS = {
  point: ["point: a click says it", "p"],
  scribble: ["scribble: a line that lies in the object, or not", "s"],
  box: ["box: in this slice nothing of the object lies outside; or nothing inside", "b"],
  lasso: ["lasso: a contour; in this slice nothing of the object lies outside; or nothing inside", "l"],
  brush: ["brush: paint on the mask", "d"],
  eraser: ["eraser: take away from the mask", "e"],
  sphere: ["sphere: SUVs around a voxel, as an object of its own", "i"],
  ruler: ["ruler: a distance in mm", "u"],
  window: ["window: drag up to see faint uptake", "w"],
  look: ["look: move the crosshair only", "v"],
};
const PATIENCE_MS = 3000; // then say that the kernel does not answer
const METHODS = { // what draws the mask of a prompt
  session: "network",
  "41% SUVmax": "41 % of SUVmax",
  "SUV>=2.5": "SUV \u2265 2.5",
  "SUV>=4": "SUV \u2265 4",
  PERCIST: "PERCIST: 1.5 liver + 2 SD",
  "liver mean + 2 SD": "liver + 2 SD",
};
const SPHERES = { 12.4: "1 cm\u00b3 (12.4 mm wide)", 30: "3 cm wide" };
const COLOUR_MAP_NAMES = { grey: "inverted grey", hot: "hot", viridis: "viridis" };
const CT_WINDOWS = { "soft tissue": [-160, 240], lung: [-1000, 200], bone: [-200, 1000] };
const PRESETS = { SUVbw: [[0, 5], [0, 7], [0, 10], [0, 15], [0, 25]], HU: [[-160, 240], [-1000, 200], [-200, 1000]] };

// `body` is the element that holds all; `act` holds set(trait, value), command(call, fields), loadMask(file).
function createControls(model, body, { set, command, loadMask }) {
  const scan = model.get("scan");
  const unit = scan.unit === "SUVbw" ? "SUV" : scan.unit;
  const isCT = scan.unit === "HU";
  const button = (label, title, act) => h("button", { type: "button", title, onclick: act }, ...[].concat(label));
  const group = Math.random(); // radio buttons of one name exclude each other, on the whole page
  const radio = (name, value, title, words, act) => {
    const input = h("input", { type: "radio", name: `${name}-${group}`, value, onchange: act });
    return { value, input, label: h("label", { class: `sap-tool sap-${name}-${value}`, title }, input, ...words) };
  };
  const tools = Object.entries(TOOLS).map(([tool, [title, key]]) =>
    radio("tool", tool, `${title} (${key})`, [icon(tool), tool], () => set("tool", tool)));
  const signs = [[true, ["+ this"]], [false, ["\u2212 not this"]]].map(([value, words]) =>
    radio("sign", String(value), "what a prompt says (x); right or Shift click: the other", words, () => set("foreground", value)));
  const sign = h("span", { role: "radiogroup", "aria-label": "what a prompt says (x)", class: "sap-choice" },
    ...signs.map(({ label }) => label));
  const buttons = {
    undo: button([icon("undo"), "Undo"], "undo (z, Ctrl+Z)", () => command("undo")),
    redo: button([icon("redo"), "Redo"], "redo (y, Ctrl+Y)", () => command("redo")),
    reading: button("Reading", "another mask that the first prompt may mean (r)", () => command("next_reading")),
    spot: button("Next hot spot", "look at the hottest spot that is not outlined (f)", () => command("next_spot")),
    propose: button("Propose organs", "outline the organs without a click, to be corrected (o)", () => command("propose")),
    fill: button("Fill holes", "add what the object encloses (g)", () => command("fill_holes")),
    largest: button("Largest piece", "drop all other pieces of the object (k)", () => command("keep_largest")),
    reset: button("Reset", "forget all objects; undo brings them back", () => command("reset")),
    save: button("Save", "write mask, journal and table into the output folder", () => command("save", { existing: "ask" })),
    mask: button("Mask", "download the mask: NIfTI, or .seg.nrrd if objects overlap", () => command("download", { what: "mask" })),
    seg: button("SEG", "download the mask as DICOM SEG", () => command("download", { what: "seg" })),
    rtstruct: button("RTSTRUCT", "download contours as DICOM RTSTRUCT", () => command("download", { what: "rtstruct" })),
    journal: button("Journal", "download the prompts as JSON", () => command("download", { what: "journal" })),
    report: button("Report", "download a page to print or archive: pictures, numbers, every prompt (HTML)",
      () => command("download", { what: "report" })),
    table: button("Table", "download the numbers of all objects as CSV", () => command("download", { what: "table" })),
  };
  const chooser = (accept, act) => h("input", { type: "file", accept, hidden: true,
    onchange: async (event) => { const [file] = event.target.files; event.target.value = ""; if (file) await act(file); } });
  const chooseJournal = chooser(".json", async (file) => command("load_text", { text: await file.text() }));
  const chooseMask = chooser(".nii,.gz,.nrrd,.dcm", loadMask);
  const load = button("Load journal\u2026", "give the prompts of a journal again", () => chooseJournal.click());
  const choice = (label, title, trait, options, read = String) => {
    const element = h("select", { "aria-label": label, title, onchange: () => set(trait, read(element.value)) },
      ...Object.entries(options).map(([value, words]) => h("option", { value }, words)));
    return { element, show: () => { element.value = [].concat(model.get(trait)).join(" "); } };
  };
  const words = { ...METHODS, session: scan.method };
  const method = choice("method", "what draws the mask of a prompt (Shift+M): the network, or a threshold", "method", words);
  const sphere = choice("diameter of the sphere", "diameter of the sphere", "sphere_mm", SPHERES, Number);
  const start = button("Start from mask\u2026", "objects from a NIfTI, .seg.nrrd or DICOM file, to be corrected", () => chooseMask.click());
  const uncertain = h("input", { type: "checkbox", onchange: () => command("show_uncertainty", { shown: uncertain.checked }) });
  const uncertainty = h("label", { class: "sap-check" }, uncertain,
    h("span", { class: "sap-violet", "aria-hidden": "true" }, "\u25a0"), "uncertain (violet)");
  const bare = h("input", { type: "checkbox", onchange: () => set("bare", bare.checked) });

  // ---- how it looks
  const range = (label, [min, max, by], read, write) => {
    const limits = { min: String(min), max: String(max), step: String(by) };
    const input = h("input", { type: "range", ...limits, "aria-label": label });
    const output = h("span", { class: "sap-value" });
    input.addEventListener("input", () => write(Number(input.value)));
    const show = () => {
      input.value = read();
      output.textContent = read().toFixed(by < 1 ? (by < 0.1 ? 2 : 1) : 0);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    return { row: h("label", { class: "sap-range" }, h("span", {}, label), input, output), show };
  };
  const top = Math.max(scan.pet.high, model.get("intensity_range")[1]); // of a faint scan the window's end lies beyond
  const span = top - scan.pet.low;
  const byOne = isCT || span > 1000 ? 1 : 0.1;
  const shown = () => model.get("intensity_range");
  const brush = range("brush mm", [0, 30, 0.5], () => model.get("brush_mm"), (x) => set("brush_mm", x));
  const ranges = [
    range(`${unit} from`, [scan.pet.low, top, byOne], () => shown()[0],
      (x) => set("intensity_range", [Math.min(x, shown()[1] - byOne), shown()[1]])),
    range(`${unit} to`, [scan.pet.low, top, byOne], () => shown()[1],
      (x) => set("intensity_range", [shown()[0], Math.max(x, shown()[0] + byOne)])),
    range("mask", [0, 1, 0.05], () => model.get("opacity"), (x) => set("opacity", x)),
    range("zoom", [1, 10, 0.25], () => model.get("zoom"), (x) => set("zoom", x)),
    ...(scan.ct ? [range("PET to CT", [0, 1, 0.05], () => model.get("blend"), (x) => set("blend", x))] : []),
  ];
  const presets = PRESETS[scan.unit] ?? [];
  const preset = h("select", { "aria-label": "intensity preset", title: "window presets (Shift+W)", onchange: () => {
    if (preset.value) set("intensity_range", JSON.parse(preset.value));
    preset.value = "";
  } }, h("option", { value: "" }, "preset\u2026"), ...presets.map((pair) =>
    h("option", { value: JSON.stringify(pair) }, `${unit} ${pair.join(" to ")}`)));
  const nextPreset = () => {
    const at = presets.findIndex((pair) => String(pair) === String(shown()));
    if (presets.length) set("intensity_range", presets[(at + 1) % presets.length]);
  };
  const colours = choice("colour map", "colours of the PET (c)", "colour_map", COLOUR_MAP_NAMES);
  const windows = Object.fromEntries(Object.entries(CT_WINDOWS).map(([name, pair]) => [pair.join(" "), `CT: ${name}`]));
  const ctWindow = choice("window of the CT", "intensities of the CT, in HU", "ct_range", windows, (text) => text.split(" ").map(Number));
  const next = (trait, options) => set(trait, neighbour(Object.keys(options), model.get(trait), 1));
  const bar = h("canvas", { width: 128, height: 1, class: "sap-colourbar" });
  const [barLow, barHigh] = [h("span", {}), h("span", {})];
  const showBar = () => {
    const context = bar.getContext("2d");
    const fused = scan.ct && model.get("blend") > 0;
    const map = COLOUR_MAPS[isCT ? "bright" : model.get("colour_map")];
    for (let x = 0; x < 128; x++) {
      context.fillStyle = `rgb(${(fused ? fusedColour(x / 127, 0).colour : map(x / 127)).join(" ")})`;
      context.fillRect(x, 0, 1, 1);
    }
    [barLow.textContent, barHigh.textContent] = shown().map((x) => String(Number(x.toFixed(1))));
  };

  // ---- words
  const counter = h("span", { class: "sap-counter" });
  const status = h("div", { class: "sap-status", role: "status", "aria-live": "polite" });
  const error = h("div", { class: "sap-error", role: "alert" });
  const busy = h("span", { class: "sap-busy" });
  const showEnabled = () => keepFocus(body, () => {
    const enabled = model.get("enabled");
    buttons.undo.disabled = !enabled.undo;
    buttons.redo.disabled = !enabled.redo;
    buttons.save.hidden = !enabled.save;
    uncertainty.hidden = !enabled.uncertainty;
    for (const name of ["seg", "rtstruct"]) buttons[name].hidden = !enabled.dicom;
    for (const name of ["reset", "save", "mask", "journal", "report", "reading", "fill", "largest"]) buttons[name].disabled = !enabled.export;
    buttons.table.disabled = !enabled.numbers;
    for (const name of ["spot", "propose"]) buttons[name].hidden = !enabled.suv;
    method.element.hidden = !enabled.methods;
    for (const { value, input, label } of tools) {
      input.disabled = !enabled.tools.includes(value);
      label.classList.toggle("sap-off", input.disabled);
    }
    buttons.propose.disabled = start.disabled = !enabled.tools.includes("brush");
  });
  const showTool = () => {
    const chosen = { tool: model.get("tool"), sign: String(model.get("foreground")) };
    for (const [kind, all] of [["tool", tools], ["sign", signs]]) {
      for (const { value, input, label } of all) {
        input.checked = value === chosen[kind];
        label.classList.toggle("sap-on", input.checked);
      }
    }
    // What has a size has no sign.
    const how = { brush: brush.row, eraser: brush.row, sphere: sphere.element }[chosen.tool] ?? sign;
    for (const one of [sign, brush.row, sphere.element]) one.classList.toggle("sap-away", one !== how);
    for (const { show } of [method, sphere]) show();
    bare.checked = model.get("bare");
  };
  const showRanges = () => {
    [...ranges, brush].forEach(({ show }) => show());
    for (const { show } of [colours, ctWindow]) show();
    ctWindow.element.hidden = !scan.ct || model.get("blend") === 0;
    showBar();
  };
  const showWords = () => {
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    error.classList.toggle("sap-note", model.get("error").startsWith("Note: "));
    const { clicks, total, seconds } = model.get("effort");
    const all = total === clicks ? "" : ` of ${total}`;
    counter.textContent = `${clicks}${all} ${total === 1 ? "prompt" : "prompts"}, ${Math.round(seconds)} s`;
    uncertain.checked = Boolean(model.get("uncertainty").shown);
  };
  // `since`: when the oldest message that awaits an answer was sent; null if none does.
  const showBusy = (since) => {
    const late = since !== null && performance.now() - since > PATIENCE_MS;
    busy.textContent = since === null ? "" : "working\u2026";
    body.setAttribute("aria-busy", String(since !== null));
    return late;
  };

  const above = h("div", { class: "sap-above" },
    h("div", { class: "sap-bar" },
      h("span", { role: "radiogroup", "aria-label": "tool", class: "sap-choice" }, ...tools.map(({ label }) => label)),
      h("span", { class: "sap-how" }, sign, brush.row, sphere.element),
      method.element, h("span", { class: "sap-group" }, buttons.undo, buttons.redo), busy),
    h("div", { class: "sap-bar" }, buttons.reading, buttons.spot, buttons.propose, start, chooseMask, buttons.fill,
      buttons.largest, buttons.reset, uncertainty, h("label", { class: "sap-check", title: "hide masks, marks and crosshair (h)" }, bare, "bare")));
  const add = button("Add object", "the next prompt begins another object (a)", () => command("add"));
  const below = [
    error, // below the pictures: above, it would move them under the mouse
    h("div", { class: "sap-bar" },
      h("span", { class: "sap-legend", title: "what the colours mean" }, unit, barLow, bar, barHigh),
      isCT ? "" : colours.element, preset, ctWindow.element),
    h("div", { class: "sap-ranges" }, ...ranges.map(({ row }) => row)),
    h("div", { class: "sap-bar" },
      buttons.save, h("span", { class: "sap-group" }, "Download:", buttons.mask, buttons.seg, buttons.rtstruct, buttons.journal,
        buttons.table, buttons.report), load, chooseJournal, counter, status),
  ];
  for (const show of [showEnabled, showTool, showRanges, showWords]) show();
  return {
    above, add, below, showEnabled, showTool, showRanges, showWords, showBusy, nextPreset,
    nextColours: () => next("colour_map", COLOUR_MAP_NAMES),
    nextMethod: () => { if (model.get("enabled").methods) next("method", METHODS); },
  };
}
