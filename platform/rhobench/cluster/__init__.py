"""All that knows Ray: the session, the sweep, the trial, the measuring."""
