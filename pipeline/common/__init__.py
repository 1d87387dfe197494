"""What every room may use: files, JSON, images, and what a phase is given."""
