"""The builder of the dashboards: plain dicts, written as JSON by `make dashboards`, the same bytes every time."""
