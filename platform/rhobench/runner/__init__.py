"""Actions of the commands on a study: run it, plan it, find what fits in memory; and the doctor."""
