// A canvas of 28 × 28 pixels to draw on; `pixels` are its bytes, 0 background to 255 ink, both ways.
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
