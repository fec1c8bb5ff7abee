/* Wide tables scroll inside frames that the theme adds while it starts; the keyboard reaches them as well. */
"use strict";

const reachable = () => {
  for (const frame of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    frame.tabIndex = 0;
  }
};
new MutationObserver(reachable).observe(document.body, { childList: true, subtree: true });
reachable();
