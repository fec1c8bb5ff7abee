"""What is known of a run before it starts: its images, the cost of its model, and whether it can work at all."""
