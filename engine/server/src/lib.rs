//! The HTTP side of the engine: runner API, artifacts, web page
