"""What a training step costs on this machine, by batch size and ratio."""
