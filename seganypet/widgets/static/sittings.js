// Journals that this browser keeps: a reloaded page, a restarted kernel, a closed browser lose nothing. At most
// `KEPT` scans; of each the sitting at hand and up to `EARLIER` that nobody continued.

const PREFIX = "seganypet-sitting-";
const KEPT = 30;
const EARLIER = 3;

const promptsOf = (text) => {
  try {
    const { prompts, clicks } = JSON.parse(text);
    return prompts ?? clicks ?? [];
  } catch {
    return [];
  }
};
const samePrompts = (one, other) => JSON.stringify(promptsOf(one)) === JSON.stringify(promptsOf(other));
// Whether a journal begins with all prompts of an earlier one: it was continued.
const holds = (text, earlier) => {
  const before = promptsOf(earlier);
  return JSON.stringify(promptsOf(text).slice(0, before.length)) === JSON.stringify(before);
};

// What a journal holds, in words.
function described(text) {
  const prompts = promptsOf(text);
  const names = [...new Set(prompts.map((prompt) => prompt.object))];
  const some = names.slice(0, 4).join(", ") + (names.length > 4 ? `, and ${names.length - 4} more` : "");
  return `${prompts.length} ${prompts.length === 1 ? "prompt" : "prompts"} on ${some}`;
}

// `storage`: localStorage, or something like it; one that throws (private windows) keeps nothing.
function createSittings(storage, key, now = () => Date.now()) {
  const name = PREFIX + key;
  const read = () => {
    try { return JSON.parse(storage.getItem(name)) ?? { earlier: [] }; } catch { return { earlier: [] }; }
  };
  const write = (kept) => {
    try {
      if (!kept.text && !kept.earlier.length) { storage.removeItem(name); return true; }
      storage.setItem(name, JSON.stringify(kept));
      const all = Object.keys(storage).filter((one) => one.startsWith(PREFIX));
      const age = (one) => JSON.parse(storage.getItem(one)).time ?? 0;
      for (const old of all.sort((a, b) => age(b) - age(a)).slice(KEPT)) storage.removeItem(old);
      return true;
    } catch {
      return false; // full, or forbidden
    }
  };
  return {
    // Called once, with the session's journal: what was kept and is not in it becomes an earlier sitting.
    begin: (text) => {
      const kept = read();
      if (kept.text && !samePrompts(kept.text, text)) {
        kept.earlier = [{ text: kept.text, time: kept.time }, ...kept.earlier].slice(0, EARLIER);
      }
      kept.earlier = kept.earlier.filter((one) => !samePrompts(one.text, text));
      write({ ...kept, text, time: now() });
    },
    // What was taken back last stays kept, so an empty journal changes nothing. What is continued is no longer earlier.
    keep: (text) => {
      if (!text) return true;
      return write({ text, time: now(), earlier: read().earlier.filter((one) => !holds(text, one.text)) });
    },
    earlier: () => read().earlier,
    forget: (text) => {
      const kept = read();
      write({ ...kept, earlier: kept.earlier.filter((one) => !samePrompts(one.text, text)) });
    },
  };
}
