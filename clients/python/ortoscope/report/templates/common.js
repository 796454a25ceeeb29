"use strict";
/* What both reports share: the pictures, the grid of cards, the lightbox, and the keys. */
const Report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  /** An element with properties and children; text is only ever set as text. */
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  /** A number with four significant digits, without an exponent where that stays readable. */
  function shown(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  }

  const loaded = new Map();
  /** The picture of an image, decoded once; null if the report has none. */
  function picture(index) {
    const packed = data.pictures[index];
    if (!packed) return Promise.resolve(null);
    if (!loaded.has(index)) {
      const image = new Image();
      image.src = "data:image/jpeg;base64," + packed[2];
      loaded.set(index, image.decode().then(() => image, () => null));
    }
    return loaded.get(index);
  }

  /** What the model sees of a picture: left, top, width, height in fractions of it. */
  const frameOf = (index) => (data.pictures[index] && data.pictures[index][3]) || [0, 0, 1, 1];

  /** Sizes a canvas for the screen's pixels and draws an image on it, whole and centred; returns where it lies. */
  function draw(canvas, image, width, height) {
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const fit = Math.min(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
    const place = { width: Math.round(image.naturalWidth * fit), height: Math.round(image.naturalHeight * fit), scale };
    place.left = Math.floor((canvas.width - place.width) / 2);
    place.top = Math.floor((canvas.height - place.height) / 2);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, place.left, place.top, place.width, place.height);
    return place;
  }

  /**
   * The grid of cards.
   *
   * adapter: card(unit) makes a card's element; fill(card, unit) draws its pictures; describe(shown, all) is the status.
   */
  function grid(units, adapter) {
    const container = byId("cards");
    const cards = new Map();
    let order = units;
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const card = entry.target;
        if (entry.isIntersecting && !card.dataset.filled) {
          card.dataset.filled = "yes";
          adapter.fill(card, card.unit);
        } else if (!entry.isIntersecting && card.dataset.filled) {
          delete card.dataset.filled;
          for (const canvas of card.querySelectorAll("canvas")) canvas.remove();
        }
      }
    }, { rootMargin: "600px 0px" });
    for (const unit of units) {
      const card = adapter.card(unit);
      card.unit = unit;
      cards.set(unit, card);
      near.observe(card);
    }

    const handle = (unit) => cards.get(unit).querySelector(".card-head");
    function show(visible) {
      order = visible;
      const kept = new Set(visible);
      const fragment = document.createDocumentFragment();
      for (const unit of visible) fragment.append(cards.get(unit));
      for (const unit of units) {
        cards.get(unit).hidden = !kept.has(unit);
        handle(unit).tabIndex = -1;
        if (!kept.has(unit)) fragment.append(cards.get(unit));
      }
      container.append(fragment);
      if (visible.length) handle(visible[0]).tabIndex = 0;
      byId("nothing").hidden = visible.length > 0;
      byId("status").textContent = adapter.describe(visible.length, units.length);
    }
    function focus(unit) {
      for (const other of order) handle(other).tabIndex = other === unit ? 0 : -1;
      handle(unit).focus();
      cards.get(unit).scrollIntoView({ block: "nearest" });
    }
    function columns() {
      const top = cards.get(order[0]).offsetTop;
      const wrapped = order.findIndex((unit) => cards.get(unit).offsetTop > top);
      return wrapped < 0 ? order.length : wrapped;
    }
    container.addEventListener("keydown", (event) => {
      const head = event.target.closest(".card-head");
      if (!head || event.altKey || event.ctrlKey || event.metaKey) return;
      const at = order.indexOf(head.closest(".card").unit);
      const steps = {
        ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => order.length - 1,
        ArrowUp: () => at - columns(), ArrowDown: () => at + columns(),
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const to = steps[event.key]();
      if (to >= 0 && to < order.length) focus(order[to]);
    });
    return { show, focus, order: () => order };
  }

  /**
   * The enlarged view of a unit's images.
   *
   * adapter: images(unit) lists them; draw(canvas, image, unit, number, marked, width, height) draws one; title(unit);
   * details(unit, number) makes the element beside it; order() lists the units in view; closed(unit) is told at the end.
   */
  function lightbox(adapter) {
    const dialog = byId("lightbox");
    const canvas = byId("lightbox-picture");
    let unit = null;
    let number = 0;
    let marked = true;

    async function render() {
      const images = adapter.images(unit);
      byId("lightbox-title").replaceChildren(...adapter.title(unit));
      byId("lightbox-details").replaceChildren(adapter.details(unit, number));
      byId("image-count").textContent = images.length ? `${number + 1} / ${images.length}` : "–";
      byId("previous-image").disabled = number <= 0;
      byId("next-image").disabled = number >= images.length - 1;
      const at = adapter.order().indexOf(unit);
      byId("previous-unit").disabled = at <= 0;
      byId("next-unit").disabled = at < 0 || at >= adapter.order().length - 1;
      byId("toggle-mark").setAttribute("aria-pressed", String(marked));
      const wanted = [unit, number];
      const image = images.length ? await picture(images[number].index) : null;
      if (wanted[0] !== unit || wanted[1] !== number || !dialog.open) return;
      const stage = canvas.parentElement;
      const style = getComputedStyle(stage);
      const room = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      const tall = window.innerHeight * (window.innerWidth > 768 ? 0.78 : 0.5);
      const ratio = image ? image.naturalHeight / image.naturalWidth : 0.6;
      const width = Math.max(60, Math.min(room, tall / ratio, 640));
      canvas.style.width = `${width}px`;
      canvas.style.height = `${width * ratio}px`;
      canvas.setAttribute("aria-label", images.length ? images[number].label : "No image");
      if (image) {
        adapter.draw(canvas, image, unit, number, marked, width, width * ratio);
        canvas.dataset.drawn = `${unit.u}/${number}`;
      } else {
        canvas.width = canvas.height = 1;
      }
    }
    function open(chosen, first = 0) {
      unit = chosen;
      number = first;
      if (!dialog.open) dialog.showModal();
      history.replaceState(null, "", `#unit-${unit.u}`);
      render();
    }
    function turnImage(step) {
      const to = number + step;
      if (to >= 0 && to < adapter.images(unit).length) { number = to; render(); }
    }
    function turnUnit(step) {
      const order = adapter.order();
      const to = order.indexOf(unit) + step;
      if (to >= 0 && to < order.length) open(order[to]);
    }
    function toggle() { marked = !marked; render(); }

    byId("previous-image").addEventListener("click", () => turnImage(-1));
    byId("next-image").addEventListener("click", () => turnImage(1));
    byId("previous-unit").addEventListener("click", () => turnUnit(-1));
    byId("next-unit").addEventListener("click", () => turnUnit(1));
    byId("toggle-mark").addEventListener("click", toggle);
    byId("close-lightbox").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      history.replaceState(null, "", location.pathname + location.search);
      adapter.closed(unit);
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const acts = {
        ArrowLeft: () => turnImage(-1), ArrowRight: () => turnImage(1), ArrowUp: () => turnUnit(-1),
        ArrowDown: () => turnUnit(1), m: toggle,
      };
      if (!(event.key in acts)) return;
      event.preventDefault();
      acts[event.key]();
    });
    window.addEventListener("resize", () => { if (dialog.open) render(); });
    return { open };
  }

  /** `/` goes to the search field from anywhere, Escape empties and leaves it. */
  function searchKeys(changed) {
    const search = byId("search");
    document.addEventListener("keydown", (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || byId("lightbox").open;
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        search.value = "";
        changed();
        search.blur();
      }
    });
    search.form.addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("input", changed);
  }

  /** A list of terms and their meanings. */
  function facts(pairs) {
    const list = element("dl", { className: "facts" });
    for (const [term, meaning] of pairs) {
      list.append(element("dt", {}, term), element("dd", {}, meaning));
    }
    return list;
  }

  /** The square of a card that holds an image; clicking it enlarges it. */
  function shot(index, open) {
    const square = element("div", { className: data.pictures[index] ? "shot" : "shot missing" });
    square.addEventListener("click", open);
    return square;
  }

  /** Draws into the squares of a card. */
  function fillShots(card, indices, drawOne) {
    card.querySelectorAll(".shot").forEach(async (square, number) => {
      const image = await picture(indices[number]);
      if (!image || !card.dataset.filled || square.firstChild) return;
      const canvas = element("canvas");
      square.append(canvas);
      drawOne(canvas, image, number, square.clientWidth, square.clientHeight);
      canvas.dataset.drawn = "yes";
    });
  }

  return { data, byId, element, shown, picture, frameOf, draw, grid, lightbox, searchKeys, facts, shot, fillShots };
})();
