// Server-sent events over fetch: an EventSource cannot send the page's token. Opened again when it ends, from where it was.

import { Refused, answer, ask } from "./api.js";

const AGAIN_MS = 2000;

export class Stream {
  /** `on`: functions by kind of event, given its data; `opened`, `lost`, and `refused` when it may not be asked. */
  constructor(path, { on, opened = () => {}, lost = () => {}, refused = () => {} }) {
    Object.assign(this, { path, on, opened, lost, refused });
    this.last = "";
    this.timer = 0;
    this.leaving = new AbortController();
    this.#go();
  }

  close() {
    clearTimeout(this.timer);
    this.leaving.abort();
  }

  async #go() {
    try {
      await this.#read();
    } catch (error) {
      if (this.leaving.signal.aborted) return;
      if (error instanceof Refused && error.status < 500) {
        this.refused(error);
        return;
      }
    }
    if (this.leaving.signal.aborted) return;
    this.lost();
    this.timer = setTimeout(() => this.#go(), AGAIN_MS);
  }

  async #read() {
    const headers = { accept: "text/event-stream" };
    if (this.last) headers["last-event-id"] = this.last;
    const response = await ask(this.path, { headers, signal: this.leaving.signal });
    if (!response.ok) await answer(response);
    this.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) this.#tell(block);
    }
  }

  #tell(block) {
    let kind = "message";
    let data = "";
    for (const line of block.split("\n")) {
      const at = line.indexOf(": ");
      const [name, value] = at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 2)];
      if (name === "event") kind = value;
      else if (name === "data") data += value;
      else if (name === "id") this.last = value;
    }
    if (data) this.on[kind]?.(JSON.parse(data));
  }
}
