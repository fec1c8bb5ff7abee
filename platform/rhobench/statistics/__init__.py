"""Statistics of accuracies: intervals, differences, fronts with their uncertainty, and what a sweep can show."""
