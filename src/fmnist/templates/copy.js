// A button that puts `text` on the clipboard and says so; where the browser refuses, it shows the text.
function render({ model, el }) {
  const button = document.createElement("button"), label = "Copy as study";
  button.className = "jupyter-button widget-button fmnist-copy";
  button.textContent = label;
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
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  const ready = () => { button.disabled = !model.get("text"); };
  model.on("change:text", ready);
  ready();
  el.append(button);
}
export default { render };
