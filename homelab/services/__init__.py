"""The services: homelab's own, one module each, and the registry of all."""
