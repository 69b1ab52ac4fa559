// Figures that answer: those that came with their marks as data are drawn again at the page's width and in its colours.
// Pointing, tapping or the arrow keys say what stands there, with the rows of the CSV behind it; a legend's entry
// stands out in all figures of its section. Without this script, and in print, the picture itself is there.

(() => {
  "use strict";
  const LEAST = 200; // pixels a panel needs
  const REACH = 48; // pixels from a mark at which it still is what is pointed at
  const SYMBOLS = { o: "Circle", s: "Square", "^": "Triangle", v: "Triangle", D: "Diamond", P: "Cross", X: "Cross", "*": "Star", x: "Times", 7: "Triangle", "<": "Triangle", ">": "Triangle" };
  const TURNED = { v: 180, X: 45, 7: 180, "<": -90, ">": 90 };
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const svg = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const pen = document.createElement("canvas").getContext("2d");
  const longest = (texts) => Math.max(0, ...texts.map((text) => pen.measureText(text).width));
  const same = (a, b) => a === b || (a !== "" && b !== "" && Number(a) === Number(b));
  const said = (value) => (value === null || Number.isNaN(value) ? "–"
    : (Number.isInteger(value) ? String(value) : value.toPrecision(4)).replace("-", "−"));

  // ONE PANEL

  function scaled({ scale, limits, ticks, whole }, range, apart) {
    const of = { error: (value) => Math.max(100 - value, 0.05), log: (value) => Math.max(value, 1e-3 * Math.min(...limits)) }[scale] ?? ((value) => value);
    const place = (scale === "linear" ? d3.scaleLinear : d3.scaleLog)(limits.map(of), range);
    const count = Math.max(2, Math.floor(Math.abs(range[1] - range[0]) / apart));
    const [least, most] = [Math.min(...limits), Math.max(...limits)];
    const format = place.tickFormat(count, scale === "linear" ? undefined : ",~g");
    const text = (value) => (scale === "log" && value < 1e-3 && format(value) ? value.toExponential(0).replace("-", "−") : format(value));
    const own = () => place.ticks(count).filter((value) => !whole || Number.isInteger(value)).map((value) => [value, text(value)]).filter((tick) => tick[1]);
    return { at: (value) => place(of(value)), ticks: (ticks ?? own()).filter(([value]) => value >= least && value <= most) };
  }

  function symbol(marker, size, x, y) {
    const area = (marker === "*" ? 0.8 : 1.2) * size ** 2;
    const turned = TURNED[marker] ? ` rotate(${TURNED[marker]})` : "";
    const path = d3.symbol(d3[`symbol${SYMBOLS[marker] ?? "Circle"}`], area)();
    return svg("path", { class: marker === "x" ? "stroke" : "symbol", d: path, transform: `translate(${x},${y})${turned}` });
  }

  function drawn(mark, place) { // one mark; `place` gives the pixels of its i-th point
    const many = mark.x.map((_, i) => i);
    const known = (i) => mark.x[i] !== null && mark.y[i] !== null;
    const path = d3.line((i) => place(i)[0], (i) => place(i)[1]).defined(known)(many);
    const group = svg("g", { style: `--own: ${mark.color}`, opacity: mark.kind === "band" ? 1 : mark.alpha });
    if (path && mark.kind === "band") group.append(svg("path", { class: "band", d: `${path}Z`, opacity: mark.alpha }));
    else if (path && mark.width) {
      const dash = (mark.dash ?? []).map((part) => part * mark.width * 1.2).join(" ");
      group.append(svg("path", { class: "stroke", d: path, "stroke-width": 1.2 * mark.width, "stroke-dasharray": dash }));
    }
    if (mark.marker) {
      const [start, step] = mark.every;
      for (const i of many.filter((i) => known(i) && i >= start && (i - start) % step === 0)) {
        group.append(symbol(mark.marker, 1.2 * mark.size, ...place(i)));
      }
    }
    return group;
  }

  function room(axis, width, left = 0) { // margins and heights: names stand beside their rows, or above them where it is narrow
    const rows = axis.y.ticks && axis.y.scale === "linear";
    const names = rows ? axis.y.ticks.map(([, text]) => text) : scaled(axis.y, [200, 0], 40).ticks.map(([, text]) => text);
    const margin = { left: Math.max(left, longest(names) + 12), right: 12, top: 8 };
    const above = rows && margin.left + margin.right > 0.6 * width;
    if (above) Object.assign(margin, { left: 6, right: 6 });
    const inner = width - margin.left - margin.right;
    const words = axis.x.ticks?.map(([, text]) => text) ?? [];
    const turned = words.length * (longest(words) + 10) > inner;
    const bottom = turned ? 0.55 * longest(words) + 24 : 22;
    const height = rows ? names.length * (above ? 44 : 26) : Math.max(150, Math.min(270, 0.62 * inner));
    return { rows, margin, above, inner, turned, bottom, height };
  }

  function panel(axis, width, left, ticked) {
    const { rows, margin, above, inner, turned, bottom, height } = room(axis, width, left);
    const x = scaled(axis.x, [0, inner], 64);
    const y = scaled(axis.y, [height, 0], 40);
    const frame = svg("g", { transform: `translate(${margin.left},${margin.top})` });
    const text = (at, attributes, words) => frame.append(svg("text", { ...at, ...attributes }, words));
    let free = -Infinity; // on a logarithmic axis words come closer and closer
    for (const [value, words] of x.ticks) {
      const [at, turn, half] = [x.at(value), turned ? ` rotate(-30)` : "", turned ? 0 : longest([words]) / 2];
      frame.append(svg("path", { class: "grid", d: `M${at},0V${height}` }));
      if (!ticked || at - half < free) continue;
      text({}, { transform: `translate(${at},${height + 16})${turn}`, "text-anchor": turned ? "end" : "middle" }, words);
      free = at + half + 8;
    }
    for (const [value, words] of y.ticks) {
      const at = y.at(value);
      if (!rows) frame.append(svg("path", { class: "grid", d: `M0,${at}H${inner}` }));
      if (above) text({ x: 0, y: at - 14 }, { class: "row" }, words);
      else text({ x: -8, y: at + 4 }, { "text-anchor": "end" }, words);
    }
    const view = svg("svg", { x: -8, y: -8, width: inner + 16, height: height + 16, viewBox: `-8 -8 ${inner + 16} ${height + 16}` });
    const points = [];
    const row = (value) => axis.y.ticks.reduce((a, b) => (Math.abs(b[0] - value) < Math.abs(a[0] - value) ? b : a))[1];
    for (const mark of axis.marks) {
      const place = (i) => [x.at(mark.x[i]), mark.edge ? height * (1 - mark.y[i]) : y.at(mark.y[i])];
      const made = drawn(mark, place);
      const group = rows ? row(mark.y[0]) : mark.group;
      if (group !== null) made.dataset.group = group;
      view.append(made);
      if (mark.kind || group === null) continue;
      mark.x.forEach((at, i) => {
        if (at !== null && mark.y[i] !== null) points.push({ mark, group, x: at, y: mark.y[i], place: place(i), zero: mark.edge });
      });
    }
    frame.append(view);
    const picture = svg("svg", { width, height: height + margin.top + bottom, tabindex: 0, role: "img" }, frame);
    return { picture, view, points, rows, axis, margin };
  }

  // WHAT IS SAID OF A POINT

  function ends(point, { axis, rows }) { // of the band or bar through it
    const [along, across] = rows ? ["y", "x"] : ["x", "y"];
    const found = axis.marks.filter((mark) => mark.kind && (rows || mark.group === point.group || (mark.group === null && mark.color === point.mark.color)))
      .flatMap((mark) => mark[across].filter((_, i) => mark[along][i] === point[along]));
    return found.length ? [Math.min(...found), Math.max(...found)] : null;
  }

  function answer(point, spec, csv, { axis, rows }) {
    const nearest = axis.x.ticks?.reduce((a, b) => (Math.abs(b[0] - point.x) < Math.abs(a[0] - point.x) ? b : a))[1];
    const along = rows ? null : nearest ?? said(point.x);
    const label = (rows ? axis.x.label : axis.y.label).replace(/,?\s*log error scale/, "");
    const value = rows ? point.x : point.y;
    const range = ends(point, { axis, rows });
    const kind = rows ? spec.legend.find((entry) => entry.marker === point.mark.marker)?.text : null;
    const list = make("ul", {});
    const counted = spec.along in (csv[0] ?? {}) || (rows && spec.by);
    const where = (line) => Object.entries(axis.where ?? {}).every(([name, of]) => same(line[name], of));
    const behind = csv.filter((line) => same(line[spec.by] ?? "", point.group) && where(line)
      && (rows || !(spec.along in line) || same(line[spec.along], nearest ?? String(point.x))));
    for (const line of behind.slice(0, 12)) {
      const own = axis.values in line && counted ? (line[axis.values] === "" ? NaN : axis.times * line[axis.values]) : null;
      const parts = [line.seed && `seed ${line.seed}`, own !== null && said(own), line.run_id && `run ${line.run_id}`].filter(Boolean);
      if (line.seed || line.run_id) list.append(make("li", { className: rows && Math.abs(own - value) < 1e-3 * Math.abs(value) && behind.length > 1 ? "exact" : "" }, parts.join(" · ")));
    }
    const whole = `${label} ${point.zero ? "0" : said(value)}${range ? ` [${said(range[0])}, ${said(range[1])}]` : ""}`;
    const first = make("p", {}, make("b", {}, point.group), along === null ? "" : `, ${axis.x.label} ${along}`);
    return [first, make("p", {}, kind ? `${kind}: ${whole}` : whole), ...(list.children.length ? [list] : [])];
  }

  // ONE FIGURE

  function legend(spec, section, box) {
    const list = make("div", { className: "legend" });
    for (const entry of spec.legend) {
      const swatch = svg("svg", { width: 34, height: 14, "aria-hidden": true, class: "swatch" });
      const line = { ...entry, x: [0, 1, 2], y: [0, 0, 0], every: [1, 2] };
      swatch.append(drawn(line, (i) => [3 + 14 * i, 7]));
      const name = spec.axes.flatMap((axis) => axis.marks).find((mark) => mark.group === (entry.group ?? entry.text))?.group;
      const element = make(name ? "button" : "span", { className: "entry" }, swatch, entry.text);
      list.append(element);
      if (!name) continue;
      Object.assign(element, { type: "button" }).setAttribute("aria-pressed", section.pinned === name);
      element.dataset.name = name;
      element.addEventListener("pointerenter", () => section.choose(name));
      element.addEventListener("pointerleave", () => section.choose(section.pinned));
      element.addEventListener("click", () => section.pin(section.pinned === name ? null : name));
    }
    return list;
  }

  function listen(made, say) { // by mouse, by finger, by the arrow keys
    const { picture, points, margin } = made;
    let current = null;
    const show = (point) => { current = point; say(made, point); };
    const near = (event) => {
      const box = picture.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left - margin.left, event.clientY - box.top - margin.top];
      let [best, least] = [null, REACH];
      for (const point of points) {
        const far = Math.hypot(point.place[0] - x, point.place[1] - y);
        if (far < least) [best, least] = [point, far];
      }
      if (best !== current) show(best);
    };
    picture.addEventListener("pointermove", near);
    picture.addEventListener("pointerdown", near);
    picture.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
    picture.addEventListener("blur", () => show(null));
    picture.addEventListener("mousedown", (event) => event.preventDefault()); // no outline but for the keyboard
    document.addEventListener("pointerdown", (event) => { if (current && !picture.contains(event.target)) show(null); });
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return show(null);
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!step || !points.length) return;
      event.preventDefault();
      const groups = [...new Set(points.map((point) => point.group))];
      const own = groups.indexOf(current?.group ?? groups[0]);
      const group = groups[Math.max(0, Math.min(groups.length - 1, own + step[1]))];
      const ahead = (point) => (point.place[0] - (current?.place[0] ?? -1)) * (step[0] || 1);
      const others = points.filter((point) => point.group === group && (!step[0] || ahead(point) > 0));
      const far = (point) => Math.abs(ahead(point));
      if (others.length) show(current ? others.reduce((a, b) => (far(b) < far(a) ? b : a)) : others[0]);
    });
  }

  function figure(template, sections) {
    const origin = template.closest(".origin");
    const element = origin.previousElementSibling;
    const image = element.querySelector("img");
    const spec = JSON.parse(template.content.textContent);
    const file = origin.querySelector("a.data")?.href;
    const csv = file ? d3.csvParse(decodeURIComponent(file.slice(file.indexOf(",") + 1))) : [];
    const section = sections(element);
    const tip = make("div", { className: "tip", hidden: true });
    const box = make("div", { className: "plot" });
    tip.setAttribute("role", "status");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", image.alt);
    image.before(box);
    element.classList.add("redrawn");
    section.boxes.push(box);
    const say = (made, point) => {
      made.view.querySelector(".ring")?.remove();
      section.choose(point ? point.group : section.pinned);
      tip.hidden = !point;
      if (!point) return;
      made.view.append(svg("circle", { class: "ring", r: 7, cx: point.place[0], cy: point.place[1] }));
      tip.replaceChildren(...answer(point, spec, csv, made));
      const [whole, at] = [box.getBoundingClientRect(), made.picture.getBoundingClientRect()];
      const [x, y] = [at.left - whole.left + made.margin.left + point.place[0], at.top - whole.top + made.margin.top + point.place[1]];
      tip.style.left = `${Math.max(0, Math.min(x - tip.offsetWidth / 2, whole.width - tip.offsetWidth))}px`;
      tip.style.top = `${y - tip.offsetHeight - 14 + whole.top > 0 ? y - tip.offsetHeight - 14 : y + 16}px`;
    };
    const draw = () => {
      const width = box.clientWidth;
      const wide = Math.max(...spec.axes.map((axis) => axis.column)) + 1;
      const columns = Math.max(1, Math.min(wide, Math.floor(width / LEAST)));
      const grid = make("div", { className: "panels" });
      grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
      const style = getComputedStyle(box);
      pen.font = `15px ${style.fontFamily}`;
      const each = Math.floor((width - 14 * (columns - 1)) / columns);
      const lefts = spec.axes.map((axis) => room(axis, each)).map((found) => (found.above ? 0 : found.margin.left));
      for (const axis of spec.axes) {
        const below = spec.axes.findLast((other) => other.column === axis.column);
        const ticked = axis === below || (columns < wide && axis.marks.length > 0);
        const made = panel(axis, each, Math.max(...lefts.filter((_, i) => spec.axes[i].column === axis.column)), ticked);
        const labels = [axis.y.label.replace("\n", ", "), ticked && below.x.label];
        const named = axis.title || (columns < wide && spec.axes.find((other) => other.column === axis.column).title);
        const title = named ? [make("p", { className: "title" }, named)] : [];
        const head = make("p", { className: "up" }, made.rows ? "" : labels[0]);
        made.picture.setAttribute("aria-label", `${[named, ...labels].filter(Boolean).join(", ")}. Arrow keys read the values.`);
        grid.append(make("div", { className: "panel" }, ...title, head, made.picture, make("p", { className: "along" }, labels[1] || "")));
        listen(made, say);
      }
      box.replaceChildren(grid, legend(spec, section, box), tip);
      tip.hidden = true;
      section.choose(section.pinned);
    };
    let width = 0;
    new ResizeObserver(() => {
      if (box.clientWidth && box.clientWidth !== width) requestAnimationFrame(draw);
      width = box.clientWidth;
    }).observe(box);
    width = box.clientWidth;
    draw();
  }

  function sections() { // a section's figures, and what stands out in them
    const [heads, known] = [all("main h2, main h3"), new Map()];
    return (element) => {
      const head = heads.findLast((each) => each.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING);
      if (!known.has(head)) {
        const section = { boxes: [], pinned: null };
        section.choose = (name) => section.boxes.forEach((box) => {
          const marks = all("[data-group]", box);
          const chosen = marks.filter((mark) => mark.dataset.group === name);
          marks.forEach((mark) => mark.classList.toggle("dim", chosen.length > 0 && !chosen.includes(mark)));
        });
        section.pin = (name) => {
          section.pinned = name;
          section.boxes.flatMap((box) => all("button.entry", box))
            .forEach((entry) => entry.setAttribute("aria-pressed", entry.dataset.name === name));
          section.choose(name);
        };
        known.set(head, section);
      }
      return known.get(head);
    };
  }

  document.addEventListener("DOMContentLoaded", () => {
    const own = sections();
    document.fonts.ready.then(() => all("template.drawing").forEach((template) => figure(template, own)));
  });
})();
