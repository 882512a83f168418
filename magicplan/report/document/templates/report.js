"use strict";
(() => {
  const plots = [...document.querySelectorAll("script[data-plot]")].map((script) => ({
    box: document.getElementById(script.dataset.plot),
    drawing: JSON.parse(script.textContent),
  }));
  const root = document.documentElement;
  const font = getComputedStyle(document.body).fontFamily;

  /* Colours are names of the style sheet, which the browser looks up: theme and paper need no
     new drawing, a new width does. Expressions are interpreted, never compiled. */
  async function draw(plot) {
    const { box, drawing } = plot;
    const wide = Math.max(box.clientWidth, drawing.usermeta.least_width);
    if (plot.wide === wide) return;
    plot.wide = wide;
    const spec = structuredClone(drawing);
    spec.width = wide;
    spec.config.font = font;
    spec.config.legend.columns = Math.max(1, Math.floor(wide / 190));
    spec.config.legend.labelLimit = Math.min(300, wide - 60);
    spec.config.axis.labelLimit = Math.min(220, wide / 2.6);
    plot.drawn?.finalize();
    plot.drawn = await vegaEmbed(box, spec, {
      ast: true, renderer: "svg", defaultStyle: true, downloadFileName: box.dataset.name,
      actions: { export: true, source: false, compiled: false, editor: false },
    });
    /* Read aloud, a drawing is a heap of numbers: its name, its reading and its table say more. */
    box.querySelector("svg").setAttribute("aria-hidden", "true");
    box.querySelector("summary")?.setAttribute("aria-label", "Save the figure");
  }

  let run = 0;
  async function drawAll() {
    const mine = ++run;
    for (const plot of plots) {
      await draw(plot);
      await new Promise((next) => setTimeout(next)); /* let the page answer in between */
      if (mine !== run) return; /* the width has changed meanwhile */
    }
    root.dataset.drawn = String(plots.length);
  }
  drawAll();
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 100);
  });

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
