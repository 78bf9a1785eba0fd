/* AccelBench report site: sorting, filtering, the chart. One classic deferred script, since modules do not load from a
   disk. The page is complete without it. State lives in the URL hash; only what differs from the default is written. */
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const DEFAULTS = { q: "", sort: "", dir: "", p: "p50,p99" };
  const table = $("table");
  let state = { ...DEFAULTS };

  // Theme: auto, light, dark. Storage may be refused to a page from a disk.
  const themes = ["auto", "light", "dark"];
  const themeButton = $("theme");
  const setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    themeButton.querySelector("span").textContent = theme;
  };
  let theme = "auto";
  try { theme = localStorage.getItem("accelbench-theme") || "auto"; } catch { /* the default it is */ }
  setTheme(themes.includes(theme) ? theme : "auto");
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    setTheme(next);
    try { localStorage.setItem("accelbench-theme", next); } catch { /* lasts for this page */ }
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // A link to a run opens its record; any other hash that holds "=" is the table's state.
  const isState = (hash) => hash === "" || hash.includes("=");
  const readHash = () => {
    const hash = location.hash.slice(1);
    if (!isState(hash)) {
      const target = $(hash);
      if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
      return;
    }
    const given = new URLSearchParams(hash);
    for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
    if (table) apply();
  };
  const writeHash = (push) => {
    const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
    const hash = "#" + new URLSearchParams(changed);
    if (hash === location.hash) return;
    history[push ? "pushState" : "replaceState"](null, "", hash === "#" ? location.pathname + location.search : hash);
  };

  let rows = [], headers = [], boxes = [];
  const apply = () => {
    const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const index = headers.findIndex((header) => header.dataset.key === state.sort);
    const numeric = index >= 0 && headers[index].dataset.kind === "number" || state.sort === "validity";
    const sign = state.dir === "desc" ? -1 : 1;
    const value = (row) => {
      const raw = row.element.cells[index].dataset.v;
      return raw === "" ? null : numeric ? (raw === "inf" ? Infinity : Number(raw)) : raw;
    };
    const ordered = index < 0 ? rows : rows.map((row) => [value(row), row]).sort(([a, x], [b, y]) => {
      if (a === null || b === null) return (a === null) - (b === null) || x.place - y.place; // missing is last, always
      const order = numeric ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b, "en", { numeric: true });
      return sign * order || x.place - y.place;
    }).map(([, row]) => row);
    let shown = 0;
    for (const row of rows) {
      row.element.hidden = !terms.every((term) => row.text.includes(term));
      shown += !row.element.hidden;
    }
    table.tBodies[0].append(...ordered.map((row) => row.element));
    headers.forEach((header, i) => {
      if (i === index) header.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
    const wanted = state.p.split(",").filter((q) => boxes.some((box) => box.value === q));
    table.dataset.q = wanted.join(" ");
    for (const box of boxes) box.checked = wanted.includes(box.value);
    for (const group of table.querySelectorAll("[data-quantiles]")) {
      group.hidden = wanted.length === 0;
      group.colSpan = wanted.length || 1;
    }
    if ($("filter").value !== state.q) $("filter").value = state.q;
    $("none").hidden = shown > 0;
    const noun = rows.length === 1 ? "result" : "results";
    $("shown").textContent = shown === rows.length ? `${rows.length} ${noun}` : `${shown} of ${rows.length} ${noun}`;
  };

  if (table) {
    document.documentElement.classList.add("scripted");
    headers = [...table.tHead.rows[1].cells];
    boxes = [...document.querySelectorAll("input[name=q]")];
    rows = [...table.tBodies[0].rows].map((element, place) => (
      { element, place, text: element.textContent.toLowerCase().replace(/\s+/g, " ") }));
    $("controls").hidden = false;
    headers.forEach((header) => header.firstElementChild.addEventListener("click", () => {
      const { key, kind } = header.dataset;
      const first = header.textContent.includes("higher is better") ? "desc" : "";
      const second = first === "desc" ? "" : "desc";
      if (state.sort !== key) Object.assign(state, { sort: key, dir: first });
      else if (state.dir === first) state.dir = second;
      else Object.assign(state, { sort: "", dir: "" });
      apply(); writeHash(true);
    }));
    $("filter").addEventListener("input", (event) => { state.q = event.target.value; apply(); writeHash(false); });
    $("clear").addEventListener("click", () => { state.q = ""; apply(); writeHash(true); $("filter").focus(); });
    boxes.forEach((box) => box.addEventListener("change", () => {
      state.p = boxes.filter((b) => b.checked).map((b) => b.value).join(",");
      apply(); writeHash(true);
    }));
  }
  addEventListener("hashchange", readHash);
  addEventListener("popstate", readHash);
  readHash();

  // The chart. Expressions are interpreted (ast), never compiled, so the page needs no unsafe-eval.
  const holder = $("chart");
  if (holder && window.vegaEmbed) {
    const spec = JSON.parse($("chart-spec").textContent);
    const buttons = [...$("legend").querySelectorAll("button")];
    let view = null, focus = "", drawnAt = 0;
    const draw = async () => {
      const width = holder.clientWidth;
      if (width === drawnAt) return;
      drawnAt = width;
      const columns = width < 720 ? 1 : spec.concat.length;
      const sized = { ...spec, columns, concat: spec.concat.map((panel) => (
        { ...panel, width: Math.max(180, Math.floor(width / columns) - 62), height: columns === 1 ? 200 : 240 })) };
      const mount = document.createElement("div");
      const result = await vegaEmbed(mount, sized, {
        ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true } });
      if (view) view.finalize();
      view = result.view;
      holder.replaceChildren(mount);
      holder.dataset.drawn = String(columns);
      if (focus) view.signal("focus", focus).run();
    };
    buttons.forEach((button) => button.addEventListener("click", () => {
      focus = focus === button.dataset.series ? "" : button.dataset.series;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.series === focus)));
      if (view) view.signal("focus", focus).run();
    }));
    let timer = 0;
    const observer = new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(draw, drawnAt ? 150 : 0); });
    observer.observe(holder);
  }
})();
