"""The peers: what homelab's own steps say, in Ansible's words, in pyinfra's, and as a script written by hand."""
