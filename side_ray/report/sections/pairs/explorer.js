(() => {
  const data = JSON.parse(document.getElementById("pairs-data").textContent);
  const at = name => document.getElementById("pairs-" + name), zoom = name => document.getElementById("zoom-" + name);
  if (!data) { at("count").textContent = "The images were removed."; return; }
  const PAGE = 24;
  const all = data.rows.map((row, place) => {
    const [method, lambda, sample, train, value, label, file, q, unseenId, unseen] = row;
    const inside = place < data.shown;
    return {place, method, lambda, sample, train, value, label, file, q, unseenId, unseen, inside};
  });
  const sign = data.lower ? 1 : -1;
  const orders = {
    close: (a, b) => sign * (a.value - b.value),
    cut: (a, b) => Math.abs(a.value - data.cut) - Math.abs(b.value - data.cut),
    margin: (a, b) => margin(a) - margin(b),
    train: (a, b) => a.train - b.train || sign * (a.value - b.value),
  };
  const margin = pair => pair.unseen === null ? Infinity : sign * (pair.value - pair.unseen);
  const text = value => value === null ? "–" : value.toFixed(3);
  let chosen = [], page = 0, open = 0;

  const fill = (select, values, name) => {
    for (const value of ["", ...values]) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = value === "" ? "all" : name(value);
      select.append(option);
    }
    select.parentElement.hidden = values.length < 2;
  };
  const distinct = values => [...new Set(values.filter(value => value !== null))];
  fill(at("method"), distinct(all.map(pair => pair.method)), value => data.methods[value]);
  fill(at("lambda"), distinct(all.map(pair => pair.lambda)).sort((a, b) => a - b), String);
  fill(at("class"), distinct(all.map(pair => pair.label)).sort((a, b) => a - b), String);

  // A picture is in the page, or cut out of a sheet. `ready` tells when it can be drawn.
  const picture = (source, alt) => {
    const image = document.createElement("img");
    image.alt = alt;
    image.ready = Promise.resolve();
    if (!Array.isArray(source)) {
      if (source) { image.src = source; image.ready = image.decode(); image.ready.catch(() => {}); }
      return image;
    }
    const [sheet, column, row, width, height] = source, {folder, kind, cell} = data.sheets, canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", alt);
    image.src = folder + "/" + String(sheet).padStart(3, "0") + "." + kind;
    canvas.ready = image.decode().then(() => canvas.getContext("2d").drawImage(image, column * cell, row * cell, width, height, 0, 0, width, height));
    canvas.ready.catch(() => {
      const missing = document.createElement("span");
      missing.className = "empty";
      missing.textContent = alt + ": " + image.getAttribute("src") + " is not beside the page";
      canvas.replaceWith(missing);
    });
    return canvas;
  };
  const card = (pair, place) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.className = "pair";
    button.append(
      picture(data.train[pair.train], "Training image " + pair.train),
      picture(data.samples[pair.place], "Sample " + pair.sample + " of " + data.methods[pair.method]),
    );
    const caption = document.createElement("span");
    const lambda = pair.lambda ? " λ=" + pair.lambda : "";
    caption.textContent = [text(pair.value), data.methods[pair.method] + lambda, "train " + pair.train].join("\n");
    if (!pair.inside) caption.className = "beyond";
    button.append(caption);
    button.addEventListener("click", () => show(place));
    item.append(button);
    return item;
  };
  const draw = () => {
    const first = page * PAGE, last = Math.min(chosen.length, first + PAGE);
    at("grid").replaceChildren(...chosen.slice(first, last).map((pair, i) => card(pair, first + i)));
    at("pages").hidden = chosen.length <= PAGE;
    at("place").textContent = (first + 1) + "–" + last + " of " + chosen.length;
    at("back").disabled = page === 0;
    at("next").disabled = last >= chosen.length;
  };
  const choose = () => {
    const [method, lambda, label, cut] = ["method", "lambda", "class", "cut"].map(name => at(name).value);
    chosen = all.filter(pair => (method === "" || pair.method === method) && (lambda === "" || String(pair.lambda) === lambda)
      && (label === "" || String(pair.label) === label) && (cut === "" || pair.inside === (cut === "in")));
    chosen.sort((a, b) => orders[at("sort").value](a, b) || a.place - b.place);
    if (at("once").checked) {
      const seen = new Set();
      chosen = chosen.filter(pair => !seen.has(pair.train) && seen.add(pair.train));
    }
    page = 0;
    const images = new Set(chosen.map(pair => pair.train)).size;
    at("count").textContent = chosen.length + " pairs of " + images + " training images";
    draw();
  };

  const difference = () => {
    const canvas = zoom("difference"), [train, sample] = ["train", "sample"].map(name => zoom(name).firstChild);
    const width = canvas.width = train.naturalWidth || train.width || 1, height = canvas.height = train.naturalHeight || train.height || 1;
    const context = canvas.getContext("2d");
    context.drawImage(train, 0, 0, width, height);
    context.globalCompositeOperation = "difference";
    context.drawImage(sample, 0, 0, width, height);
  };
  const show = place => {
    open = Math.max(0, Math.min(chosen.length - 1, place));
    const pair = chosen[open];
    const unseen = data.unseen[pair.unseenId];
    zoom("unseen").parentElement.hidden = !unseen;
    const shown = [picture(data.train[pair.train], "Training image"), picture(data.samples[pair.place], "Sample")];
    zoom("train").replaceChildren(shown[0]);
    zoom("sample").replaceChildren(shown[1]);
    zoom("unseen").replaceChildren(...unseen ? [picture(unseen, "Nearest unseen image")] : []);
    Promise.all(shown.map(each => each.ready)).then(difference, () => {});
    const title = document.getElementById("pairs-zoom-title");
    title.textContent = "Pair " + (open + 1) + " of " + chosen.length;
    const about = [
      [data.similarity, text(pair.value) + (pair.inside ? ", within the cut" : ", beyond the cut")],
      ["to the nearest unseen image", text(pair.unseen)], ["sample", data.methods[pair.method] + ", λ=" + pair.lambda + ", " + pair.sample],
      ["training image", String(pair.train)], ["file", pair.file], ["class", pair.label], ["q-value of the image", pair.q === null ? null : pair.q.toPrecision(2)],
    ];
    zoom("about").replaceChildren(...about.filter(([, value]) => value !== null).map(([name, value]) => {
      const row = document.createElement("div"), term = document.createElement("dt"), found = document.createElement("dd");
      term.textContent = name;
      found.textContent = value;
      row.append(term, found);
      return row;
    }));
    if (!at("zoom").open) at("zoom").showModal();
    title.focus();
  };
  for (const name of ["method", "lambda", "class", "cut", "sort", "once"]) at(name).addEventListener("change", choose);
  at("back").addEventListener("click", () => { page -= 1; draw(); });
  at("next").addEventListener("click", () => { page += 1; draw(); });
  zoom("back").addEventListener("click", () => show(open - 1));
  zoom("next").addEventListener("click", () => show(open + 1));
  zoom("close").addEventListener("click", () => at("zoom").close());
  at("zoom").addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) { event.preventDefault(); show(open + step); }
  });
  at("tools").hidden = false;
  choose();
})();
