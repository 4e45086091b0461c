// What the pages do beyond links and forms. Without it they work too: nothing is kept up to date, sorted or asked in a dialog.
// The content security policy allows neither inline scripts nor texts that become markup; pages are read by the browser's own parser.
"use strict";

(() => {
  const root = document.documentElement;
  const THEMES = ["auto", "light", "dark"];
  const stored = (() => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  })();
  let theme = THEMES.includes(stored) ? stored : "auto";
  const dress = () => { theme === "auto" ? delete root.dataset.theme : (root.dataset.theme = theme); };
  dress();  // before anything is painted

  function offerTheme() {
    const button = document.getElementById("theme");
    const say = () => { button.textContent = `Theme: ${theme}`; };
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try { localStorage.setItem("theme", theme); } catch { /* for this page only, then */ }
      dress();
      say();
    });
    say();
  }

  // Instants are in UTC; the reader's own time is added beside some, and shown on the others when pointed at.
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  function tellTime(within) {
    for (const element of within.querySelectorAll("time[datetime]")) {
      const text = `${local.format(new Date(element.dateTime))}`;
      element.title = `${text} (${zone})`;
      if (element.dataset.local === undefined || element.nextElementSibling?.className === "local" || zone === "UTC") continue;
      const beside = document.createElement("span");
      beside.className = "local";
      beside.textContent = `${text} here`;
      element.after(beside);
    }
  }

  // Sorting, by the header of a column.
  const orders = new Map();
  const worth = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  };
  const WHOLE = /^-?\d+$/;
  function compare(one, other) {
    if (WHOLE.test(one) && WHOLE.test(other)) {
      const difference = BigInt(one) - BigInt(other);
      return difference < 0n ? -1 : difference > 0n ? 1 : 0;
    }
    return one.localeCompare(other, undefined, { numeric: true });
  }
  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => compare(worth(one, column), worth(other, column)) * (descending ? -1 : 1));
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    orders.set(table.id, [column, descending]);
  }
  function offerSorting(within) {
    for (const table of within.querySelectorAll("table[id]")) {
      if (table.tBodies[0].rows.length < 2 && !orders.has(table.id)) continue;
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        if (head.dataset.sort === undefined || head.querySelector("button")) return;
        const button = document.createElement("button");
        button.type = "button";
        button.id = `${table.id}-by-${column}`;
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const was = head.getAttribute("aria-sort");
          sort(table, column, was ? was === "ascending" : head.classList.contains("number"));
        });
      });
      const order = orders.get(table.id);
      if (order) sort(table, ...order);
    }
  }

  // What can be scrolled must be reached by the keyboard, and what cannot need not.
  function reach(within) {
    for (const box of within.querySelectorAll(".scroll, pre")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  function offerCopies(within) {
    for (const box of within.querySelectorAll("pre[data-copy]")) {
      if (!navigator.clipboard || box.parentElement.classList.contains("copied-from")) continue;
      const around = document.createElement("div");
      const button = document.createElement("button");
      around.className = "copied-from";
      button.type = "button";
      button.className = "small quiet";
      button.textContent = "Copy";
      box.replaceWith(around);
      around.append(box, button);
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(box.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(box);
          button.textContent = "Selected";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
    }
  }

  // Another page of ours as a document; null where something else was answered.
  function read(path) {
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      request.open("GET", path);
      request.setRequestHeader("Accept", "text/html");
      request.responseType = "document";
      request.timeout = 10000;
      request.onloadend = () => resolve(request.status ? [request.response, request.responseURL, request.status] : [null, "", 0]);
      request.send();
    });
  }

  // A deed that cannot be undone is asked about in a dialog: the form of the page that the link leads to.
  function offerDialogs(within) {
    for (const link of within.querySelectorAll("a[data-confirm]")) {
      link.addEventListener("click", async (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
        event.preventDefault();
        const [page, , status] = await read(link.href);
        const part = status === 200 && page?.querySelector("main section");
        if (!part) { location.assign(link.href); return; }
        ask(document.adoptNode(part));
      });
    }
  }
  function ask(part) {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", part.querySelector("h2").id);
    dialog.append(part);
    document.body.append(dialog);
    for (const close of dialog.querySelectorAll("[data-close]")) {
      close.addEventListener("click", (event) => { event.preventDefault(); dialog.close(); });
    }
    dialog.addEventListener("close", () => dialog.remove());  // the browser gives the focus back to the link
    dialog.showModal();
    // Not the deed itself: what is pressed without thought must change nothing.
    dialog.querySelector("[data-close]")?.focus();
  }

  function enhance(within) {
    tellTime(within);
    offerSorting(within);
    reach(within);
    offerCopies(within);
    offerDialogs(within);
  }

  // A page with data-refresh is looked at again: its live sections, and the time at the foot, take the place of the old ones.
  let paused = false;
  function busy() {
    const chosen = getSelection();
    return document.hidden || paused || document.querySelector("dialog[open]") || (chosen && !chosen.isCollapsed);
  }
  function replace(old, fresh) {
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    if (old.contains(document.activeElement) && !focused) return;
    for (const box of old.querySelectorAll("details[open]")) {
      const same = fresh.querySelector(`details#${CSS.escape(box.id || "-")}`);
      if (same) same.open = true;
    }
    const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    old.replaceWith(document.adoptNode(fresh));
    enhance(fresh);
    [...fresh.querySelectorAll(".scroll")].forEach((box, index) => { box.scrollLeft = scrolled[index] ?? 0; });
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }
  function take(page) {
    const main = document.getElementById("main");
    const names = (within) => [...within.querySelectorAll("[data-live]")].map((part) => part.id).join(" ");
    if (names(main) !== names(page.getElementById("main"))) {
      // A section came or went. Whoever is in the middle of something is left there.
      if (!main.contains(document.activeElement) || document.activeElement === main) replace(main, page.getElementById("main"));
    } else {
      for (const old of main.querySelectorAll("[data-live]")) replace(old, page.getElementById(old.id));
    }
    const foot = document.getElementById("as-of");
    foot?.replaceWith(document.adoptNode(page.getElementById("as-of") ?? foot));
  }
  async function look() {
    if (busy()) return;
    const [page, url, status] = await read(location.href);
    if (status && new URL(url).pathname !== location.pathname) { location.reload(); return; }  // logged out
    if (status === 200 && page && !busy()) take(page);
    root.dataset.stale = status === 200 ? "" : "yes";
  }
  async function refresh() {
    await look();
    setTimeout(refresh, Number(document.getElementById("main").dataset.refresh) * 1000);
  }
  function offerPause() {
    const button = document.getElementById("pause");
    const main = document.getElementById("main");
    if (!button || !main.dataset.refresh) return;
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Go on" : "Pause";
    });
    setTimeout(refresh, Number(main.dataset.refresh) * 1000);
    // Who comes back to the page sees it as it is now.
    document.addEventListener("visibilitychange", look);
  }

  document.addEventListener("DOMContentLoaded", () => {
    offerTheme();
    enhance(document);
    offerPause();
    addEventListener("resize", () => reach(document));
    // A form is sent once, however often its button is pressed.
    document.addEventListener("submit", (event) => {
      if (event.target.dataset.sent) event.preventDefault();
      else if (event.target.method === "post") event.target.dataset.sent = "yes";
    });
  });
})();
