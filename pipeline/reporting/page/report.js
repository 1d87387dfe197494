"use strict";
(() => {
  const tip = document.getElementById("tip");
  let touched = null;
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x - box.width / 2, innerWidth - box.width - 4)) + "px";
    tip.style.top = (y - box.height - 14 < 4 ? y + 18 : y - box.height - 14) + "px";
  };
  const hide = () => { tip.hidden = true; };
  // The browser's own tip would stand beside this one.
  for (const title of document.querySelectorAll("[data-tip] > title")) title.remove();
  for (const mark of document.querySelectorAll("[data-tip][title]")) mark.removeAttribute("title");
  for (const mark of document.querySelectorAll("a[data-tip]")) mark.setAttribute("aria-label", mark.dataset.tip);
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (!mark) return hide();
    const box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.top);
  });
  // A finger cannot hover: its first tap says what a mark is, its second follows it.
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (!mark || event.pointerType !== "touch") return;
    if (touched !== mark) event.preventDefault();
    touched = mark;
    show(mark, event.clientX, event.clientY);
  });
  addEventListener("scroll", hide, { passive: true });

  const open = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place) return;
    place.hidden = false;
    for (let around = place; around; around = around.parentElement) if (around.tagName === "DETAILS") around.open = true;
    // In the middle, with what stands around it; what is higher than the window, from its start.
    const fits = place.tagName !== "SECTION" && place.getBoundingClientRect().height < innerHeight;
    place.scrollIntoView({ block: fits ? "center" : "start" });
  };
  addEventListener("hashchange", open);
  open();

  const buttons = [...document.querySelectorAll("[data-verdict]")];
  for (const button of buttons) button.addEventListener("click", () => {
    const chosen = button.getAttribute("aria-pressed") !== "true";
    for (const other of buttons) other.setAttribute("aria-pressed", other === button && chosen);
    for (const claim of document.querySelectorAll(".claim")) claim.hidden = chosen && claim.dataset.kind !== button.dataset.verdict;
  });

  const find = document.getElementById("find");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const item of document.querySelectorAll(".subject, .job")) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  });
})();
