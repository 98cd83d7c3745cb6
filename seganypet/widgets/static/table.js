// The list of objects with their numbers, and a sum; and all numbers of the active one.

// `act`: command(call, fields).
function createTable(model, body, { command }) {
  const group = Math.random(); // radio buttons of one name exclude each other, on the whole page
  const list = h("tbody", {});
  const sum = h("tfoot", {});
  const hasSUV = model.get("scan").unit === "SUVbw";
  const head = ["", "", "object", "mL", ...(hasSUV ? ["SUVmax"] : []), "", "", ""];
  const objects = h("div", { class: "sap-objects" }, h("table", { "aria-label": "objects" },
    h("thead", {}, h("tr", {}, ...head.map((title) => h(title ? "th" : "td", title ? { scope: "col" } : {}, title)))),
    list, sum));
  const numbers = h("dl", { class: "sap-numbers", "aria-label": "numbers of the active object" });
  const hint = h("p", { class: "sap-hint" }, "Nothing is outlined yet. Click what you mean in a slice",
    hasSUV ? "; or go to the next hot spot, or let the organs be proposed." : ".");
  const shown = (value) => (value === null || value === undefined ? "" : digits(value));

  const button = (name, title, act) => h("button", { type: "button", class: "sap-quiet", title, "aria-label": title,
    onclick: act }, icon(name));
  const isTyping = () => list.contains(document.activeElement) && document.activeElement.type === "text";
  let isOld = false;
  list.addEventListener("focusout", () => setTimeout(() => { if (isOld) show(); }));
  const row = ({ name, colour, hidden, locked, ml }, measured) => h("tr", {
    class: name === model.get("active") ? "sap-active" : "",
    onclick: ({ target }) => { if (target.tagName === "TD" && name !== model.get("active")) command("select", { name }); },
  },
    h("td", {}, h("input", { type: "radio", name: `active-${group}`, checked: name === model.get("active"),
      "aria-label": `click on ${name}`, onchange: () => command("select", { name }) })),
    h("td", {}, h("input", { type: "color", value: colour, "aria-label": `colour of ${name}`,
      onchange: (event) => command("recolour", { name, colour: event.target.value }) })),
    h("td", { class: "sap-name" }, h("input", { type: "text", value: name, title: name, "aria-label": `name of ${name}`,
      onchange: (event) => command("rename", { old: name, new: event.target.value }) })),
    h("td", {}, shown(ml)),
    ...(hasSUV ? [h("td", {}, shown(measured?.SUVmax))] : []),
    h("td", {}, button(hidden ? "hidden" : "look", `${hidden ? "show" : "hide"} ${name}`,
      () => command("hide", { name, hidden: !hidden }))),
    h("td", {}, button(locked ? "locked" : "unlocked", `${locked ? "unlock" : "lock"} ${name}`,
      () => command("lock", { name, locked: !locked }))),
    h("td", {}, button("remove", `remove ${name}`, () => command("remove", { name }))));

  const show = () => {
    isOld = isTyping();
    if (isOld) return; // an answer must not take the name away that somebody types
    const measured = Object.fromEntries(model.get("rows").map((one) => [one.name, one]));
    keepFocus(body, () => list.replaceChildren(...model.get("objects").map((one) => row(one, measured[one.name]))));
    const all = model.get("all_objects");
    const several = model.get("rows").length > 1 && all.MTV;
    const overlap = all.overlap_ml ? `; ${digits(all.overlap_ml)} mL belong to several, and count once` : "";
    sum.replaceChildren(...(several ? [h("tr", { title: `all objects together${overlap}` }, h("td", {}), h("td", {}),
      h("th", { scope: "row" }, all.overlap_ml ? "all (overlap)" : "all"), h("td", {}, shown(all.MTV)),
      ...(hasSUV ? [h("td", {}, shown(all.SUVmax))] : []), h("td", {}), h("td", {}), h("td", {}))] : []));
    hint.hidden = model.get("objects").some(({ bits }) => bits);
    const one = measured[model.get("active")];
    const parts = hasSUV && one?.MTV
      ? [["SUVmax", ""], ["SUVmean", ""], ["SUVpeak", ""], ["MTV", "mL"], ["TLG", "g"]].filter(([key]) => one[key] !== null) : [];
    numbers.replaceChildren(...parts.map(([key, unit]) => h("div", {}, h("dt", {}, key), h("dd", {}, `${shown(one[key])} ${unit}`))),
      ...(several && all.TLG !== null ? [h("div", {}, h("dt", {}, "TLG of all"), h("dd", {}, `${shown(all.TLG)} g`))] : []));
    const active = list.querySelector(".sap-active");
    if (active) objects.scrollTop = active.offsetTop - objects.clientHeight / 2; // always in sight
  };
  return { objects, hint, numbers, show };
}

// Keys must go on working when the button that was pressed is gone or grey.
function keepFocus(body, act) {
  const had = body.contains(document.activeElement);
  act();
  const lost = !body.contains(document.activeElement) || document.activeElement.disabled;
  if (had && lost) body.focus({ preventScroll: true });
}
