//! Summaries and pictures of a run: terminal text, SVG, one self-contained HTML file
