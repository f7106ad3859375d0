// What all views share: asking before doing, and saying how it went.

import { h, text } from "./dom.js";
import { post } from "./api.js";

export function toast(words, kind = "ok") {
  const note = h("div", { class: `toast ${kind}` }, words);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 9000 : 4000);
}

/** Whether the operator means it. Escape, and everything but the button, is a no. */
export function confirmed(title, words, verb, danger = false) {
  const dialog = document.getElementById("confirm");
  text(document.getElementById("confirm-title"), title);
  text(document.getElementById("confirm-text"), words);
  const yes = document.getElementById("confirm-yes");
  text(yes, verb);
  yes.className = danger ? "danger" : "primary";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

export async function act(question, path, done) {
  if (question && !(await confirmed(...question))) return;
  try {
    const outcome = await post(path);
    toast(typeof done === "function" ? done(outcome) : done);
  } catch (error) {
    toast(error.message, "bad");
  }
}
