// The controls of ClickWidget: buttons, sliders, the list of objects, the table, and words.

const TOOLS = { foreground: "+ this", background: "\u2212 not this", look: "look" };
const PATIENCE_MS = 3000; // then say that the kernel does not answer

// `body` is the element that holds all; `act` holds set(trait, value) and command(call, fields).
function createControls(model, body, { set, command }) {
  const scan = model.get("scan");
  const unit = scan.unit === "SUVbw" ? "SUV" : scan.unit;
  const isCT = scan.unit === "HU";
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
  const uncertain = h("input", {
    type: "checkbox", onchange: () => command("show_uncertainty", { shown: uncertain.checked }),
  });
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
  const shown = () => model.get("intensity_range");
  const ranges = [
    range(`${unit} from`, [scan.pet.low, scan.pet.high, byOne], () => shown()[0],
      (x) => set("intensity_range", [Math.min(x, shown()[1] - byOne), shown()[1]])),
    range(`${unit} to`, [scan.pet.low, scan.pet.high, byOne], () => shown()[1],
      (x) => set("intensity_range", [shown()[0], Math.max(x, shown()[0] + byOne)])),
    range("mask", [0, 1, 0.05], () => model.get("opacity"), (x) => set("opacity", x)),
    range("zoom", [1, 10, 0.25], () => model.get("zoom"), (x) => set("zoom", x)),
    ...(scan.ct ? [range("PET to CT", [0, 1, 0.05], () => model.get("blend"), (x) => set("blend", x))] : []),
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
  const showEnabled = () => keepFocus(() => {
    const enabled = model.get("enabled");
    buttons.undo.disabled = !enabled.undo;
    buttons.redo.disabled = !enabled.redo;
    buttons.save.hidden = !enabled.save;
    uncertain.parentElement.hidden = !enabled.uncertainty;
    for (const name of ["reset", "save", "mask", "journal"]) buttons[name].disabled = !enabled.export;
    buttons.table.disabled = !enabled.numbers;
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
    uncertain.checked = Boolean(model.get("uncertainty").shown);
  };
  // `since`: when the oldest message that awaits an answer was sent; null if none does.
  const showBusy = (since) => {
    const late = since !== null && performance.now() - since > PATIENCE_MS;
    const words = late ? "no answer yet: is the kernel busy or stopped?" : "working\u2026";
    busy.textContent = since === null ? "" : words;
    body.setAttribute("aria-busy", String(since !== null));
    return late;
  };

  // Two bars above and below the pictures, the panel beside them.
  const uncertainty = h("label", { title: "violet: the network is uncertain, up to 1 bit of entropy" },
    uncertain, "uncertainty");
  const above = h("div", { class: "sap-bar" },
    h("span", { role: "radiogroup", "aria-label": "what a click says (x, v)" }, ...tools.map(({ label }) => label)),
    buttons.undo, buttons.redo, buttons.reset, uncertainty, counter, busy);
  const panel = h("div", { class: "sap-panel" }, list,
    button("Add object", "the next click begins another object", () => command("add")), table);
  const below = [
    error, // below the pictures: above, it would move them under the mouse
    h("div", { class: "sap-bar" }, ...ranges.map(({ row }) => row)),
    h("div", { class: "sap-bar" },
      buttons.save, "Download:", buttons.mask, buttons.journal, buttons.table, load, chooser, status),
  ];
  for (const show of [showObjects, showTable, showEnabled, showTool, showRanges, showWords]) show();
  return { above, panel, below, showObjects, showTable, showEnabled, showTool, showRanges, showWords, showBusy };
}
