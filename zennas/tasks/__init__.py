"""What a network is for: one folder a task, and the table that names them."""
