"""The peers: homelab's steps as Ansible's tasks, as pyinfra's operations, and as a hand-written script."""
