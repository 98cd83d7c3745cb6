// The view of UploadWidget: sends a file in pieces, the next one when the one before was answered, so that neither the
// server's limit for messages nor its memory is met by a large file. app.py describes the messages.

const PATIENCE_MS = 3000; // then say that the kernel does not answer

const UNITS = { SUVbw: "SUVbw, of a PET", HU: "HU, of the open PET's CT" };
const megabytes = (count) => `${(count / 1e6).toPrecision(3)} MB`;

function render({ model, el }) {
  let ticket = null; // of the upload under way
  let answered = null; // what to call with the answer to the last message

  const say = (error) => { model.set("error", error); model.save_changes(); };
  const hear = (message) => { if (message.ticket === ticket && answered) answered(message); };
  const ask = (content, buffers = []) => new Promise((resolve) => {
    const late = setTimeout(() => { count.textContent = "no answer yet: is the kernel busy or stopped?"; }, PATIENCE_MS);
    answered = (message) => { clearTimeout(late); answered = null; resolve(message); };
    model.send({ ticket, ...content }, undefined, buffers);
  });
  const cancel = () => {
    if (ticket === null) return;
    model.send({ ticket, upload: "cancel" });
    if (answered) answered({ failed: true });
  };

  async function upload(file) {
    if (file.size > model.get("limit")) {
      say(`${file.name} has ${megabytes(file.size)}; this app takes up to ${megabytes(model.get("limit"))}. `
        + "Compress it (.nii.gz, .zip), crop it, or leave out series.");
      return;
    }
    ticket = `${Date.now()}-${Math.random()}`;
    show();
    try {
      let answer = await ask({ upload: "begin", name: file.name, size: file.size, unit: unit.value });
      while (!answer.failed && !answer.done) {
        const at = answer.received;
        bar.value = at / file.size;
        count.textContent = `${megabytes(at)} of ${megabytes(file.size)}`;
        const bytes = await file.slice(at, at + model.get("piece")).arrayBuffer();
        answer = await ask({ upload: "piece", at }, [bytes]);
      }
    } catch (error) {
      cancel();
      say(`${file.name} cannot be read: ${error.message}`); // moved, changed or locked since it was chosen
    }
    ticket = null;
    unit.value = ""; // the next file may be in another unit
    show();
  }

  // ---- controls
  const unit = h("select", { "aria-label": "unit of the voxels", onchange: () => show() },
    h("option", { value: "" }, "unit of its voxels\u2026"),
    ...model.get("units").map((name) => h("option", { value: name }, UNITS[name] ?? name)));
  const chooser = (attributes, take) => {
    const input = h("input", { type: "file", hidden: true, ...attributes, onchange: async () => {
      const files = [...input.files];
      input.value = "";
      try {
        if (files.length) await upload(await take(files));
      } catch (error) {
        say(`${files[0].name} cannot be read: ${error.message}`);
      }
    } });
    return input;
  };
  const button = (words, title, input) => h("button", { type: "button", title, onclick: () => input.click() }, words);
  const nifti = chooser({ accept: ".nii,.gz" }, ([file]) => file);
  const zip = chooser({ accept: ".zip" }, ([file]) => file);
  const folder = chooser({ webkitdirectory: "", multiple: true }, zipped);
  const choose = button("NIfTI\u2026", "", nifti);
  const dicom = [
    button("DICOM folder\u2026", "a PET, and its CT if it is there, too", folder),
    button("DICOM zip\u2026", "a ZIP archive of such a folder", zip),
  ];
  const stop = h("button", { type: "button", onclick: cancel }, "Cancel");
  const bar = h("progress", { max: "1", "aria-label": "uploaded" });
  const count = h("span", { class: "sap-counter" });
  const status = h("span", { class: "sap-status", role: "status", "aria-live": "polite" });
  const error = h("div", { class: "sap-error", role: "alert" });

  const why = h("span", { class: "sap-status", role: "status" });
  const show = () => {
    const busy = ticket !== null;
    const taken = model.get("accepted").includes(unit.value);
    unit.disabled = busy;
    choose.disabled = busy || !taken;
    for (const one of dicom) one.disabled = busy;
    choose.title = unit.value === "" ? "first say the unit: a NIfTI file does not hold it" : "";
    why.textContent = taken || unit.value === "" ? "" : "The networks here take SUVbw only: "
      + "what a voxel holds, divided by the injected dose for each gram of the patient. Convert the file first, or export "
      + "SUV from your workstation.";
    for (const element of [stop, bar, count]) element.hidden = !busy;
    if (!busy) { bar.value = 0; count.textContent = ""; }
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
  };
  el.append(h("div", { class: "sap-click sap-upload", role: "group", "aria-label": "own scan" },
    h("div", { class: "sap-bar" },
      h("span", {}, `Own scan, up to ${megabytes(model.get("limit"))}:`), ...dicom, folder, zip, h("span", {}, "or"), unit, choose,
      nifti, bar, count, stop, why, status),
    error));
  model.on("change:error change:status", show);
  model.on("msg:custom", hear);
  show();
  return () => {
    cancel();
    model.off("change:error change:status", show);
    model.off("msg:custom", hear);
  };
}

export default { render };
