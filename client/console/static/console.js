// Keys, messages and where the focus goes; all else is htmx.
"use strict";
const message = text => { document.getElementById("message").textContent = text; };
const typing = target => target.matches("input:not([type]), input[type=text], textarea, select");

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const form = document.querySelector("#product form");
  if (!form) return;
  if (typing(event.target)) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.key === "Enter" && !event.target.closest("button, a")) {
    event.preventDefault();
    form.requestSubmit();
    return;
  }
  const task = document.activeElement.closest("fieldset") || form.querySelector("fieldset:has([autofocus])") || form;
  const control = [task, form].map(place => place.querySelector(`[data-key="${CSS.escape(event.key)}"]`)).find(Boolean);
  if (!control || control.disabled) return;
  event.preventDefault();
  if (typing(control)) { control.focus(); return; }
  control.click();
  if (control.type !== "radio") return;
  const next = task.nextElementSibling;
  focusOn(next && next.matches("fieldset") ? next : task);
});

function focusOn(task) {
  const control = task.querySelector("input:checked") || task.querySelector("input");
  if (control) control.focus();
}

// "Nobody can tell" and labels exclude each other where several may be chosen.
document.addEventListener("change", event => {
  const task = event.target.closest("fieldset[data-kind=checkbox]");
  if (!task || !event.target.checked) return;
  for (const box of task.querySelectorAll("input[type=checkbox]")) {
    if ((box.value === "untold") !== (event.target.value === "untold")) box.checked = false;
  }
});

// A label that is typed takes the place of the one that was chosen, and the other way round.
document.addEventListener("input", event => {
  const task = event.target.closest("fieldset[data-kind=radio]");
  if (!task) return;
  if (event.target.type === "radio") { for (const field of task.querySelectorAll("input[list]")) field.value = ""; }
  else if (event.target.value) { for (const radio of task.querySelectorAll("input[type=radio]")) radio.checked = false; }
});

document.addEventListener("change", event => {
  if (event.target.matches(".name input")) event.target.form.requestSubmit();
});
document.addEventListener("htmx:afterSettle", event => {
  const section = document.getElementById("product");
  if (section && event.target.id !== "answer") message(section.dataset.done || "");
});
document.addEventListener("htmx:responseError", event => message(event.detail.xhr.responseText));
document.addEventListener("htmx:sendError", () => message("the console does not answer: nothing of this product was saved; press Enter again when it is back"));
