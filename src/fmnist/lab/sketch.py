"""Two things a notebook lacks, as small widgets: a canvas to draw on, 28 × 28 pixels, and a button that copies text."""

import anywidget
import numpy as np
import traitlets

SIDE = 28


class Sketch(anywidget.AnyWidget):
    """A canvas to draw on with mouse, pen or finger; `pixels` are its 28 × 28 bytes (0 background, 255 ink), both ways.

    The brush is soft and about two pixels wide; the second mouse button, or Shift, rubs out.
    """

    pixels = traitlets.Bytes(bytes(SIDE * SIDE)).tag(
        sync=True,
        from_json=lambda value, _: bytes(value),  # it arrives as a memoryview
    )

    _esm = """
    const N = 28, ZOOM = 8;
    function render({ model, el }) {
      const canvas = document.createElement("canvas"), clear = document.createElement("button");
      canvas.width = canvas.height = N * ZOOM;
      canvas.className = "fmnist-sketch";
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", "Canvas of 28 × 28 pixels to draw on");
      clear.textContent = "Clear";
      clear.className = "jupyter-button fmnist-clear";
      el.append(canvas, clear);
      const paper = canvas.getContext("2d");
      let ink = new Float32Array(N * N), last = null, sending = null;

      function paint() {
        for (let i = 0; i < N * N; i++) {
          const grey = 255 - Math.round(ink[i]);
          paper.fillStyle = `rgb(${grey},${grey},${grey})`;
          paper.fillRect((i % N) * ZOOM, Math.floor(i / N) * ZOOM, ZOOM, ZOOM);
        }
      }
      function receive() {
        const view = model.get("pixels");
        const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
        if (bytes.length === N * N && last === null) { ink = Float32Array.from(bytes); paint(); }
      }
      function send() {
        sending = null;
        model.set("pixels", new DataView(Uint8Array.from(ink, Math.round).buffer));
        model.save_changes();
      }
      function later() { if (sending === null) sending = setTimeout(send, 120); }
      function dab(x, y, rub) {
        for (let i = 0; i < N * N; i++) {
          const far = Math.hypot((i % N) + 0.5 - x, Math.floor(i / N) + 0.5 - y);
          const press = 255 * Math.min(1, Math.max(0, 1.7 - far));
          ink[i] = rub ? Math.min(ink[i], 255 - press) : Math.max(ink[i], press);
        }
      }
      function place(event) {
        const box = canvas.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width * N, (event.clientY - box.top) / box.height * N];
      }
      function stroke(event) {
        const [x, y] = place(event), [fromX, fromY] = last ?? [x, y], rub = event.shiftKey || (event.buttons & 2) > 0;
        const steps = Math.max(1, Math.ceil(2 * Math.hypot(x - fromX, y - fromY)));
        for (let k = 1; k <= steps; k++) dab(fromX + (x - fromX) * k / steps, fromY + (y - fromY) * k / steps, rub);
        last = [x, y];
        paint();
        later();
      }
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        last = null;
        stroke(event);
      });
      canvas.addEventListener("pointermove", (event) => { if (event.buttons) stroke(event); });
      canvas.addEventListener("pointerup", () => { last = null; });
      canvas.addEventListener("pointercancel", () => { last = null; });
      for (const name of ["contextmenu", "mousedown"])
        canvas.addEventListener(name, (event) => { event.preventDefault(); event.stopPropagation(); });
      clear.addEventListener("click", () => { ink.fill(0); paint(); send(); });
      model.on("change:pixels", receive);
      paint();
      receive();
    }
    export default { render };
    """
    _css = """
    .fmnist-sketch { border: 1px solid #8a8a8a; cursor: crosshair; touch-action: none; display: block; }
    .fmnist-clear { margin: 6px 0 0 0; width: 80px; }
    """

    def image(self) -> np.ndarray:
        """What is drawn, uint8 [28, 28]."""
        return np.frombuffer(self.pixels, np.uint8).reshape(SIDE, SIDE)

    def lay(self, image: np.ndarray) -> None:
        """Put an image, uint8 [28, 28] or [784], on the canvas."""
        self.pixels = np.ascontiguousarray(image, np.uint8).tobytes()


class CopyButton(anywidget.AnyWidget):
    """A button that puts `text` on the clipboard and says so; where the browser refuses, it shows the text."""

    label = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)

    _esm = """
    function render({ model, el }) {
      const button = document.createElement("button");
      button.className = "jupyter-button widget-button fmnist-copy";
      button.textContent = model.get("label");
      button.addEventListener("click", async () => {
        let said = "Copied";
        try { await navigator.clipboard.writeText(model.get("text")); }
        catch (refused) {
          said = "Copy it from here";
          const area = document.createElement("textarea");
          Object.assign(area, { value: model.get("text"), readOnly: true, rows: 6 });
          el.querySelector("textarea")?.remove();
          el.append(area);
          area.select();
        }
        button.textContent = said;
        setTimeout(() => { button.textContent = model.get("label"); }, 1500);
      });
      el.append(button);
    }
    export default { render };
    """
