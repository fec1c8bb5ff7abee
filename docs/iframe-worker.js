/* The search of the site when it is opened as files.

Browsers start no Worker from file://. An invisible frame of the page runs the worker's script instead. The theme looks
for the name IFrameWorker. */
"use strict";

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.waiting = [];
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    this.frame.title = "search";
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    inside.importScripts = async (...scripts) => {
      for (const each of scripts) await load(inside.document, each);
    };
    load(inside.document, url).then(() => {
      const messages = this.waiting;
      this.waiting = null;
      messages.forEach((data) => this.postMessage(data));
    });
  }

  postMessage(data) {
    if (this.waiting) {
      this.waiting.push(data);
    } else {
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
  }

  terminate() {
    this.frame.remove();
  }
}

function load(page, url) {
  return new Promise((resolve, reject) => {
    const script = page.createElement("script");
    script.src = url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} was not loaded`));
    page.head.append(script);
  });
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
