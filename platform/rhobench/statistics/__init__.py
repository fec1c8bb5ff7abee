"""Statistics of accuracies and times: intervals, differences, fronts with their uncertainty, and what a sweep shows."""
