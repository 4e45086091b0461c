"""What docker-compose.yml mounts: programs that run inside its containers, and configurations."""
