"""What a command does with a study: run it, plan it, measure what fits; and the doctor."""
