// Sliders and quiz over pictures drawn beforehand by nbs/experiments/strips.ipynb; no request leaves the site.
(() => {
  const data = window.HSR_STRIPS, root = document.getElementById("strips");
  const names = Object.keys(data.attributes), middle = (data.positions - 1) / 2;
  const all = (selector) => [...root.querySelectorAll(selector)];
  let face = 0, attribute = names[0], position = middle;

  const picture = (file) => {
    const image = new Image();
    image.addEventListener("load", show);
    image.src = data.folder + file;
    return image;
  };
  const sheets = { baseline: picture("baseline.webp"), hsr: picture("hsr.webp") };
  const six = picture("quiz.webp");

  function tile(canvas, sheet, column, row) {
    const side = data.tile;
    if (sheet && sheet.complete && sheet.naturalWidth)
      canvas.getContext("2d").drawImage(sheet, column * side, row * side, side, side, 0, 0, canvas.width, canvas.height);
  }

  function show() {
    const row = face * names.length + names.indexOf(attribute);
    const word = data.attributes[attribute];
    for (const canvas of all("canvas[data-network]")) {
      const network = canvas.dataset.network, read = data.readings[network][attribute][face][position];
      tile(canvas, sheets[network], position, row);
      const said = `${word} ${read < 0 ? "−" : "+"}${Math.abs(read).toFixed(1)} σ`;
      root.querySelector(`[data-reading=${network}]`).textContent = said;
      canvas.setAttribute("aria-label", `A face of ${network}, a judge reads ${said}`);
    }
    for (const input of all(".strips-sliders input")) {
      const at = input.name === attribute ? position : middle, strength = data.strengths[input.name][at];
      input.value = at;
      input.setAttribute("aria-valuetext", `${strength.toFixed(1)} standard deviations`);
    }
    root.querySelector("[data-face]").textContent = `face ${face + 1} of ${data.faces.length}`;
    for (const canvas of all(".strips-six canvas")) tile(canvas, six, Number(canvas.dataset.number), 0);
  }

  for (const name of names) {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "range", name, min: 0, max: data.positions - 1, step: 1 });
    input.addEventListener("input", () => {
      attribute = name;
      position = Number(input.value);
      show();
    });
    label.append(data.attributes[name], input);
    root.querySelector(".strips-sliders").append(label);
  }

  for (const button of all("[data-step]"))
    button.addEventListener("click", () => {
      face = (face + Number(button.dataset.step) + data.faces.length) % data.faces.length;
      show();
    });

  data.answers.forEach((real, number) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    Object.assign(canvas, { width: 128, height: 128 });
    canvas.dataset.number = number;
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `picture ${number + 1}: press if you think it is real`);
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!pressed));
    });
    button.append(canvas, document.createElement("span"));
    root.querySelector(".strips-six").append(button);
  });

  const ask = root.querySelector("[data-answers]");
  ask.addEventListener("click", () => {
    let right = 0;
    all(".strips-six button").forEach((button, number) => {
      const real = data.answers[number], said = button.getAttribute("aria-pressed") === "true";
      right += real === said;
      button.lastChild.textContent = real ? "real" : "generated";
      button.classList.add(real === said ? "right" : "wrong");
    });
    ask.setAttribute("aria-expanded", "true");
    root.querySelector("[data-score]").textContent = `${right} of ${data.answers.length} right`;
  });

  show();
})();
