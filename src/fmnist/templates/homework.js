// What makes the page pleasant to read: light or dark, where one is in the contents, figures that enlarge, tables that
// sort, previews of what is referred to. Every control is made here, so without this script there is none that is dead.

(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // LIGHT OR DARK: as the device, or as the reader chose, for as long as the two differ

  const device = matchMedia("(prefers-color-scheme: dark)");
  const devices = () => (device.matches ? "dark" : "light");
  const theme = () => root.dataset.theme || devices();

  function remembered(...value) {
    try { // some browsers keep nothing for pages opened from disk
      if (!value.length) return localStorage.getItem("theme");
      if (value[0]) localStorage.setItem("theme", value[0]);
      else localStorage.removeItem("theme");
    } catch { return null; }
  }

  const wear = (chosen) => { root.dataset.theme = /^(dark|light)$/.test(chosen) ? chosen : ""; };

  function themes() {
    const button = make("button", { type: "button", className: "theme" });
    const other = () => (theme() === "dark" ? "light" : "dark");
    const name = () => { button.textContent = other() === "dark" ? "Dark theme" : "Light theme"; };
    button.addEventListener("click", () => {
      const chosen = other() === devices() ? null : other();
      wear(chosen);
      remembered(chosen);
      name();
    });
    device.addEventListener("change", name);
    name();
    document.querySelector("header").append(button);
  }

  // CONTENTS: open where there is room beside the text; the section being read is marked

  function contents() {
    const nav = document.querySelector("nav.contents");
    if (!nav) return;
    const room = matchMedia("(min-width: 78rem) and (min-height: 30rem)");
    const open = () => { nav.firstElementChild.open = room.matches; };
    const links = all("a", nav);
    const sections = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
    let current = null;
    let waiting = false;
    const mark = () => {
      waiting = false;
      const end = scrollY > 0 && scrollY + innerHeight >= root.scrollHeight - 2;
      const read = end ? links.length - 1
        : sections.findLastIndex((section) => section.getBoundingClientRect().top < innerHeight / 4);
      if (links[read] === current) return;
      current?.removeAttribute("aria-current");
      current = links[read];
      current?.setAttribute("aria-current", "location");
      if (!current || !room.matches) return;
      const [top, bottom] = [current.offsetTop, current.offsetTop + current.offsetHeight];
      if (top < nav.scrollTop || bottom > nav.scrollTop + nav.clientHeight) nav.scrollTop = top - nav.clientHeight / 3;
    };
    const later = () => { waiting ||= !!requestAnimationFrame(mark); };
    open();
    mark();
    room.addEventListener("change", open);
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
  }

  // PICTURES: a click or Enter enlarges; Esc, Enter or a click closes, and focus is back where it was. Where there is
  // little room they come in their natural size, to be moved about. Figures that are drawn anew answer instead.

  function figures() {
    const [picture, caption] = [make("img", {}), make("p", { className: "caption" })];
    const close = make("button", { type: "button", textContent: "Close" });
    const view = make("div", { className: "view", tabIndex: 0 }, picture);
    const dialog = make("dialog", { className: "large" }, close, view, caption);
    dialog.addEventListener("click", () => dialog.close());
    document.body.append(dialog);
    for (const image of all("main img")) {
      const [ours, origin] = [image.closest("figure[id^=fig-]"), image.closest("figure")?.nextElementSibling];
      if (image.closest("a") || origin?.querySelector("template.drawing")) continue;
      const className = `enlarge ${image.className}`.trim();
      const button = make("button", { type: "button", className, title: "Enlarge" });
      image.replaceWith(button);
      button.append(image);
      button.addEventListener("click", () => {
        const about = image.closest("figure")?.querySelector("figcaption");
        Object.assign(picture, { src: image.src, alt: image.alt, className: ours ? "ours" : "" });
        picture.style.setProperty("--natural", `${image.naturalWidth}px`);
        caption.replaceChildren(...(about ? plain(about).childNodes : []));
        dialog.setAttribute("aria-label", about?.querySelector(".label")?.textContent ?? "Figure");
        dialog.showModal();
      });
    }
  }

  // TABLES: a head sorts by its column, ascending, then descending; numbers by value, then text, then what is missing

  const NUMBER = /^[~≈<>≤≥]?\s*([+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)\s*%?\s*(?:$|[[(±,]|of )/i;
  const words = new Intl.Collator("en", { numeric: true });

  function key(cell) {
    const power = cell.querySelector("annotation")?.textContent.match(/^10\^\{?([+-]?\d+)\}?$/);
    if (power) return { rank: 0, number: 10 ** power[1], text: "" };
    const copy = cell.cloneNode(true);
    all("annotation", copy).forEach((tex) => tex.remove());
    const text = copy.textContent.replace(/[−–](?=\d)/g, "-").replace(/[\u00a0\u202f\u2009]/g, " ").trim();
    if (!text || text === "–" || text === "-" || /^nan$/i.test(text)) return { rank: 2 };
    const number = text.match(NUMBER);
    return number ? { rank: 0, number: Number(number[1].replaceAll(",", "")), text } : { rank: 1, text };
  }

  function compare(a, b, sign) {
    if (a.rank !== b.rank) return a.rank - b.rank;
    if (a.rank === 2) return 0;
    return sign * (a.rank === 0 && a.number !== b.number ? a.number - b.number : words.compare(a.text, b.text));
  }

  function tables() {
    for (const table of all("main table")) {
      const [head, body] = [table.tHead, table.tBodies[0]];
      if (head?.rows.length !== 1 || table.tBodies.length !== 1 || body.rows.length < 2) continue;
      if (table.querySelector("[colspan]:not([colspan='1']), [rowspan]:not([rowspan='1'])")) continue;
      const heads = [...head.rows[0].cells];
      heads.forEach((cell, column) => {
        if (!cell.textContent.trim() || cell.querySelector("a")) return;
        const about = { type: "button", className: "sort", title: "Sort by this column" };
        const button = make("button", about, ...cell.childNodes);
        cell.append(button);
        button.addEventListener("click", () => {
          const down = cell.getAttribute("aria-sort") === "ascending";
          heads.forEach((other) => other.removeAttribute("aria-sort"));
          cell.setAttribute("aria-sort", down ? "descending" : "ascending");
          const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
          rows.sort((a, b) => compare(a.key, b.key, down ? -1 : 1));
          body.append(...rows.map(({ row }) => row));
        });
      });
    }
  }

  // PREVIEWS: hovering over a reference or a citation, or focusing it, shows what it refers to; Esc puts it away

  function plain(element) { // a copy that nothing can be done with and nothing can refer to
    const copy = element.cloneNode(true);
    all("details", copy).forEach((part) => part.remove());
    all("a, button", copy).forEach((part) => part.replaceWith(...part.childNodes));
    for (const part of [copy, ...all("*", copy)]) {
      for (const name of ["id", "tabindex", "role", "aria-label", "aria-sort"]) part.removeAttribute(name);
    }
    return copy;
  }

  function preview(target) { // of a section, its title and first paragraph
    const next = target.nextElementSibling;
    return [target, ...(/^H[1-6]$/.test(target.tagName) && next?.tagName === "P" ? [next] : [])].map(plain);
  }

  function previews() {
    const box = make("div", { className: "preview", id: "preview", role: "tooltip", hidden: true });
    document.querySelector("main").append(box);
    let link = null;
    let timer = 0;
    const soon = (what, delay) => { clearTimeout(timer); timer = setTimeout(what, delay); };
    const hide = () => {
      clearTimeout(timer);
      link?.removeAttribute("aria-describedby");
      link = null;
      box.hidden = true;
    };
    const place = () => {
      if (!link) return;
      const [at, size] = [link.getBoundingClientRect(), box.getBoundingClientRect()];
      const below = at.bottom + size.height + 8 < innerHeight || at.top < size.height + 8;
      box.style.top = `${Math.max(4, below ? at.bottom + 6 : at.top - size.height - 6)}px`;
      box.style.left = `${Math.max(8, Math.min(at.left, root.clientWidth - size.width - 8))}px`;
    };
    const show = (from, target) => {
      hide();
      link = from;
      link.setAttribute("aria-describedby", "preview");
      box.replaceChildren(...preview(target));
      box.hidden = false;
      box.scrollTop = 0;
      place();
    };
    for (const from of all("main a.reference, main a[role=doc-biblioref], .abstract a.reference, .abstract a[role=doc-biblioref]")) {
      const target = document.getElementById(decodeURIComponent(from.hash.slice(1)));
      if (!target) continue;
      from.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse") soon(() => show(from, target), 150);
      });
      from.addEventListener("pointerleave", () => soon(hide, 250));
      from.addEventListener("focus", () => { if (from.matches(":focus-visible")) show(from, target); });
      from.addEventListener("blur", hide);
      from.addEventListener("click", hide);
    }
    box.addEventListener("pointerenter", () => clearTimeout(timer));
    box.addEventListener("pointerleave", () => soon(hide, 250));
    addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    addEventListener("scroll", place, { passive: true }); // as when the focus moves out of view
  }

  // What is wider than the page scrolls by the keyboard, too.
  function scrolling() {
    for (const box of all("main pre, main .scroll, main .equation, main p")) {
      box.classList.toggle("over", box.scrollWidth > box.clientWidth + 1);
      const over = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
      if (over && /auto|scroll/.test(getComputedStyle(box).overflow)) box.tabIndex = 0;
    }
  }

  wear(remembered());
  document.addEventListener("DOMContentLoaded", () => {
    [themes, contents, previews, figures, tables, scrolling].forEach((part) => part());
    addEventListener("resize", scrolling);
    document.addEventListener("toggle", scrolling, true);
  });
})();
