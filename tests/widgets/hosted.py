"""A ClickWidget of this process on a plain page: what JupyterLab does for it, in fifty lines, for tests of the view.

The page's model asks Python through an exposed function and gets back what changed and what was sent.
"""

import base64
import json
from typing import Any

from playwright.sync_api import BrowserContext, Page

PAGE = """
<!doctype html><meta charset="utf-8"><style>body { margin: 8px; %(theme)s } %(css)s</style>
<body data-jp-theme-light="%(light)s"><div id="here"></div>
<script type="module">
const revived = (value) => {
  if (Array.isArray(value)) return value.map(revived);
  if (!value || typeof value !== "object") return value;
  if ("__bytes" in value) return new DataView(Uint8Array.from(atob(value.__bytes), (c) => c.charCodeAt(0)).buffer);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, revived(one)]));
};
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const { state, esm } = revived(JSON.parse(await window.askPython(JSON.stringify({ start: true }))));
const listeners = [];
const tell = (event, ...what) => {
  for (const [name, act] of [...listeners]) if (name === event) act(...what);
};
window.take = (answer) => {
  const { changes, sent } = revived(JSON.parse(answer));
  const changed = Object.keys(changes).filter((name) => name === "objects" || !same(changes[name], state[name]));
  for (const name of changed) state[name] = changes[name];
  for (const name of changed) tell(`change:${name}`);
  for (const [content, buffers] of sent) tell("msg:custom", content, buffers);
};
let alive = true;
window.kill = () => { alive = false; };
const ask = async (what) => {
  if (!alive) throw new Error("Cannot send");
  window.take(await window.askPython(JSON.stringify(what)));
};
const encoded = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const changed = {};
window.model = {
  get: (name) => state[name],
  set: (name, value) => {
    if (same(state[name], value)) return;
    state[name] = changed[name] = value;
    tell(`change:${name}`);
  },
  save_changes: () => {
    if (!alive) throw new Error("Cannot send");
    const set = { ...changed };
    for (const name in changed) delete changed[name];
    ask({ set });
  },
  send: (content, _, buffers = []) => {
    if (!alive) throw new Error("Cannot send");
    ask({ content, buffers: buffers.map(encoded) });
  },
  on: (name, act) => listeners.push([name, act]),
  off: (name, act) => {
    const at = listeners.findIndex(([one, other]) => one === name && other === act);
    if (at >= 0) listeners.splice(at, 1);
  },
};
const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
module.default.render({ model: window.model, el: document.getElementById("here") });
document.body.dataset.ready = "yes";
</script>
"""


class Hosted:
    """A widget on a page.

    Attributes:
        page: The page.
        log: Names of the calls that the browser made, oldest first.
    """

    def __init__(self, widget: Any, context: BrowserContext, dark: bool = False):
        self.widget, self.log = widget, []
        self._sent: list = []
        self._known: dict[str, str] = {}  # what the page knows of each trait
        widget.send = lambda content, buffers=(): self._sent.append([content, list(buffers)])
        self.page: Page = context.new_page()
        self.page.expose_function("askPython", self._answer)
        theme = "--jp-layout-color1: #111; --jp-layout-color2: #222; --jp-ui-font-color1: #eee; background: #111" * dark
        content = PAGE % {"theme": theme, "css": widget._css, "light": str(not dark).lower()}
        hosted = "http://127.0.0.1/hosted"
        self.page.route(hosted, lambda route: route.fulfill(body=content, content_type="text/html"))
        self.open()

    def open(self) -> None:
        """Open the page, or open it again."""
        self.page.goto("http://127.0.0.1/hosted")
        self.page.wait_for_selector("body[data-ready]", state="attached")
        self.page.wait_for_function("document.querySelector('.sap-loading').hidden")

    def push(self) -> None:
        """Tell the page what code changed in the widget."""
        self.page.evaluate("(answer) => window.take(answer)", self._changes())

    def _answer(self, text: str) -> str:
        asked = json.loads(text)
        if "start" in asked:
            self._known = {name: dumped(value) for name, value in self._state().items()}
            return dumped({"state": self._state(), "esm": self.widget._esm})
        if "set" in asked:
            for name, value in asked["set"].items():
                self.widget.set_trait(name, value)
                self._known[name] = dumped(value)  # what the page said itself is not told back to it
            return self._changes()
        self.log.append(asked["content"]["call"])
        buffers = [memoryview(base64.b64decode(one)) for one in asked["buffers"]]
        self.widget._handle_custom_msg(asked["content"], buffers)
        return self._changes()

    def _state(self) -> dict[str, Any]:
        left_out = ("comm", "layout", "tabbable", "tooltip", "keys")
        names = [name for name in self.widget.traits(sync=True) if not name.startswith("_") and name not in left_out]
        return {name: getattr(self.widget, name) for name in names}

    def _changes(self) -> str:
        sent, self._sent = self._sent, []
        now = {name: dumped(value) for name, value in self._state().items()}
        new = [name for name, text in now.items() if text != self._known.get(name)]
        self._known = now
        return dumped({"changes": {name: getattr(self.widget, name) for name in new}, "sent": sent})


def dumped(value: Any) -> str:
    return json.dumps(value, default=lambda one: {"__bytes": base64.b64encode(bytes(one)).decode()}
                      if isinstance(one, bytes | memoryview) else None)  # fmt: skip
