"use strict";
(() => {
  const plots = [...document.querySelectorAll("script[data-plot]")].map((script) => ({
    box: document.getElementById(script.dataset.plot),
    drawing: JSON.parse(script.textContent),
  }));
  const root = document.documentElement;
  const PAPER = 640; /* CSS pixels between the margins of an A4 or letter page */
  const paper = () => root.classList.contains("paper");
  const narrow = matchMedia("(max-width: 600px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");

  /* Colours are named in the drawings; the style sheet says what they are right now. */
  function themed(value, style) {
    if (Array.isArray(value)) return value.map((entry) => themed(entry, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, style)]));
    }
    const name = typeof value === "string" && /^var\((--[a-z0-9-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }

  /* Figures that share a row share a height; the first of an odd number has a row of its own. */
  function beside(box) {
    const row = plots.filter((plot) => plot.box.closest(".figures") === box.closest(".figures"));
    const alone = narrow.matches || paper() || (row.length % 2 && row[0].box === box);
    return alone ? row.filter((plot) => plot.box === box) : row.slice(row.length % 2);
  }

  function height({ drawing }) {
    const first = drawing.data[0] || {};
    if (first.type === "bar") { /* on a narrow screen a legend may take a line an entry */
      const legend = narrow.matches ? 22 * drawing.data.length : 0;
      return Math.max(240, 150 + legend + 44 * first.y.length);
    }
    const usual = narrow.matches ? 380 : 440;
    return first.type === "heatmap" ? Math.max(usual, 150 + 36 * first.z.length) : usual;
  }

  function draw({ box, drawing }) {
    const style = getComputedStyle(root);
    const ink = style.getPropertyValue("--ink").trim();
    const { data, layout } = themed(drawing, style);
    const tall = Math.max(...beside(box).map(height));
    box.style.height = `${tall}px`; /* resizing measures the box */
    Object.assign(layout, {
      margin: { l: 8, r: narrow.matches ? 8 : 16, t: 28, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: narrow.matches ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: style.getPropertyValue("--surface").trim(), font: { color: ink } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "normal" },
      modebar: {
        orientation: "v", bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--ink-2").trim(),
        activecolor: style.getPropertyValue("--accent").trim(),
      },
      dragmode: touch.matches ? false : "zoom",
    });
    if (paper()) Object.assign(layout, { width: PAPER, height: tall, autosize: false });
    if (narrow.matches) {
      for (const trace of data) if (trace.colorbar) trace.showscale = false;
    }
    const config = {
      responsive: true, displaylogo: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    };
    const drawn = Plotly.react(box, data, layout, config);
    /* Read aloud, a drawing is a heap of numbers: its name, its reading and its table say more. */
    for (const svg of box.querySelectorAll("svg.main-svg")) svg.setAttribute("aria-hidden", "true");
    return drawn;
  }

  let run = 0;
  async function drawAll() {
    const mine = ++run;
    for (const plot of plots) {
      await draw(plot);
      await new Promise((next) => setTimeout(next)); /* let the page answer in between */
      if (mine !== run) return; /* the theme or the width has changed meanwhile */
    }
    root.dataset.drawn = String(plots.length);
  }
  drawAll();
  for (const query of [narrow, dark]) query.addEventListener("change", drawAll);

  /* Paper is light and narrow, and does not wait: all figures are drawn before the event ends. */
  function toPaper(on) {
    if (on && paper()) return;
    root.classList.toggle("paper", on);
    run += 1;
    plots.forEach(draw);
  }
  addEventListener("beforeprint", () => toPaper(true));
  addEventListener("afterprint", () => toPaper(false));
  matchMedia("print").addEventListener("change", (event) => toPaper(event.matches));

  const said = document.getElementById("said");
  function selectText(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      let done = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        done = true;
      } catch {
        selectText(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      said.textContent = done ? "Copied to the clipboard" : "Selected: press Ctrl+C to copy";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
