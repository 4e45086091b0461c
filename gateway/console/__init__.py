"""The console: pages on the admin port for people without Grafana. They show what the admin API answers, and nothing else."""
