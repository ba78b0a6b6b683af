// Browsers refuse to start workers from the file system; an invisible frame stands in for one there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      const load = (source) => new Promise((done) => {
        const script = inside.document.createElement("script")
        script.src = new URL(source, document.baseURI)
        script.onload = done
        inside.document.body.append(script)
      })
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data: structuredClone(data) })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      inside.importScripts = (...sources) => Promise.all(sources.map(load))
      this.inside = inside
      this.ready = load(url)
    }
    async postMessage(data) {
      const copy = structuredClone(data)
      await this.ready
      this.inside.dispatchEvent(new MessageEvent("message", { data: copy }))
    }
    terminate() {
      this.inside.frameElement.remove()
    }
  }
}
