// How near the active object comes to its truth: the DSC, the goal, and a curve over the prompts so far.

function createScore(model) {
  const [width, height] = [150, 36];
  const words = h("span", { role: "status", "aria-label": "score" });
  const picture = h("span", {});
  const score = h("div", { class: "sap-bar sap-score" }, words, picture);
  const show = () => {
    const { name, goal, curve } = model.get("score");
    score.hidden = !curve;
    if (!curve) return;
    const dsc = curve.at(-1);
    const reached = dsc >= goal ? " \u2713 goal reached" : "";
    words.textContent = curve.length
      ? `${name}: DSC ${dsc.toFixed(2)} after ${curve.length} step${curve.length === 1 ? "" : "s"}, goal ${goal.toFixed(2)}${reached}`
      : `${name}: reach DSC ${goal.toFixed(2)} in as few clicks as you can`;
    const across = (step) => 4 + (step * (width - 8)) / Math.max(curve.length - 1, 1);
    const up = (value) => height - 3 - value * (height - 6);
    const points = curve.map((value, step) => `${across(step)},${up(value)}`);
    const dots = points.map((at) => `<circle cx="${at.split(",")[0]}" cy="${at.split(",")[1]}" r="2.5" fill="currentColor"/>`);
    picture.innerHTML = curve.length ? `<svg width="${width}" height="${height}" aria-hidden="true">
      <line x1="0" x2="${width}" y1="${up(goal)}" y2="${up(goal)}" stroke="currentColor" stroke-dasharray="3 3"/>
      <polyline points="${points.join(" ")}" fill="none" stroke="currentColor"/>${dots.join("")}</svg>` : "";
  };
  return { score, show };
}
