// The view of RotatingMip: pictures from all around, as 8-bit codes, computed beforehand. Half a turn is stored; from
// behind one sees the mirror image.

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const FRAME_MS = 70; // a turn of 72 pictures takes five seconds
const TALLEST_PX = 520;
const NARROWEST_PX = 260; // slider and button need it
const TINT = 0.25;

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const { mips, marks, shape: [half, rows, columns], size_mm: [wide, tall], colours, ...scene } = model.get("scene");
  const pictures = bytes(mips);
  const overlays = marks.byteLength ? bytes(marks) : null;
  const step = 180 / half;
  const colour = colours.map(rgb);
  const ink = scene.dark_when_high ? "black" : "white";
  let timer = null;

  const small = h("canvas", { width: columns, height: rows });
  const canvas = h("canvas", { tabindex: 0, role: "img",
    style: `display: block; width: 100%; aspect-ratio: ${wide} / ${tall}; cursor: ew-resize; touch-action: pan-y` });
  const slider = h("input", { type: "range", min: 0, max: 360 - step, step, "aria-label": "angle", style: "flex: 1",
    oninput: () => turnTo(Number(slider.value)), onchange: () => model.save_changes() });
  const play = h("button", { type: "button", onclick: () => (timer ? pause() : start()) });
  const degrees = h("output", { style: "min-width: 3em; text-align: right; font-variant-numeric: tabular-nums" });
  const legend = h("div", { style: "display: flex; flex-wrap: wrap; gap: 2px 12px" }, ...scene.legend.map((entry) =>
    h("span", {}, h("span", { style: `color: ${entry.colour}`, "aria-hidden": "true" }, "\u25a0 "), entry.name)));

  // Other views of the model follow at once; the kernel hears of it when the turn is over.
  const turnTo = (angle) => model.set("angle", ((Math.round(angle) % 360) + 360) % 360);
  const start = () => {
    timer = setInterval(() => turnTo(model.get("angle") + step), FRAME_MS);
    showPlay();
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    showPlay();
    model.save_changes();
  };
  const showPlay = () => {
    play.textContent = timer ? "\u23f8 Pause" : "\u25b6 Play";
  };

  const draw = () => {
    const index = Math.round(model.get("angle") / step) % (2 * half);
    const mirrored = index >= half;
    const first = (index % half) * rows * columns;
    const context = small.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let at = 0; at < rows * columns; at++) {
      const from = first + (mirrored ? at - 2 * (at % columns) + columns - 1 : at);
      const grey = scene.dark_when_high ? 255 - pictures[from] : pictures[from];
      const mark = overlays ? overlays[from] : 0; // 2n - 1 inside, 2n on the outline
      const share = mark === 0 ? 0 : mark % 2 ? TINT : 1;
      for (let channel = 0; channel < 3; channel++) {
        const over = mark ? colour[(mark - 1) >> 1][channel] : 0;
        image.data[4 * at + channel] = grey * (1 - share) + over * share;
      }
      image.data[4 * at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const big = canvas.getContext("2d");
    big.drawImage(small, 0, 0, canvas.width, canvas.height);
    const at = Math.round((index * step) / 45);
    const [left, right] = [scene.directions[at % 8], scene.directions[(at + 4) % 8]];
    Object.assign(big, { fillStyle: ink, font: `${13 * ratio}px sans-serif` });
    big.fillText(left, 5 * ratio, canvas.height / 2);
    big.textAlign = "right";
    big.fillText(right, canvas.width - 5 * ratio, canvas.height / 2);
    slider.value = index * step;
    degrees.textContent = `${index * step}\u00b0`;
    slider.setAttribute("aria-valuetext", `${index * step} degrees, ${left} at the left`);
    canvas.setAttribute("aria-label", `maximum intensity projection at ${index * step} degrees; arrow keys turn it`);
  };

  // The front of the patient follows the mouse: half a turn is one width.
  let grabbed = null;
  canvas.addEventListener("pointerdown", (event) => {
    grabbed = [event.clientX, model.get("angle")];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (grabbed) turnTo(grabbed[1] - ((event.clientX - grabbed[0]) / canvas.clientWidth) * 180);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => { grabbed = null; model.save_changes(); });
  }
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: step, ArrowRight: -step }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the notebook would move to another cell
    turnTo(model.get("angle") + by);
    model.save_changes();
  });

  const group = h("div", { role: "group", "aria-label": "rotating maximum intensity projection",
    "data-lm-suppress-shortcuts": "true", // keys pressed in here are not the notebook's
    style: `font: 13px/1.5 sans-serif; color: #222; background: #fff; padding: 6px; box-sizing: border-box;
      width: ${Math.max(NARROWEST_PX, (TALLEST_PX * wide) / tall) + 12}px; max-width: 100%` },
  canvas, h("div", { style: "display: flex; align-items: center; gap: 8px; margin: 6px 0 2px" }, play, slider, degrees),
  legend);
  el.append(group);
  const resized = new ResizeObserver(draw); // also draws first, as soon as the canvas has a size
  resized.observe(canvas);
  model.on("change:angle", draw);
  showPlay();
  return () => {
    clearInterval(timer);
    resized.disconnect();
    model.off("change:angle", draw);
  };
}

export default { render };
