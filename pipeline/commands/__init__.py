"""What `python -m pipeline` can be asked, a module each."""
