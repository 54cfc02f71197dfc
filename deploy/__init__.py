"""What runs winnow in production: images, compose, chart, Prometheus rules with runbooks, Grafana dashboards made by a script."""
