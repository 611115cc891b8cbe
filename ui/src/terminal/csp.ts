// xterm.js under a content security policy without 'unsafe-inline' for styles.
//
// Its DOM renderer puts CSS into the page in two ways that such a policy refuses: the text of `<style>` elements (theme, sizes, scroll
// bar), and `setAttribute('style', …)` on the spans of true-colour text. Both have a twin in the CSSOM that is allowed, so each is led
// there. `test/pages.mjs` shows that no violation is left, and that the colours arrive.

/**
 * Runs `open` (all of xterm's `<style>` elements are made while it opens) with a `document.createElement` that makes stand-ins for them.
 * Its option `documentOverride` would reach only two of the three.
 */
export function withoutStyleElements(open: () => void): void {
  document.createElement = function createElement(tag: string, options?: ElementCreationOptions): HTMLElement {
    return tag === 'style' ? styleStandIn() : Document.prototype.createElement.call(document, tag, options);
  };
  try {
    open();
  } finally {
    // What is left is the prototype's own.
    Reflect.deleteProperty(document, 'createElement');
  }
}

/** An element that shows nothing, whose text is a constructed style sheet of the document until it is removed. */
function styleStandIn(): HTMLElement {
  const sheet = new CSSStyleSheet();
  // A `<style>` would be refused even while it is empty.
  const element = Document.prototype.createElement.call(document, 'template');
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  let text = '';
  Object.defineProperty(element, 'textContent', {
    get: () => text,
    set: (css: string) => {
      text = css;
      sheet.replaceSync(css);
    },
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

/** The row factory makes its spans with the global document, so the attribute is led to the CSSOM for every span. */
export function allowSpanStyles(): void {
  if (Object.hasOwn(HTMLSpanElement.prototype, 'setAttribute')) return;
  HTMLSpanElement.prototype.setAttribute = function setAttribute(name: string, value: string): void {
    if (name === 'style') this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}
