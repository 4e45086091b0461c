"""Dashboards for Grafana: written by `dashboards.builder`, committed beside it as JSON, and drawn from real data by `dashboards.draw`."""
