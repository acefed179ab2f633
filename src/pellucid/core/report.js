// Turns each strip of frames into one picture with a slider. Without this script the strip itself is the figure.
"use strict";
for (const strip of document.querySelectorAll(".strip")) {
  const frames = [...strip.children];
  if (frames.length < 2) continue;
  const labels = frames.map((frame) => frame.querySelector(".label").textContent);
  const single = strip.classList.contains("single");
  const make = (tag, name, parent) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    parent.append(made);
    return made;
  };
  const film = document.createElement("div");
  film.className = "film";
  const stage = single ? make("div", "stage", film) : null;
  const controls = make("div", "controls", film);
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = frames.length - 1;
  slider.step = 1;
  slider.setAttribute("aria-label", strip.dataset.about);
  const large = single ? make("img", "", stage) : null;

  function show(step) {
    slider.value = step;
    slider.setAttribute("aria-valuetext", labels[step]);
    said.textContent = labels[step];
    frames.forEach((frame, i) => {
      frame.classList.toggle("now", i === step);
      frame.hidden = !single && i !== step;
    });
    if (!single) return;
    const small = frames[step].querySelector("img");
    const times = Math.max(1, Math.floor(260 / Math.max(small.getAttribute("width"), small.getAttribute("height"), 1)));
    large.src = small.src;
    large.className = small.className;
    large.alt = small.alt;
    large.width = Number(small.getAttribute("width")) * times;
    large.height = Number(small.getAttribute("height")) * times;
  }

  let clock = 0;
  function stop() {
    clearInterval(clock);
    clock = 0;
    if (play) play.textContent = "Play";
  }
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const play = still ? null : make("button", "", controls);
  if (play) {
    play.type = "button";
    play.textContent = "Play";
    play.addEventListener("click", () => {
      if (clock) return stop();
      play.textContent = "Pause";
      let step = Number(slider.value) === frames.length - 1 ? 0 : Number(slider.value);
      show(step);
      clock = setInterval(() => {
        step += 1;
        show(step);
        if (step === frames.length - 1) stop();
      }, Math.max(60, Math.min(400, 6000 / frames.length)));
    });
  }
  controls.append(slider);
  const said = make("output", "", controls);
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  frames.forEach((frame, i) => { if (single) frame.addEventListener("click", () => { stop(); show(i); }); });
  strip.classList.add("live");
  strip.before(film);
  show(Number(strip.dataset.start));
}
