"""HTTP, live events for browsers, and the page. Empty until its own issue; imports models, stores, and workers."""
