"""Draws a dashboard from answers of a Prometheus, as HTML and SVG: for pictures in the docs, and to look at without Grafana."""
