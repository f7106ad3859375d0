// 7 Chat: a model tried through the port itself, as any client would.

import { h, text } from "./dom.js";

export function view(store) {
  const model = h("select", { "aria-label": "Model" });
  const most = h("input", { type: "number", min: 1, max: 100000, value: 256, id: "most" });
  const heat = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0.7, id: "heat" });
  const key = h("input", { type: "password", id: "key", autocomplete: "off", placeholder: "only where one is required" });
  const said = h("div", { class: "chat", role: "log", "aria-label": "Conversation", "aria-live": "polite" });
  const words = h("textarea", { rows: 2, placeholder: "Say something to the model", "aria-label": "Message" });
  const send = h("button", { type: "submit", class: "primary" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const anew = h("button", { type: "button", class: "quiet" }, "New conversation");
  const hint = h("div", { class: "empty" }, h("p", {}, "Try a model"), h("p", { class: "muted" }, "The message goes through the port, with its limits and its queue. Enter sends, Shift+Enter is a new line."));
  const field = (label, input) => h("div", { class: "field" }, h("label", { htmlFor: input.id }, label), input);
  const form = h("form", { class: "composer" }, words, h("div", { class: "row end" }, stop, send));
  const element = h("div", { class: "stack fill" },
    h("div", { class: "heading" }, h("h1", {}, "Chat"), h("div", { class: "row end" }, model, anew)),
    h("details", { class: "options" }, h("summary", {}, "Options"), h("div", { class: "fields" }, field("At most so many tokens", most), field("Temperature", heat), field("API key", key))),
    h("div", { class: "talk" }, hint, said), form);
  let messages = [];
  let running = null;

  function bubble(role, content) {
    const body = h("div", { class: "words" }, content);
    const foot = h("p", { class: "muted foot" });
    const one = h("div", { class: `turn ${role}` }, h("p", { class: "label" }, role === "user" ? "You" : model.value || "model"), body, foot);
    hint.hidden = true;
    said.append(one);
    one.scrollIntoView({ block: "end" });
    return { one, body, foot };
  }

  async function ask() {
    const content = words.value.trim();
    if (!content || running) return;
    words.value = "";
    messages.push({ role: "user", content });
    bubble("user", content);
    const { one, body, foot } = bubble("assistant", "");
    one.classList.add("waiting");
    running = new AbortController();
    stop.hidden = false;
    send.disabled = true;
    const begun = performance.now();
    let first = 0;
    let answer = "";
    let count = 0;
    try {
      for await (const event of streamed(running.signal)) {
        const delta = event.choices?.[0]?.delta ?? {};
        const piece = (delta.reasoning_content ?? "") + (delta.content ?? "");
        if (event.usage) count = event.usage.completion_tokens;
        if (!piece) continue;
        first ||= performance.now();
        one.classList.remove("waiting");
        answer += piece;
        text(body, answer);
        one.scrollIntoView({ block: "end" });
      }
      messages.push({ role: "assistant", content: answer });
      const seconds = (performance.now() - first) / 1000;
      text(foot, first ? `first word after ${Math.round(first - begun)} ms${count > 1 ? `, ${count} tokens, ${(count / Math.max(seconds, 0.001)).toFixed(1)} tokens/s` : ""}` : "an empty answer");
    } catch (error) {
      one.classList.add(error.name === "AbortError" ? "stopped" : "failed");
      text(foot, error.name === "AbortError" ? "stopped" : error.message);
      if (answer) messages.push({ role: "assistant", content: answer });
      else messages.pop();
    } finally {
      one.classList.remove("waiting");
      running = null;
      stop.hidden = true;
      send.disabled = false;
      words.focus();
    }
  }

  async function* streamed(signal) {
    const body = { model: model.value, messages, stream: true, stream_options: { include_usage: true }, max_tokens: Number(most.value) || 256, temperature: Number(heat.value) };
    const headers = { "content-type": "application/json" };
    if (key.value) headers.authorization = `Bearer ${key.value}`;
    const response = await fetch("../v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal, credentials: "omit" });
    if (!response.ok) {
      const told = await response.json().catch(() => ({}));
      throw new Error(told?.error?.message ?? `HTTP ${response.status}`);
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  });
  stop.addEventListener("click", () => running?.abort());
  anew.addEventListener("click", () => {
    running?.abort();
    messages = [];
    said.replaceChildren();
    hint.hidden = false;
    words.focus();
  });

  function update() {
    const names = (store.status?.models ?? []).map((one) => one.name);
    if ([...model.options].map((option) => option.value).join() === names.join()) return;
    const chosen = model.value;
    model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(chosen)) model.value = chosen;
  }
  return { element, update, show() { update(); words.focus({ preventScroll: true }); }, hide() {} };
}
