// The page: views by their tab, one stream of events for all of them, signing in, light and dark.

import { h, text } from "./dom.js";
import { Refused, get, logIn, logOut } from "./api.js";
import { Stream } from "./stream.js";
import { toast } from "./ui.js";
import * as models from "./models.js";
import * as requests from "./requests.js";
import * as clients from "./clients.js";
import * as deaths from "./deaths.js";
import * as logs from "./logs.js";
import * as config from "./config.js";
import * as chat from "./chat.js";

const KINDS = ["state", "death", "reload", "config_error", "rate_limit", "client_banned", "action"];
const KEPT_EVENTS = 200;
const RETRY_MS = 2000;

const store = { status: null, requests: [], clients: [], events: [] };
const makers = { models, requests, clients, deaths, logs, config, chat };
const views = {};
const main = document.getElementById("view");
const tabs = [...document.querySelectorAll(".tabs a")];
let current = null;
let stream = null;
let retry = 0;
let locked = false;

// ---- views

function chosen() {
  const name = location.hash.slice(1);
  return Object.hasOwn(makers, name) ? name : "models";
}

function show() {
  if (locked) return;
  const name = chosen();
  views[name] ??= makers[name].view(store);
  current?.hide();
  current = views[name];
  main.replaceChildren(current.element);
  for (const tab of tabs) {
    if (tab.hash === `#${name}`) {
      tab.setAttribute("aria-current", "page");
      tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else tab.removeAttribute("aria-current");
  }
  document.title = `${tabs.find((tab) => tab.hash === `#${name}`).textContent} · llmsup`;
  current.show();
}

function update() {
  const { status } = store;
  if (status) {
    text(document.getElementById("version"), status.version);
    const wrong = status.config_error?.message ?? (status.stopping ? "llmsup is stopping" : "") ?? "";
    const banner = document.getElementById("banner");
    banner.hidden = !wrong;
    text(banner, status.config_error ? `The configuration file is wrong, the old one stays in force: ${wrong}` : wrong);
  }
  current?.update();
}

// ---- the stream of events

function live(words, kind) {
  document.getElementById("live").className = `live ${kind}`;
  text(document.getElementById("live-text"), words);
}

function open() {
  close();
  if (locked || document.hidden) return;
  const snapshot = (seen) => {
    Object.assign(store, seen);
    update();
  };
  stream = new Stream(`events?follow=1&snapshots=1&n=${KEPT_EVENTS}`, {
    on: { snapshot, ...Object.fromEntries(KINDS.map((kind) => [kind, remember])) },
    opened: () => live("live", "ok"),
    lost: () => live("reconnecting", "warn"),
    refused: () => {
      close();
      begin(); // which says why
    },
  });
}

function remember(event) {
  if (store.events.some((known) => known.id === event.id)) return;
  store.events = [...store.events.slice(1 - KEPT_EVENTS), event];
  update();
}

function close() {
  stream?.close();
  stream = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));

// ---- signing in

async function begin() {
  try {
    store.status = await get("status");
    unlock();
    open();
    update();
  } catch (error) {
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) lock(error.status === 403 ? error.message : "");
    else {
      live("not reachable", "bad");
      clearTimeout(retry);
      retry = setTimeout(begin, RETRY_MS);
    }
  }
}

function lock(why) {
  close();
  current?.hide();
  current = null;
  locked = true;
  document.body.classList.add("locked");
  document.getElementById("logout").hidden = true;
  live("signed out", "idle");
  const key = h("input", { type: "password", id: "login-key", autocomplete: "current-password", required: true, placeholder: "llmsup_…" });
  const said = h("p", { class: "note bad", role: "alert" }, why);
  const form = h("form", { class: "panel login" },
    h("h1", {}, "Sign in"),
    h("p", { class: "muted" }, "This page is for administrators. It takes an API key with the scope admin; make one with:"),
    h("pre", { class: "output" }, "llmsup keys create NAME --scope admin"),
    h("div", { class: "field" }, h("label", { htmlFor: "login-key" }, "Admin key"), key),
    said,
    h("button", { type: "submit", class: "primary" }, "Sign in"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await logIn(key.value.trim());
      locked = false;
      await begin();
    } catch (error) {
      text(said, error.message);
      key.select();
    }
  });
  main.replaceChildren(form);
  key.focus();
}

function unlock() {
  locked = false;
  document.body.classList.remove("locked");
  document.getElementById("logout").hidden = false;
  if (!current) show();
}

document.getElementById("logout").addEventListener("click", async () => {
  close(); // before the daemon does so
  current?.hide();
  current = null;
  await logOut().catch((error) => toast(error.message, "bad"));
  begin();
});

// ---- light and dark

const THEMES = ["system", "light", "dark"];
const theme = document.getElementById("theme");

function wear(name) {
  document.documentElement.dataset.theme = name;
  theme.replaceChildren(h("span", { class: "wide" }, "Theme: "), name);
  theme.ariaLabel = `Theme: ${name}`;
  theme.title = theme.ariaLabel;
  try {
    localStorage.setItem("llmsup-theme", name);
  } catch {
    // storage may be forbidden; the choice lasts as long as the page then
  }
  for (const view of Object.values(views)) view.repaint?.();
}

function worn() {
  try {
    const name = localStorage.getItem("llmsup-theme");
    return THEMES.includes(name) ? name : "system";
  } catch {
    return "system";
  }
}

theme.addEventListener("click", () => wear(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => wear(document.documentElement.dataset.theme));

// ---- keyboard

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const tab = tabs[Number(event.key) - 1];
  if (tab && !locked) location.hash = tab.hash;
});

addEventListener("hashchange", show);
wear(worn());
begin();
